#include "edgetx/ops/native/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace edgetx {
namespace {

CpuLevel Best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // What Highway's targets AVX2 and AVX3 may use, as this library is built.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
      !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("f16c")) {
    return CpuLevel::kBaseline;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd")) {
    return CpuLevel::kAvx2;
  }
  return CpuLevel::kAvx512;
#else
  return CpuLevel::kBaseline;
#endif
}

}  // namespace

Status DetectCpuLevel(CpuLevel* level) {
  *level = Best();
  const char* variable = std::getenv("EDGETX_CPU");
  if (variable == nullptr || *variable == '\0') return {};
  const std::string_view cap(variable);
  if (cap == "baseline") {
    *level = CpuLevel::kBaseline;
  } else if (cap == "avx2") {
    *level = std::min(*level, CpuLevel::kAvx2);
  } else if (cap != "avx512") {
    return Status::Error("EDGETX_CPU is '" + std::string(cap) + "'; accepted: baseline, avx2, avx512");
  }
  return {};
}

}  // namespace edgetx
