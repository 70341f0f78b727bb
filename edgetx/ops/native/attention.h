// Attention of one head on gathered rows: what operators share that differ only in who attends to whom.
//
//   s = q·kᵀ + bias + mask        out = softmax(s)·v   or   relu(s)²·v, unnormalised
//
// attention-inl.h has the vector code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgetx::attention {

constexpr size_t kMaxLanes = 16;  // float32 lanes of the widest vectors
constexpr size_t kMaxRows = 9;    // queries that are computed at once
constexpr size_t kMaxTail = 6;    // keys that are no lanes

enum class Activation { kSoftmax, kRelu2 };

// Where the working memory of one thread lies, in bytes from its start; each part is aligned to 64 bytes.
struct Layout {
  Layout() = default;
  // For heads of at most this many queries and keys.
  Layout(size_t queries, size_t keys, size_t head_size, size_t value_size);

  size_t head_size = 0;
  size_t value_size = 0;
  size_t queries = 0;    // float[queries + 3][query_stride], scaled
  size_t key_rows = 0;   // float[kMaxLanes][query_stride]: one vector of keys, to be transposed
  size_t panels = 0;     // float[keys, in whole vectors][head_size]: the keys, transposed in panels
  size_t tail_rows = 0;  // float[kMaxTail + 3][query_stride]: the keys that are no lanes
  size_t values = 0;     // float[keys][value_stride]
  size_t logits = 0;     // float[group][logit_stride]
  size_t tail = 0;       // float[kMaxTail][group_stride]: the logits of the keys that are no lanes
  size_t highest = 0;    // float[group + 3][kMaxLanes]
  size_t offset = 0;     // float[group_stride]
  size_t factor = 0;     // float[group_stride]
  size_t result = 0;     // float[kMaxRows][value_stride]
  size_t bytes = 0;
  size_t query_stride = 0;
  size_t value_stride = 0;
  size_t logit_stride = 0;
  size_t group = 0;  // queries that go through the three steps together
  size_t group_stride = 0;
};

// What is added to the logits; what is absent is null.
struct Addends {
  const float* bias = nullptr;           // [queries][keys]
  const float* const* masks = nullptr;   // per query, a row of all keys, aligned and padded to whole vectors
};

// Into how many ranges a call's items, of so many queries and keys each, are best cut for a thread pool: enough for
// an even load, none so short that taking it up counts.
int64_t CountTasks(int64_t items, size_t queries, size_t keys, const Layout& layout);

}  // namespace edgetx::attention
