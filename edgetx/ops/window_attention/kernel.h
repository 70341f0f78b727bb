// WindowAttention on the CPU, with no engine in sight. README.md beside this file defines the operator.
//
//   logits = scale · head_scale · (q·k) + bias + mask        out = softmax(logits) · v
//
// The work is cut into items, one per window and head. An engine's thread pool runs ranges of items.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "edgetx/ops/native/attention.h"
#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"
#include "edgetx/ops/window_attention/attributes.h"

namespace edgetx::window_attention {

// `qkv` and `output` hold elements of `dtype`; what is absent is null.
struct Tensors {
  DType dtype = DType::kFloat32;
  const void* qkv = nullptr;
  const float* bias = nullptr;
  const float* head_scale = nullptr;
  const float* pad_value = nullptr;
  void* output = nullptr;
};

// One axis of the rolled, padded map, with where its tokens come from.
struct Axis : Extent {
  // Position in the rolled, padded map -> token of the map, or kPad.
  std::vector<int64_t> token;
};

constexpr int64_t kPad = -1;      // a token that padding made: pad_value
constexpr int64_t kOutside = -2;  // a key that no map holds: zeros

// Where an item's working memory lies, in bytes from its start; each part is aligned to 64 bytes.
struct Layout {
  // Of this window and of the next one:
  std::array<size_t, 2> query_rows{};  // const T*[Nq]: each query's row of qkv
  std::array<size_t, 2> key_rows{};    // const T*[Nk]
  std::array<size_t, 2> output_rows{};  // T*[Nq]: each query's row of the output, or null
  size_t pad_row = 0;       // T[channels]
  size_t zero_row = 0;      // T[channels]
  size_t mask_rows = 0;     // const float*[Nq]: the row of each query
  size_t masks = 0;         // float[9][head.logit_stride]: one row per region of queries
  size_t rows = 0;          // T*[Nq]: where each query's result of a head goes
  size_t head_memory = 0;
  size_t bytes = 0;
  attention::Layout head;
};

// Everything about one call that does not depend on its data. Immutable; threads may share it.
class Plan {
 public:
  // The attributes are valid and the shape fits. May throw std::bad_alloc.
  Plan(const Attributes& attributes, const Shape& qkv, CpuLevel level);

  // Windows times heads; those of one window follow each other.
  int64_t items() const { return items_; }
  // Into how many ranges the items are best cut for a thread pool.
  int64_t tasks() const;
  size_t scratch_bytes() const { return layout.bytes; }
  // Items [begin, end). `scratch` is aligned to 64 bytes and used by no other thread.
  void Run(const Tensors& tensors, int64_t begin, int64_t end, std::byte* scratch) const noexcept;

  // For the implementation.
  Attributes attributes;
  int64_t channels = 0;
  int64_t value_size = 0;
  Axis y;
  Axis x;
  Layout layout;

 private:
  using RunFunction = void (*)(const Plan&, const Tensors&, int64_t, int64_t, std::byte*);
  RunFunction run_ = nullptr;
  int64_t items_ = 0;
};

}  // namespace edgetx::window_attention
