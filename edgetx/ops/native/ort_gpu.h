// ONNX Runtime's table of functions for an operator of its CUDA provider, over the kernels compiled ahead of time.
#pragma once

#include <array>
#include <memory>

#include "edgetx/ops/native/cuda/launch.h"
#include "edgetx/ops/native/ort_op.h"

namespace edgetx::ort {

// See ort_op.h for what `Definition` has.
template <class Definition, DType kDType>
struct GpuOp : Description<Definition, kDType> {
  GpuOp() {
    this->GetExecutionProviderType = [](const OrtCustomOp*) { return "CUDAExecutionProvider"; };
    this->CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return Guard([&]() -> Status {
        auto created = std::make_unique<Definition>();
        if (Status status = created->Read(info); !status.ok()) return status;
        *kernel = created.release();
        return {};
      });
    };
    this->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return Guard([&]() -> Status {
        InputsOf<Definition> inputs;
        if (Status status = ReadInputs<Definition>(context, &inputs); !status.ok()) return status;
        void* stream = nullptr;
        Status status = FromOrt(Api().KernelContext_GetGPUComputeStream(context, &stream));
        if (!status.ok()) return status;
        return static_cast<const Definition*>(kernel)->Enqueue(kDType, inputs, context,
                                                               static_cast<cuda::Stream>(stream));
      });
    };
    this->KernelDestroy = [](void* kernel) { delete static_cast<Definition*>(kernel); };
  }
};

template <class Definition>
std::array<const OrtCustomOp*, 3> GpuOpsOf() {
  static const GpuOp<Definition, DType::kFloat32> float32;
  static const GpuOp<Definition, DType::kFloat16> float16;
  static const GpuOp<Definition, DType::kBFloat16> bfloat16;
  return {&float32, &float16, &bfloat16};
}

// Memory of the device that input `index` lies on, until the operator's work is done.
inline Status Scratch(const OrtKernelContext* context, size_t index, size_t bytes, void** data) {
  const OrtValue* value = nullptr;
  if (Status status = FromOrt(Api().KernelContext_GetInput(context, index, &value)); !status.ok()) return status;
  const OrtMemoryInfo* where = nullptr;
  if (Status status = FromOrt(Api().GetTensorMemoryInfo(value, &where)); !status.ok()) return status;
  return FromOrt(Api().KernelContext_GetScratchBuffer(context, where, bytes, data));
}

}  // namespace edgetx::ort
