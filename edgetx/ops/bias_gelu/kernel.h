// BiasGelu on the CPU, with no engine in sight. README.md beside this file defines the operator.
//
//   v = x + bias        y = v · ½ · (1 + erf(v / √2))
#pragma once

#include <cstdint>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"

namespace edgetx::bias_gelu {

// `x` and `y` hold rows of `channels` elements of `dtype`.
struct Call {
  DType dtype = DType::kFloat32;
  int64_t channels = 0;
  const void* x = nullptr;
  const float* bias = nullptr;
  void* y = nullptr;
};

// Computes rows [begin, end).
using RunFunction = void (*)(const Call&, int64_t begin, int64_t end);

// The implementation for the highest compiled instruction set that `level` includes.
RunFunction SelectRun(CpuLevel level);

}  // namespace edgetx::bias_gelu
