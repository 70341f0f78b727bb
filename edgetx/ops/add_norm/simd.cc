// The vector code of AddNorm and NormAdd, compiled once per instruction set.
//
// A row is summed into float32 scratch that stays in the first-level cache; mean, variance (of the differences from
// the mean, which does not cancel) and result are three passes over it. x, branch and the outputs are each
// touched once.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/add_norm/kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/add_norm/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/simd_rows-inl.h"
#include "edgetx/ops/native/simd_select.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::add_norm {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

// A sum in four parts, so that additions do not wait for each other.
constexpr size_t kParts = 4;

HWY_INLINE float Total(const Vec (&parts)[kParts]) {
  return hn::ReduceSum(F(), hn::Add(hn::Add(parts[0], parts[1]), hn::Add(parts[2], parts[3])));
}

// scratch[:] = branch + bias, for AddNorm + x, which it stores too. Returns the mean. Lanes past the last channel are 0.
template <Order kOrder, class T>
HWY_INLINE float Sum(const T* HWY_RESTRICT x, const T* HWY_RESTRICT branch, const float* HWY_RESTRICT bias,
                     size_t channels, T* HWY_RESTRICT sum, float* HWY_RESTRICT scratch) {
  Vec parts[kParts] = {hn::Zero(F()), hn::Zero(F()), hn::Zero(F()), hn::Zero(F())};
  size_t c = 0;
  for (; c + kParts * kLanes <= channels; c += kParts * kLanes) {
    for (size_t i = 0; i < kParts; ++i) {
      const size_t at = c + i * kLanes;
      Vec s = hn::Add(LoadRow(branch + at), LoadRow(bias + at));
      if constexpr (kOrder == Order::kAddNorm) {
        s = hn::Add(LoadRow(x + at), s);
        StoreRow(s, sum + at);
      }
      hn::Store(s, F(), scratch + at);
      parts[i] = hn::Add(parts[i], s);
    }
  }
  for (; c < channels; c += kLanes) {
    const size_t count = HWY_MIN(kLanes, channels - c);
    Vec s = hn::Add(LoadRow(branch + c, count), LoadRow(bias + c, count));
    if constexpr (kOrder == Order::kAddNorm) {
      s = hn::Add(LoadRow(x + c, count), s);
      StoreRow(s, sum + c, count);
    }
    hn::Store(s, F(), scratch + c);
    parts[0] = hn::Add(parts[0], s);
  }
  return Total(parts) / static_cast<float>(channels);
}

HWY_INLINE float Variance(const float* HWY_RESTRICT scratch, size_t channels, float mean) {
  const Vec m = hn::Set(F(), mean);
  Vec parts[kParts] = {hn::Zero(F()), hn::Zero(F()), hn::Zero(F()), hn::Zero(F())};
  size_t c = 0;
  for (; c + kParts * kLanes <= channels; c += kParts * kLanes) {
    for (size_t i = 0; i < kParts; ++i) {
      const Vec d = hn::Sub(hn::Load(F(), scratch + c + i * kLanes), m);
      parts[i] = hn::MulAdd(d, d, parts[i]);
    }
  }
  for (; c < channels; c += kLanes) {
    const auto inside = hn::FirstN(F(), HWY_MIN(kLanes, channels - c));
    const Vec d = hn::IfThenElseZero(inside, hn::Sub(hn::Load(F(), scratch + c), m));
    parts[0] = hn::MulAdd(d, d, parts[0]);
  }
  return Total(parts) / static_cast<float>(channels);
}

template <Order kOrder, class T>
void RunRows(const Call& call, int64_t begin, int64_t end, float* HWY_RESTRICT scratch) {
  const F f;
  const auto channels = static_cast<size_t>(call.channels);
  for (int64_t row = begin; row < end; ++row) {
    const size_t offset = static_cast<size_t>(row) * channels;
    const T* HWY_RESTRICT x = static_cast<const T*>(call.x) + offset;
    const T* HWY_RESTRICT branch = static_cast<const T*>(call.branch) + offset;
    T* HWY_RESTRICT out = static_cast<T*>(call.out) + offset;
    T* HWY_RESTRICT sum = kOrder == Order::kAddNorm ? static_cast<T*>(call.sum) + offset : nullptr;

    const float mean = Sum<kOrder>(x, branch, call.bias, channels, sum, scratch);
    const float variance = Variance(scratch, channels, mean);
    const Vec m = hn::Set(f, mean);
    const Vec inverse = hn::Div(hn::Set(f, 1.0f), hn::Sqrt(hn::Set(f, variance + call.epsilon)));
    size_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Vec d = hn::Mul(hn::Sub(hn::Load(f, scratch + c), m), inverse);
      Vec y = hn::MulAdd(d, LoadRow(call.scale + c), LoadRow(call.shift + c));
      if constexpr (kOrder == Order::kNormAdd) y = hn::Add(LoadRow(x + c), y);
      StoreRow(y, out + c);
    }
    if (const size_t rest = channels - c; rest > 0) {
      const Vec d = hn::Mul(hn::Sub(hn::Load(f, scratch + c), m), inverse);
      Vec y = hn::MulAdd(d, LoadRow(call.scale + c, rest), LoadRow(call.shift + c, rest));
      if constexpr (kOrder == Order::kNormAdd) y = hn::Add(LoadRow(x + c, rest), y);
      StoreRow(y, out + c, rest);
    }
  }
}

template <class T>
void RunOrder(const Call& call, int64_t begin, int64_t end, std::byte* scratch) {
  auto* row = reinterpret_cast<float*>(scratch);
  if (call.order == Order::kAddNorm) return RunRows<Order::kAddNorm, T>(call, begin, end, row);
  return RunRows<Order::kNormAdd, T>(call, begin, end, row);
}

void Run(const Call& call, int64_t begin, int64_t end, std::byte* scratch) {
  switch (call.dtype) {
    case DType::kFloat32:
      return RunOrder<float>(call, begin, end, scratch);
    case DType::kFloat16:
      return RunOrder<hwy::float16_t>(call, begin, end, scratch);
    case DType::kBFloat16:
      return RunOrder<hwy::bfloat16_t>(call, begin, end, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::add_norm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgetx::add_norm {

size_t ScratchBytes(int64_t channels) {
  constexpr size_t kMost = 16;  // float32 lanes of the widest vectors
  return (static_cast<size_t>(channels) + kMost - 1) / kMost * kMost * sizeof(float);
}

EDGETX_DEFINE_SELECT_RUN()

}  // namespace edgetx::add_norm
#endif
