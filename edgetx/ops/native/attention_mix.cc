// Mix of attention-products-inl.h, compiled once per instruction set.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/native/attention_mix.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <utility>

#include "edgetx/ops/native/attention-products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
namespace HWY_NAMESPACE {

template <size_t R, size_t V>
constexpr MixFunction MixOf() {
  if constexpr (R <= MostRows(V)) return &Mix<R, V>;
  return nullptr;
}

template <size_t... I>
constexpr std::array<MixFunction, kTable> MixTable(std::index_sequence<I...>) {
  return {MixOf<I / kPanel + 1, I % kPanel + 1>()...};
}

const std::array<MixFunction, kTable> kMix = MixTable(std::make_index_sequence<kTable>());

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();
