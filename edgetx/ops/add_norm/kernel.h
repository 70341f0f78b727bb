// AddNorm and NormAdd on the CPU, with no engine in sight. README.md beside this file defines them.
//
//   AddNorm  sum = x + (branch + bias)        norm = LayerNorm(sum)
//   NormAdd  out = x + LayerNorm(branch + bias)
#pragma once

#include <cstddef>
#include <cstdint>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"

namespace edgetx::add_norm {

enum class Order { kAddNorm, kNormAdd };

// `x`, `branch`, `sum` and `out` hold rows of `channels` elements of `dtype`.
struct Call {
  Order order = Order::kAddNorm;
  DType dtype = DType::kFloat32;
  float epsilon = 0.0f;
  int64_t channels = 0;
  const void* x = nullptr;
  const void* branch = nullptr;
  const float* bias = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  void* sum = nullptr;  // AddNorm only
  void* out = nullptr;  // AddNorm: norm
};

// Working memory of one `RunFunction` call, to be aligned to 64 bytes.
size_t ScratchBytes(int64_t channels);

// Computes rows [begin, end). No other thread may use `scratch`.
using RunFunction = void (*)(const Call&, int64_t begin, int64_t end, std::byte* scratch);

// The implementation for the highest compiled instruction set that `level` includes.
RunFunction SelectRun(CpuLevel level);

}  // namespace edgetx::add_norm
