// WindowAttention on an NVIDIA GPU: triton_kernel.py's kernel, compiled ahead of time, with no engine in sight.
#pragma once

#include <cstdint>

#include "edgetx/ops/native/cuda/launch.h"
#include "edgetx/ops/window_attention/attributes.h"

namespace edgetx::window_attention {

// Pointers to the device's memory; all tensors are of one dtype, what is absent is null.
struct GpuTensors {
  DType dtype = DType::kFloat32;
  const void* qkv = nullptr;
  const void* bias = nullptr;
  const void* head_scale = nullptr;
  const void* pad_value = nullptr;
  void* output = nullptr;
};

// What the archive must hold for qkv of so many channels.
cuda::Need KernelNeed(const Attributes& attributes, DType dtype, int64_t channels);

// Enqueues the kernel. Attributes are valid, shapes fit. `tile` is the number of a tile, 0 for the rule's.
Status Launch(const Attributes& attributes, const Shape& qkv, const GpuTensors& tensors, int32_t tile,
              cuda::Stream stream);

}  // namespace edgetx::window_attention
