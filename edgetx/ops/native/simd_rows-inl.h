// Rows of any element type, from and to vectors of float32. Included once per instruction set, after Highway.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_SIMD_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_SIMD_ROWS_INL_H_
#undef EDGETX_OPS_NATIVE_SIMD_ROWS_INL_H_
#else
#define EDGETX_OPS_NATIVE_SIMD_ROWS_INL_H_
#endif

#include "hwy/highway.h"

// A step that runs once for a head or for a vector of its keys. With a check at every access, a copy of each step for
// every operator, element type and instruction set, its loops unrolled, takes GCC minutes and finds nothing more.
#if defined(__SANITIZE_ADDRESS__)
#define EDGETX_STEP HWY_NOINLINE inline
#undef HWY_UNROLL
#define HWY_UNROLL(factor)
#else
#define EDGETX_STEP HWY_INLINE
#endif

HWY_BEFORE_NAMESPACE();
namespace edgetx::rows {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using Vec = hn::Vec<F>;
constexpr size_t kLanes = HWY_MIN(hn::MaxLanes(F()), size_t{16});

HWY_INLINE Vec LoadRow(const float* from) { return hn::LoadU(F(), from); }
HWY_INLINE void StoreRow(Vec row, float* to) { hn::StoreU(row, F(), to); }
template <class T>
HWY_INLINE Vec LoadRow(const T* from) {
  return hn::PromoteTo(F(), hn::LoadU(hn::Rebind<T, F>(), from));
}
template <class T>
HWY_INLINE void StoreRow(Vec row, T* to) {
  const hn::Rebind<T, F> half;
  hn::StoreU(hn::DemoteTo(half, row), half, to);
}

// The last elements of a row; lanes past `count` are zero.
HWY_INLINE Vec LoadRow(const float* from, size_t count) { return hn::LoadN(F(), from, count); }
HWY_INLINE void StoreRow(Vec row, float* to, size_t count) { hn::StoreN(row, F(), to, count); }
template <class T>
HWY_INLINE Vec LoadRow(const T* from, size_t count) {
  return hn::PromoteTo(F(), hn::LoadN(hn::Rebind<T, F>(), from, count));
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

// CopyRow for `count` rows of `size` elements, which start `offset` elements after from[i]; N = Vectors of a row.
template <size_t N, class T>
HWY_INLINE void CopyRowsOf(const T* const* from, size_t offset, size_t count, size_t size, float factor,
                           float* HWY_RESTRICT to, size_t stride) {
  const F f;
  const Vec scale = hn::Set(f, factor);
  const size_t last = size - (N - 1) * kLanes;
  for (size_t i = 0; i < count; ++i, to += stride) {
    const T* row = from[i] + offset;
    HWY_UNROLL(4)
    for (size_t v = 0; v < N - 1; ++v) hn::StoreU(hn::Mul(LoadRow(row + v * kLanes), scale), f, to + v * kLanes);
    row += (N - 1) * kLanes;
    const Vec x = last == kLanes ? LoadRow(row) : LoadRow(row, last);
    hn::StoreU(hn::Mul(x, scale), f, to + (N - 1) * kLanes);
  }
}

template <class T>
EDGETX_STEP void CopyRows(const T* const* from, size_t offset, size_t count, size_t size, float factor,
                         float* HWY_RESTRICT to, size_t stride) {
  switch ((size + kLanes - 1) / kLanes) {
    case 1:
      return CopyRowsOf<1>(from, offset, count, size, factor, to, stride);
    case 2:
      return CopyRowsOf<2>(from, offset, count, size, factor, to, stride);
    case 4:
      return CopyRowsOf<4>(from, offset, count, size, factor, to, stride);
    default:
      for (size_t i = 0; i < count; ++i) CopyRow(from[i] + offset, size, factor, to + i * stride);
  }
}

HWY_INLINE void ZeroRow(size_t count, float* HWY_RESTRICT to) {
  for (size_t i = 0; i < count; i += kLanes) hn::StoreU(hn::Zero(F()), F(), to + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::rows
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_SIMD_ROWS_INL_H_
