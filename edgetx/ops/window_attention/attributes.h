// What a window attention is, apart from its tensors, and the one native checker of both. README.md beside this file
// defines the operator, attributes.py is the same in Python.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "edgetx/ops/native/status.h"

namespace edgetx::window_attention {

enum class Mask { kNone, kRegion };
enum class QkNorm { kNone, kL2 };
enum class ShiftWhenSingle { kKeep, kDropAxis, kDropBoth };
enum class Pad { kNone, kBeforeRoll, kAfterRoll };

// Height and width, in tokens.
struct Pair {
  int64_t y = 0;
  int64_t x = 0;
};

struct Attributes {
  int64_t num_heads = 0;
  int64_t head_size = 0;
  Pair window;
  Pair kv_window;
  Pair shift;
  Mask mask = Mask::kNone;
  float mask_value = -100.0f;
  QkNorm qk_norm = QkNorm::kNone;
  ShiftWhenSingle shift_when_single = ShiftWhenSingle::kKeep;
  float scale = 1.0f;
  Pad pad = Pad::kNone;
  Pair pad_to;
};

using Shape = std::vector<int64_t>;

struct Shapes {
  Shape qkv;
  std::optional<Shape> bias;
  std::optional<Shape> head_scale;
  std::optional<Shape> pad_value;
};

// Sets the attribute that is given by a word: mask, qk_norm, shift_when_single or pad.
Status SetChoice(const std::string& name, const std::string& word, Attributes* attributes);
constexpr const char* kChoices[] = {"mask", "qk_norm", "shift_when_single", "pad"};

// Whether every attribute is in its range.
Status Validate(const Attributes& attributes);

// Whether tensors of these shapes fit valid attributes.
Status Check(const Attributes& attributes, const Shapes& shapes);

// The shape of the output for shapes that fit.
Shape OutputShape(const Attributes& attributes, const Shape& qkv);

// One axis of a map.
struct Extent {
  int64_t size = 0;     // tokens of the map
  int64_t padded = 0;   // tokens with padding
  int64_t window = 0;   // queries of a window
  int64_t keys = 0;     // keys of a window
  int64_t shift = 0;    // as it applies to this size
  int64_t windows = 0;  // padded / window
};
struct Extents {
  Extent y;
  Extent x;
};
// For attributes that are valid and a shape that fits.
Extents MakeExtents(const Attributes& attributes, const Shape& qkv);

}  // namespace edgetx::window_attention
