// The vector code of BiasGelu, compiled once per instruction set.
// Four vectors at a time hide a chain of multiply-adds behind the others (native/gelu-inl.h).

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/bias_gelu/kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/bias_gelu/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/gelu-inl.h"
#include "edgetx/ops/native/simd_rows-inl.h"
#include "edgetx/ops/native/simd_select.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::bias_gelu {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)
using gelu::HWY_NAMESPACE::Gelu;

constexpr size_t kAtOnce = 4;

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

EDGETX_DEFINE_SELECT_RUN()

}  // namespace edgetx::bias_gelu
#endif
