// Which of a kernel's instruction sets runs; to be included after Highway.
#pragma once

#include "edgetx/ops/native/cpu.h"
#include "hwy/highway.h"

#if HWY_TARGETS & HWY_AVX3
#define EDGETX_RETURN_RUN_AVX512(level) \
  if (level >= CpuLevel::kAvx512) return &N_AVX3::Run;
#else
#define EDGETX_RETURN_RUN_AVX512(level)
#endif
#if HWY_TARGETS & HWY_AVX2
#define EDGETX_RETURN_RUN_AVX2(level) \
  if (level >= CpuLevel::kAvx2) return &N_AVX2::Run;
#else
#define EDGETX_RETURN_RUN_AVX2(level)
#endif

// Defines RunFunction SelectRun(CpuLevel): `Run` for the highest compiled instruction set that the level includes.
// To be used once, in the namespace that the targets' namespaces lie in.
#define EDGETX_DEFINE_SELECT_RUN()                            \
  RunFunction SelectRun([[maybe_unused]] CpuLevel level) {    \
    EDGETX_RETURN_RUN_AVX512(level)                           \
    EDGETX_RETURN_RUN_AVX2(level)                             \
    return &HWY_NAMESPACE::Run;                               \
  }
