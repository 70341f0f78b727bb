// Which of a kernel's instruction sets runs on this machine.
#pragma once

#include "edgetx/ops/native/status.h"

namespace edgetx {

// Ordered: a higher level includes the lower ones. On Arm everything is the baseline (NEON).
enum class CpuLevel { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best level of this machine, capped by the environment variable EDGETX_CPU=baseline|avx2|avx512.
// Fails if the variable holds another word.
Status DetectCpuLevel(CpuLevel* level);

}  // namespace edgetx
