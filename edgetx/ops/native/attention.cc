#include "edgetx/ops/native/attention.h"

#include <algorithm>

namespace edgetx::attention {
namespace {

// The logits of a group take half of a 32 KB first-level cache.
constexpr size_t kLogits = 4096;
constexpr size_t kLeastGroup = 12;

constexpr int64_t kMaxTasks = 64;
// Multiply-adds of a task, about 10 us of one core.
constexpr size_t kTaskWork = 300'000;

size_t RoundUp(size_t count, size_t multiple) { return (count + multiple - 1) / multiple * multiple; }

}  // namespace

Layout::Layout(size_t most_queries, size_t most_keys, size_t head_size_given, size_t value_size_given)
    : head_size(head_size_given), value_size(value_size_given) {
  // Rows are written in whole vectors.
  query_stride = RoundUp(head_size, kMaxLanes);
  value_stride = RoundUp(value_size, kMaxLanes);
  logit_stride = RoundUp(most_keys, kMaxLanes);
  // Rows a multiple of 1 KB apart share a few lines of the cache.
  if (logit_stride % 256 == 0) logit_stride += kMaxLanes;
  group = std::min(std::max(kLogits / logit_stride, kLeastGroup), most_queries);
  group_stride = RoundUp(group, kMaxLanes);
  const auto take = [this](size_t floats) {
    const size_t start = bytes;
    bytes = RoundUp(start + floats * sizeof(float), 64);
    return start;
  };
  // Some steps take four rows at once, whatever is in those past the last.
  queries = take((most_queries + 3) * query_stride);
  key_rows = take(kMaxLanes * query_stride);
  panels = take(RoundUp(most_keys, kMaxLanes) * head_size);
  tail_rows = take((kMaxTail + 3) * query_stride);
  values = take(most_keys * value_stride);
  logits = take(group * logit_stride);
  tail = take(kMaxTail * group_stride);
  highest = take((group + 3) * kMaxLanes);
  offset = take(group_stride);
  factor = take(group_stride);
  result = take(kMaxRows * value_stride);
}

int64_t CountTasks(int64_t items, size_t queries, size_t keys, const Layout& layout) {
  const size_t work = queries * keys * (layout.head_size + layout.value_size);
  const auto items_per_task = static_cast<int64_t>(std::max<size_t>(kTaskWork / std::max<size_t>(work, 1), 1));
  return std::min((items + items_per_task - 1) / items_per_task, kMaxTasks);
}

}  // namespace edgetx::attention
