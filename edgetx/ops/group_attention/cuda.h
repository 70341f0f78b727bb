// GroupAttention on an NVIDIA GPU: triton_kernel.py's kernels, compiled ahead of time, with no engine in sight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "edgetx/ops/group_attention/attributes.h"
#include "edgetx/ops/native/cuda/launch.h"

namespace edgetx::group_attention {

// Pointers to the device's memory; q, k, v and output are of one dtype. The workspace has WorkspaceBytes.
struct GpuTensors {
  DType dtype = DType::kFloat32;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* groups = nullptr;
  const void* inverse = nullptr;
  void* output = nullptr;
  void* workspace = nullptr;
};

// What the archive must hold for q and v of so many channels.
cuda::Need KernelNeed(const Attributes& attributes, DType dtype, int64_t q_channels, int64_t v_channels);

// The chains of tokens: one number per slot and one per token.
size_t WorkspaceBytes(int64_t tokens, int64_t groups, int64_t slots);

// Enqueues the kernels. Attributes are valid, shapes fit; indices are not looked at, that would make the host wait.
// `tile` is the number of a tile, 0 for the rule's.
Status Launch(const Attributes& attributes, const Shapes& shapes, const GpuTensors& tensors, int32_t tile,
              cuda::Stream stream);

}  // namespace edgetx::group_attention
