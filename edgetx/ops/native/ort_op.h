// ONNX Runtime's table of functions for an operator whose tensors all have one element type and must all be
// there, and a loop over rows on its threads.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/ort.h"
#include "edgetx/ops/native/rows.h"

namespace edgetx::ort {

// `Definition` has kName, kInputs (an array of names), kOutputs, and
//   Status Read(const OrtKernelInfo*)                                 the node's attributes
//   Status Compute(DType, CpuLevel, const Inputs&, OrtKernelContext*) const
template <class Definition, DType kDType>
struct Op : OrtCustomOp {
  using Inputs = std::array<Tensor, Definition::kInputs.size()>;

  struct Kernel {
    Definition definition;
    CpuLevel level;
  };

  Op() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](const OrtCustomOp*) { return Definition::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Definition::kInputs.size(); };
    GetInputType = [](const OrtCustomOp*, size_t) { return ToOnnx(kDType); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Definition::kOutputs; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return ToOnnx(kDType); };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return Guard([&]() -> Status {
        auto created = std::make_unique<Kernel>();
        if (Status status = DetectCpuLevel(&created->level); !status.ok()) return status;
        if (Status status = created->definition.Read(info); !status.ok()) return status;
        *kernel = created.release();
        return {};
      });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return Guard([&]() -> Status {
        Inputs inputs;
        for (size_t i = 0; i < inputs.size(); ++i) {
          std::optional<Tensor> input;
          if (Status status = Input(context, i, &input); !status.ok()) return status;
          if (!input) {
            return Status::Error(std::string(Definition::kName) + ": input " + Definition::kInputs[i] + " is missing");
          }
          inputs[i] = std::move(*input);
        }
        const auto& [definition, level] = *static_cast<const Kernel*>(kernel);
        return definition.Compute(kDType, level, inputs, context);
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
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

// A vector as float32, converted if it has another type.
class Float32Vector {
 public:
  Float32Vector(DType dtype, const Tensor& tensor) : data_(static_cast<const float*>(tensor.data)) {
    if (dtype == DType::kFloat32) return;
    storage_.resize(static_cast<size_t>(tensor.shape[0]));
    ToFloat32(dtype, tensor.data, storage_.size(), storage_.data());
    data_ = storage_.data();
  }
  Float32Vector(const Float32Vector&) = delete;
  Float32Vector& operator=(const Float32Vector&) = delete;
  const float* data() const { return data_; }

 private:
  std::vector<float> storage_;
  const float* data_;
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
