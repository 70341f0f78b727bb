// The exact GELU of vectors. Included once per instruction set, after Highway.
//
// y = v · (½ + v · R(v²)) with R(u) = (Φ(√u) - ½) / √u, an entire function of u. On |v| < 5.5 it is a minimax
// polynomial in t = 2u / 5.5² - 1: in this variable its coefficients alternate and sum to R(0) = 0.4, so Horner's
// scheme loses nothing, and neither a division nor an exponential is needed. Beyond, Φ is 0 or 1 to 2e-8.
// `bias_gelu/fit.py` computed the coefficients; y is exact to 5e-7 for |y| <= 1, relatively beyond.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_GELU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_GELU_INL_H_
#undef EDGETX_OPS_NATIVE_GELU_INL_H_
#else
#define EDGETX_OPS_NATIVE_GELU_INL_H_
#endif

#include "edgetx/ops/native/simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::gelu {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

constexpr float kEdge = 5.5f;
constexpr float kCoefficients[] = {
    0x1.07463cp-3f, -0x1.06d996p-4f, 0x1.8710c6p-5f, -0x1.3dc978p-5f,
    0x1.06bdap-5f, -0x1.aadeb8p-6f, 0x1.4d5c82p-6f, -0x1.ea628ep-7f,
    0x1.5106ecp-7f, -0x1.c55692p-8f, 0x1.28c282p-8f, -0x1.29b0aap-9f,
    0x1.a0a5d2p-11f, -0x1.4fd108p-11f, 0x1.3f0748p-11f, -0x1.aa662ep-13f,
};

// N vectors together: one chain of multiply-adds hides behind the others.
template <size_t N>
HWY_INLINE void Gelu(Vec (&v)[N]) {
  const F f;
  constexpr size_t kDegree = sizeof(kCoefficients) / sizeof(*kCoefficients) - 1;
  Vec t[N];
  Vec r[N];
  for (size_t i = 0; i < N; ++i) {
    t[i] = hn::MulAdd(hn::Mul(v[i], v[i]), hn::Set(f, 2.0f / (kEdge * kEdge)), hn::Set(f, -1.0f));
    r[i] = hn::Set(f, kCoefficients[kDegree]);
  }
  for (size_t k = kDegree; k-- > 0;) {
    const Vec c = hn::Set(f, kCoefficients[k]);
    for (size_t i = 0; i < N; ++i) r[i] = hn::MulAdd(r[i], t[i], c);
  }
  for (size_t i = 0; i < N; ++i) {
    const Vec y = hn::Mul(v[i], hn::MulAdd(v[i], r[i], hn::Set(f, 0.5f)));
    // NaN is not beyond the edge and stays.
    v[i] = hn::IfThenElse(hn::Ge(hn::Abs(v[i]), hn::Set(f, kEdge)), hn::Max(v[i], hn::Zero(f)), y);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::gelu
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_GELU_INL_H_
