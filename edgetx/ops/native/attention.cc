#include "edgetx/ops/native/attention.h"

#include <algorithm>

namespace edgetx::attention {
namespace {

constexpr size_t kLogits = 4096;

size_t RoundUp(size_t count, size_t multiple) { return (count + multiple - 1) / multiple * multiple; }

}  // namespace

Layout::Layout(size_t most_queries, size_t most_keys, size_t head_size_given, size_t value_size_given)
    : head_size(head_size_given), value_size(value_size_given) {
  key_stride = RoundUp(head_size, 4);
  value_stride = RoundUp(value_size, kMaxLanes);
  logit_stride = RoundUp(most_keys, kMaxLanes);
  // The logits of a group take half of a 32 KB first-level cache.
  group = std::clamp<size_t>(kLogits / std::max<size_t>(logit_stride, 1), kMaxRows, RoundUp(most_queries, kMaxRows));
  const auto take = [this](size_t floats) {
    const size_t start = bytes;
    bytes = RoundUp(start + floats * sizeof(float), 64);
    return start;
  };
  // Rows are written in whole vectors: the last one may reach past its end.
  queries = take(most_queries * head_size + kMaxLanes);
  keys = take(kMaxLanes * key_stride + kMaxLanes);
  panels = take(logit_stride * key_stride);
  values = take(most_keys * value_stride);
  logits = take(group * logit_stride);
  highest = take(group * kMaxLanes);
  factors = take(group);
  result = take(kMaxRows * value_stride);
}

}  // namespace edgetx::attention
