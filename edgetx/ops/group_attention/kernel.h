// GroupAttention on the CPU, with no engine in sight. README.md beside this file defines the operator.
//
//   s = scale · (q·k)        out = softmax(s) · v   or   relu(s)² · v
//
// The work is cut into items, one per head and up to kMostQueries queries of a group. An engine's thread pool runs
// ranges of items. Only queries whose output a token takes are computed, and only keys that are tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "edgetx/ops/group_attention/attributes.h"
#include "edgetx/ops/native/attention.h"
#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"

namespace edgetx::group_attention {

// `q`, `k`, `v` and `output` hold elements of `dtype`.
struct Tensors {
  DType dtype = DType::kFloat32;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const int32_t* groups = nullptr;
  const int32_t* inverse = nullptr;
  void* output = nullptr;
};

// Whether every index is -1 or in its range, for shapes that fit.
Status CheckIndices(const Shapes& shapes, const Tensors& tensors);

// A slot's token, whose query it is, and the token that takes its output.
struct Query {
  int32_t token = 0;
  int32_t output = 0;
};

// Queries [begin, end) of one group.
struct Chunk {
  int64_t group = 0;
  size_t begin = 0;
  size_t end = 0;
};

// Bounds the memory of an item and lets threads share a large group. Many, since each chunk gathers all keys.
constexpr size_t kMostQueries = 256;

// Where an item's working memory lies, in bytes from its start; each part is aligned to 64 bytes.
struct Layout {
  size_t query_rows = 0;  // const T*[most queries]
  size_t key_rows = 0;    // const T*[S]: of the group's tokens, without the empty slots
  size_t value_rows = 0;  // const T*[S]
  size_t rows = 0;        // T*[most queries]: where each query's result goes
  size_t head_memory = 0;
  size_t bytes = 0;
  attention::Layout head;
};

// What one call does. Immutable; threads may share it.
class Plan {
 public:
  // Attributes, shapes and indices are valid; what `tensors` points to must outlive this. May throw std::bad_alloc.
  Plan(const Attributes& attributes, const Shapes& shapes, const Tensors& tensors, CpuLevel level);

  // Zeros for the tokens that no slot serves; these rows are of no item.
  void Clear() const noexcept;
  // Chunks times heads; those of one chunk follow each other.
  int64_t items() const { return static_cast<int64_t>(chunks.size()) * attributes.num_heads; }
  // Into how many ranges the items are best cut for a thread pool.
  int64_t tasks() const;
  size_t scratch_bytes() const { return layout.bytes; }
  // Items [begin, end). `scratch` is aligned to 64 bytes and used by no other thread.
  void Run(int64_t begin, int64_t end, std::byte* scratch) const noexcept;

  // For the implementation.
  Attributes attributes;
  Tensors tensors;
  int64_t slots = 0;  // S
  int64_t head_size = 0;
  int64_t value_size = 0;
  Layout layout;
  std::vector<Query> queries;  // by group
  std::vector<Chunk> chunks;

 private:
  void ListQueries(int64_t tokens, int64_t groups);

  using RunFunction = void (*)(const Plan&, int64_t, int64_t, std::byte*);
  RunFunction run_ = nullptr;
  std::vector<int32_t> unserved_;
};

}  // namespace edgetx::group_attention
