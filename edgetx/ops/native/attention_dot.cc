// Dot of attention-products-inl.h, compiled once per instruction set.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/native/attention_dot.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <utility>

#include "edgetx/ops/native/attention-products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
namespace HWY_NAMESPACE {

template <size_t R, size_t V>
constexpr DotFunction DotOf() {
  if constexpr (R <= MostRows(V)) return &Dot<R, V>;
  return nullptr;
}

template <size_t... I>
constexpr std::array<DotFunction, kTable> DotTable(std::index_sequence<I...>) {
  return {DotOf<I / kPanel + 1, I % kPanel + 1>()...};
}

const std::array<DotFunction, kTable> kDot = DotTable(std::make_index_sequence<kTable>());

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();
