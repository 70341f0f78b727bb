// The element types that kernels read and write; all of them compute in float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgetx {

enum class DType { kFloat32, kFloat16, kBFloat16 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

inline float FloatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float FromBFloat16(uint16_t half) { return FloatFromBits(static_cast<uint32_t>(half) << 16); }

// Exact for every float16 value, subnormals, infinities and NaN included.
inline float FromFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t biased = exponent == 31 ? 255 : exponent + 112;
  return FloatFromBits(sign | (biased << 23) | (mantissa << 13));
}

// `count` elements of `dtype` at `from`, as float32 at `to`.
inline void ToFloat32(DType dtype, const void* from, size_t count, float* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  const auto* halves = static_cast<const uint16_t*>(from);
  for (size_t i = 0; i < count; ++i) {
    to[i] = dtype == DType::kFloat16 ? FromFloat16(halves[i]) : FromBFloat16(halves[i]);
  }
}

}  // namespace edgetx
