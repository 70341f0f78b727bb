// The vector code of WindowAttention, compiled once per instruction set.
//
// One item is a window and a head. Its q, k and v are gathered from NHWC into memory that stays in the
// first- or second-level cache (Swin: 49 tokens of 32 channels, 20 KB), with roll, padding and partition in
// the addresses. Keys are transposed into panels of kPanel vectors of keys, so that
//
//   logits[r, keys] += q[r, c] · panel[c, keys]      kMaxRows queries x kPanel vectors in registers
//   result[r, dv]   += p[r, j] · v[j, dv]            the same blocking, channels as lanes
//
// run at one multiply-add per lane and cycle with few loads: 10 loads feed 24 multiply-adds with 32 registers,
// 8 feed 12 with 16. The softmax runs on the block's rows in between, while they are in the first-level cache;
// its sum divides the result, not the probabilities. Keys past Nk pad the last vector: they get probability 0.

#include "edgetx/ops/window_attention/simd.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/window_attention/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::window_attention {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, kMaxLanes>;
using Vec = hn::Vec<F>;
constexpr size_t kLanes = HWY_MIN(hn::MaxLanes(F()), kMaxLanes);
constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64;
constexpr size_t kPanel = kManyRegisters ? 4 : 2;

constexpr size_t Vectors(size_t count) { return (count + kLanes - 1) / kLanes; }

// ---- rows of any element type, from and to float32

HWY_INLINE Vec LoadRow(const float* from) { return hn::LoadU(F(), from); }
HWY_INLINE Vec LoadRow(const float* from, size_t count) { return hn::LoadN(F(), from, count); }
HWY_INLINE void StoreRow(Vec row, float* to) { hn::StoreU(row, F(), to); }
HWY_INLINE void StoreRow(Vec row, float* to, size_t count) { hn::StoreN(row, F(), to, count); }

template <class T>
HWY_INLINE Vec LoadRow(const T* from) {
  return hn::PromoteTo(F(), hn::LoadU(hn::Rebind<T, F>(), from));
}
template <class T>
HWY_INLINE Vec LoadRow(const T* from, size_t count) {
  return hn::PromoteTo(F(), hn::LoadN(hn::Rebind<T, F>(), from, count));
}
template <class T>
HWY_INLINE void StoreRow(Vec row, T* to) {
  const hn::Rebind<T, F> half;
  hn::StoreU(hn::DemoteTo(half, row), half, to);
}
template <class T>
HWY_INLINE void StoreRow(Vec row, T* to, size_t count) {
  const hn::Rebind<T, F> half;
  hn::StoreN(hn::DemoteTo(half, row), half, to, count);
}

// `count` elements times `factor`; writes whole vectors, zeros past `count`.
template <class T>
HWY_INLINE void CopyRow(const T* from, size_t count, float factor, float* HWY_RESTRICT to) {
  const Vec f = hn::Set(F(), factor);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::Mul(LoadRow(from + i), f), F(), to + i);
  if (i < count) hn::StoreU(hn::Mul(LoadRow(from + i, count - i), f), F(), to + i);
}

HWY_INLINE void ZeroRow(size_t count, float* HWY_RESTRICT to) {
  for (size_t i = 0; i < count; i += kLanes) hn::StoreU(hn::Zero(F()), F(), to + i);
}

// max(norm, 1e-12), as torch.nn.functional.normalize.
template <class T>
HWY_INLINE float Norm(const T* from, size_t count) {
  Vec sum = hn::Zero(F());
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec row = LoadRow(from + i);
    sum = hn::MulAdd(row, row, sum);
  }
  if (i < count) {
    const Vec row = LoadRow(from + i, count - i);
    sum = hn::MulAdd(row, row, sum);
  }
  const float squares = hn::ReduceSum(F(), sum);
  return std::max(hn::GetLane(hn::Sqrt(hn::Set(F(), squares))), 1e-12f);
}

// ---- the two matrix products

// s[r, keys] = q[r, :] · panel[:, keys] for R queries and V vectors of keys.
template <size_t R, size_t V>
void Dot(const float* HWY_RESTRICT q, size_t d, const float* HWY_RESTRICT panel, float* HWY_RESTRICT s,
         size_t s_stride) {
  const F f;
  Vec sum[R][V];
  HWY_UNROLL(kMaxRows)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::Zero(f);
  }
  for (size_t c = 0; c < d; ++c) {
    Vec keys[V];
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) keys[v] = hn::Load(f, panel + (c * V + v) * kLanes);
    HWY_UNROLL(kMaxRows)
    for (size_t r = 0; r < R; ++r) {
      const Vec query = hn::Set(f, q[r * d + c]);
      HWY_UNROLL(kPanel)
      for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(query, keys[v], sum[r][v]);
    }
  }
  HWY_UNROLL(kMaxRows)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) hn::Store(sum[r][v], f, s + r * s_stride + v * kLanes);
  }
}

// out[r, dv] = factor[r] · p[r, :] · values[:, dv] for R queries and V vectors of channels.
template <size_t R, size_t V>
void Mix(const float* HWY_RESTRICT p, size_t p_stride, const float* HWY_RESTRICT values, size_t stride,
         size_t tokens, const float* HWY_RESTRICT factor, float* HWY_RESTRICT out) {
  const F f;
  Vec sum[R][V];
  HWY_UNROLL(kMaxRows)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::Zero(f);
  }
  for (size_t j = 0; j < tokens; ++j) {
    Vec row[V];
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) row[v] = hn::Load(f, values + j * stride + v * kLanes);
    HWY_UNROLL(kMaxRows)
    for (size_t r = 0; r < R; ++r) {
      const Vec weight = hn::Set(f, p[r * p_stride + j]);
      HWY_UNROLL(kPanel)
      for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(weight, row[v], sum[r][v]);
    }
  }
  HWY_UNROLL(kMaxRows)
  for (size_t r = 0; r < R; ++r) {
    const Vec scale = hn::Set(f, factor[r]);
    HWY_UNROLL(kPanel)
    for (size_t v = 0; v < V; ++v) hn::Store(hn::Mul(sum[r][v], scale), f, out + r * stride + v * kLanes);
  }
}

// A function per number of rows and of vectors.
template <template <size_t, size_t> class Wrap, size_t R>
HWY_INLINE auto PickVectors(size_t vectors) {
  if constexpr (kPanel == 4) {
    if (vectors == 4) return &Wrap<R, 4>::Run;
    if (vectors == 3) return &Wrap<R, 3>::Run;
  }
  return vectors == 2 ? &Wrap<R, 2>::Run : &Wrap<R, 1>::Run;
}
template <template <size_t, size_t> class Wrap>
HWY_INLINE auto Pick(size_t rows, size_t vectors) {
  switch (rows) {
    case 6:
      return PickVectors<Wrap, 6>(vectors);
    case 5:
      return PickVectors<Wrap, 5>(vectors);
    case 4:
      return PickVectors<Wrap, 4>(vectors);
    case 3:
      return PickVectors<Wrap, 3>(vectors);
    case 2:
      return PickVectors<Wrap, 2>(vectors);
    default:
      return PickVectors<Wrap, 1>(vectors);
  }
}
template <size_t R, size_t V>
struct WrapDot {
  static constexpr auto Run = Dot<R, V>;
};
template <size_t R, size_t V>
struct WrapMix {
  static constexpr auto Run = Mix<R, V>;
};

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::window_attention
HWY_AFTER_NAMESPACE();
