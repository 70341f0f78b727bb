#include "edgetx/ops/group_attention/kernel.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "edgetx/ops/group_attention/simd.h"
#include "edgetx/ops/native/denormals.h"
#include "edgetx/ops/native/rows.h"

namespace edgetx::group_attention {
namespace {

Status Error(const std::string& message) { return Status::Error("GroupAttention: " + message); }

Status CheckRange(const char* name, const int32_t* index, int64_t count, int64_t end, const char* of) {
  const int32_t* wrong =
      std::find_if(index, index + count, [end](int32_t i) { return i < -1 || int64_t{i} >= end; });
  if (wrong == index + count) return {};
  return Error(std::string(name) + " holds " + std::to_string(*wrong) + "; expected -1 or an index into " + of +
               ", 0 to " + std::to_string(end - 1));
}

}  // namespace

Status CheckIndices(const Shapes& shapes, const Tensors& tensors) {
  const int64_t slots = shapes.groups[0] * shapes.groups[1];
  Status status = CheckRange("groups", tensors.groups, slots, shapes.q[0], "the tokens");
  if (!status.ok()) return status;
  return CheckRange("inverse", tensors.inverse, shapes.q[0], slots, "the slots");
}

Plan::Plan(const Attributes& given, const Shapes& shapes, const Tensors& tensors_given, CpuLevel level)
    : attributes(given),
      tensors(tensors_given),
      slots(shapes.groups[1]),
      head_size(shapes.q[1] / given.num_heads),
      value_size(shapes.v[1] / given.num_heads),
      run_(SelectRun(level)) {
  ListQueries(shapes.q[0], shapes.groups[0]);
  size_t most = 0;
  for (const Chunk& chunk : chunks) most = std::max(most, chunk.end - chunk.begin);
  layout.head = attention::Layout(most, static_cast<size_t>(slots), static_cast<size_t>(head_size),
                                  static_cast<size_t>(value_size));
  const auto take = [this](size_t bytes) {
    const size_t start = layout.bytes;
    layout.bytes = (start + bytes + 63) / 64 * 64;
    return start;
  };
  layout.query_rows = take(most * sizeof(void*));
  layout.key_rows = take(static_cast<size_t>(slots) * sizeof(void*));
  layout.value_rows = take(static_cast<size_t>(slots) * sizeof(void*));
  layout.rows = take(most * sizeof(void*));
  layout.head_memory = take(layout.head.bytes);
}

// A counting sort of the tokens by the group that serves them.
void Plan::ListQueries(int64_t tokens, int64_t groups) {
  const auto serves = [this](int32_t slot) { return slot >= 0 && tensors.groups[slot] >= 0; };
  std::vector<size_t> place(static_cast<size_t>(groups) + 1);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t slot = tensors.inverse[t];
    if (serves(slot)) {
      ++place[static_cast<size_t>(slot / slots) + 1];
    } else {
      unserved_.push_back(static_cast<int32_t>(t));
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    const size_t begin = place[static_cast<size_t>(g)];
    const size_t end = place[static_cast<size_t>(g) + 1] += begin;
    for (size_t at = begin; at < end; at += kMostQueries) {
      chunks.push_back({g, at, std::min(at + kMostQueries, end)});
    }
  }
  queries.resize(place.back());
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t slot = tensors.inverse[t];
    if (serves(slot)) {
      queries[place[static_cast<size_t>(slot / slots)]++] = {tensors.groups[slot], static_cast<int32_t>(t)};
    }
  }
}

void Plan::Clear() const noexcept {
  const size_t bytes = static_cast<size_t>(attributes.num_heads * value_size) * SizeOf(tensors.dtype);
  auto* output = static_cast<std::byte*>(tensors.output);
  for (const int32_t token : unserved_) std::memset(output + static_cast<size_t>(token) * bytes, 0, bytes);
}

int64_t Plan::tasks() const {
  if (chunks.empty()) return 0;
  return attention::CountTasks(items(), queries.size() / chunks.size(), static_cast<size_t>(slots), layout.head);
}

void Plan::Run(int64_t begin, int64_t end, std::byte* scratch) const noexcept {
  const FlushDenormals flush;
  run_(*this, begin, end, scratch);
}

}  // namespace edgetx::group_attention
