// The vector code of BiasGelu, compiled once per instruction set.
//
// y = v · (½ + v · R(v²)) with R(u) = (Φ(√u) - ½) / √u, an entire function of u. On |v| < 5.5 it is a minimax
// polynomial in t = 2u / 5.5² - 1: in this variable its coefficients alternate and sum to R(0) = 0.4, so Horner's
// scheme loses nothing, and neither a division nor an exponential is needed. Beyond, Φ is 0 or 1 to 2e-8.
// `fit.py` beside this file computed the coefficients; y is exact to 5e-7 for |y| <= 1, relatively beyond.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/bias_gelu/kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/bias_gelu/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::bias_gelu {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

constexpr float kEdge = 5.5f;
constexpr float kCoefficients[] = {
    0x1.07463cp-3f, -0x1.06d996p-4f, 0x1.8710c6p-5f, -0x1.3dc978p-5f,
    0x1.06bdap-5f, -0x1.aadeb8p-6f, 0x1.4d5c82p-6f, -0x1.ea628ep-7f,
    0x1.5106ecp-7f, -0x1.c55692p-8f, 0x1.28c282p-8f, -0x1.29b0aap-9f,
    0x1.a0a5d2p-11f, -0x1.4fd108p-11f, 0x1.3f0748p-11f, -0x1.aa662ep-13f,
};

// Four at a time, so that one chain of multiply-adds hides behind the others.
constexpr size_t kAtOnce = 4;

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

template <class T>
void RunRows(const Call& call, int64_t begin, int64_t end) {
  const auto channels = static_cast<size_t>(call.channels);
  for (int64_t row = begin; row < end; ++row) {
    const T* HWY_RESTRICT x = static_cast<const T*>(call.x) + static_cast<size_t>(row) * channels;
    T* HWY_RESTRICT y = static_cast<T*>(call.y) + static_cast<size_t>(row) * channels;
    size_t c = 0;
    for (; c + kAtOnce * kLanes <= channels; c += kAtOnce * kLanes) {
      Vec v[kAtOnce];
      for (size_t i = 0; i < kAtOnce; ++i) {
        v[i] = hn::Add(LoadRow(x + c + i * kLanes), LoadRow(call.bias + c + i * kLanes));
      }
      Gelu(v);
      for (size_t i = 0; i < kAtOnce; ++i) StoreRow(v[i], y + c + i * kLanes);
    }
    for (; c + kLanes <= channels; c += kLanes) {
      Vec v[] = {hn::Add(LoadRow(x + c), LoadRow(call.bias + c))};
      Gelu(v);
      StoreRow(v[0], y + c);
    }
    if (const size_t rest = channels - c; rest > 0) {
      Vec v[] = {hn::Add(LoadRow(x + c, rest), LoadRow(call.bias + c, rest))};
      Gelu(v);
      StoreRow(v[0], y + c, rest);
    }
  }
}

void Run(const Call& call, int64_t begin, int64_t end) {
  switch (call.dtype) {
    case DType::kFloat32:
      return RunRows<float>(call, begin, end);
    case DType::kFloat16:
      return RunRows<hwy::float16_t>(call, begin, end);
    case DType::kBFloat16:
      return RunRows<hwy::bfloat16_t>(call, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::bias_gelu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgetx::bias_gelu {

RunFunction SelectRun([[maybe_unused]] CpuLevel level) {
#if HWY_TARGETS & HWY_AVX3
  if (level >= CpuLevel::kAvx512) return &N_AVX3::Run;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (level >= CpuLevel::kAvx2) return &N_AVX2::Run;
#endif
  return &HWY_NAMESPACE::Run;
}

}  // namespace edgetx::bias_gelu
#endif
