// ONNX Runtime's table of functions for an operator, and a loop over rows on its threads.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/ort.h"
#include "edgetx/ops/native/rows.h"

namespace edgetx::ort {

// An input of an operator, of the operator's element type unless it says another.
struct Slot {
  const char* name;
  bool optional = false;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

// `Definition` has kName, kInputs (an array of Slot, optional ones last), kOutputs, and
//   Status Read(const OrtKernelInfo*)                                 the node's attributes
//   Status Compute(DType, CpuLevel, const Inputs&, OrtKernelContext*) const
//
// and, for `GpuOp` of ort_gpu.h,
//   Status Enqueue(DType, const Inputs&, OrtKernelContext*, cuda::Stream) const
template <class Definition>
using InputsOf = std::array<std::optional<Tensor>, Definition::kInputs.size()>;

// What ONNX Runtime asks of an operator before it makes a kernel.
template <class Definition, DType kDType>
struct Description : OrtCustomOp {
  Description() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](const OrtCustomOp*) { return Definition::kName; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Definition::kInputs.size(); };
    GetInputType = [](const OrtCustomOp*, size_t index) {
      const ONNXTensorElementDataType type = Definition::kInputs[index].type;
      return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ? ToOnnx(kDType) : type;
    };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return Definition::kInputs[index].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Definition::kOutputs; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return ToOnnx(kDType); };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
  }
};

template <class Definition>
Status ReadInputs(const OrtKernelContext* context, InputsOf<Definition>* inputs) {
  for (size_t i = 0; i < inputs->size(); ++i) {
    if (Status status = Input(context, i, &(*inputs)[i]); !status.ok()) return status;
    const Slot& slot = Definition::kInputs[i];
    if (!(*inputs)[i] && !slot.optional) {
      return Status::Error(std::string(Definition::kName) + ": input " + slot.name + " is missing");
    }
  }
  return {};
}

template <class Definition, DType kDType>
struct Op : Description<Definition, kDType> {
  struct Kernel {
    Definition definition;
    CpuLevel level;
  };

  Op() {
    this->GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    this->CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return Guard([&]() -> Status {
        auto created = std::make_unique<Kernel>();
        if (Status status = DetectCpuLevel(&created->level); !status.ok()) return status;
        if (Status status = created->definition.Read(info); !status.ok()) return status;
        *kernel = created.release();
        return {};
      });
    };
    this->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return Guard([&]() -> Status {
        InputsOf<Definition> inputs;
        if (Status status = ReadInputs<Definition>(context, &inputs); !status.ok()) return status;
        const auto& [definition, level] = *static_cast<const Kernel*>(kernel);
        return definition.Compute(kDType, level, inputs, context);
      });
    };
    this->KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

// One operator per element type; they live as long as the library.
template <class Definition>
std::array<const OrtCustomOp*, 3> CustomOpsOf() {
  static const Op<Definition, DType::kFloat32> float32;
  static const Op<Definition, DType::kFloat16> float16;
  static const Op<Definition, DType::kBFloat16> bfloat16;
  return {&float32, &float16, &bfloat16};
}

// An input as float32, converted if it has another type; null if it is absent.
class Float32Input {
 public:
  Float32Input(DType dtype, const std::optional<Tensor>& tensor) {
    if (!tensor) return;
    data_ = static_cast<const float*>(tensor->data);
    if (dtype == DType::kFloat32) return;
    size_t count = 1;
    for (const int64_t size : tensor->shape) count *= static_cast<size_t>(size);
    storage_.resize(count);
    ToFloat32(dtype, tensor->data, count, storage_.data());
    data_ = storage_.data();
  }
  Float32Input(const Float32Input&) = delete;
  Float32Input& operator=(const Float32Input&) = delete;
  const float* data() const { return data_; }

 private:
  std::vector<float> storage_;
  const float* data_ = nullptr;
};

// Calls `run(begin, end)` on ranges that make up [0, rows).
template <class Body>
Status ParallelForRows(const OrtKernelContext* context, int64_t rows, int64_t bytes_per_row, const Body& run) {
  class Ranges : public ParallelBody {
   public:
    Ranges(int64_t rows, int64_t tasks, const Body& run) : rows_(rows), tasks_(tasks), run_(run) {}
    Status Run(size_t index) override {
      const auto i = static_cast<int64_t>(index);
      run_(rows_ * i / tasks_, rows_ * (i + 1) / tasks_);
      return {};
    }

   private:
    const int64_t rows_;
    const int64_t tasks_;
    const Body& run_;
  };
  const int64_t tasks = CountTasks(rows, bytes_per_row);
  if (tasks == 0) return {};
  Ranges ranges(rows, tasks, run);
  return ParallelFor(context, static_cast<size_t>(tasks), &ranges);
}

}  // namespace edgetx::ort
