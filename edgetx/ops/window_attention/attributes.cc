#include "edgetx/ops/window_attention/attributes.h"

#include <cmath>
#include <string>
#include <utility>

namespace edgetx::window_attention {
namespace {

// Keeps every product of sizes far from overflow.
constexpr int64_t kLargest = int64_t{1} << 20;

std::string Show(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i != 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string Show(Pair pair) { return "(" + std::to_string(pair.y) + ", " + std::to_string(pair.x) + ")"; }

Status Error(const std::string& message) { return Status::Error("WindowAttention: " + message); }

Status ValidateAxis(const Attributes& a, int64_t Pair::* axis) {
  const int64_t window = a.window.*axis;
  const int64_t keys = a.kv_window.*axis;
  const int64_t shift = a.shift.*axis;
  const int64_t pad_to = a.pad_to.*axis;
  if (window < 1 || window > kLargest) {
    return Error("window=" + Show(a.window) + "; expected sizes from 1 to " + std::to_string(kLargest));
  }
  if (keys < window || keys > kLargest || (keys - window) % 2 != 0) {
    return Error("kv_window=" + Show(a.kv_window) + " around window=" + Show(a.window) +
                 "; expected the window plus an even number on each axis");
  }
  if (shift < 0 || shift >= window) {
    return Error("shift=" + Show(a.shift) + " with window=" + Show(a.window) + "; expected 0 <= shift < window");
  }
  if (pad_to < 1 || pad_to > kLargest || pad_to % window != 0) {
    return Error("pad_to=" + Show(a.pad_to) + " with window=" + Show(a.window) +
                 "; expected a multiple of the window");
  }
  return {};
}

Status CheckShape(const char* name, const std::optional<Shape>& given, const Shape& expected) {
  if (!given || *given == expected) return {};
  return Error(std::string(name) + " has shape " + Show(*given) + "; expected " + Show(expected));
}

Status CheckExtent(const Attributes& a, const char* name, int64_t extent, int64_t window) {
  if (extent < 1) {
    return Error(std::string("the map has ") + name + " " + std::to_string(extent) + "; expected at least 1");
  }
  if (a.pad == Pad::kNone && extent % window != 0) {
    return Error(std::string(name) + " " + std::to_string(extent) + " is no multiple of the window " +
                 std::to_string(window) +
                 " and pad='none'; resize the map or choose pad='before_roll' or 'after_roll'");
  }
  return {};
}

Extent MakeExtent(const Attributes& a, int64_t Pair::* axis, int64_t size) {
  Extent result;
  result.size = size;
  result.window = a.window.*axis;
  result.keys = a.kv_window.*axis;
  const int64_t multiple = a.pad == Pad::kNone ? result.window : a.pad_to.*axis;
  result.padded = (size + multiple - 1) / multiple * multiple;
  result.windows = result.padded / result.window;
  result.shift = a.shift.*axis;
  return result;
}

void DropShift(ShiftWhenSingle rule, Extent* y, Extent* x) {
  const bool single_y = y->windows == 1;
  const bool single_x = x->windows == 1;
  if (rule == ShiftWhenSingle::kKeep) return;
  const bool both = rule == ShiftWhenSingle::kDropBoth && (single_y || single_x);
  if (single_y || both) y->shift = 0;
  if (single_x || both) x->shift = 0;
}

template <class Choice, size_t N>
Status Choose(const std::string& name, const std::string& word, const std::pair<const char*, Choice> (&choices)[N],
              Choice* value) {
  std::string accepted;
  for (const auto& [text, choice] : choices) {
    if (word == text) {
      *value = choice;
      return {};
    }
    accepted += (accepted.empty() ? "" : ", ") + std::string(text);
  }
  return Error(name + "='" + word + "'; accepted: " + accepted);
}

}  // namespace

Status SetChoice(const std::string& name, const std::string& word, Attributes* a) {
  if (name == "mask") return Choose<Mask>(name, word, {{"none", Mask::kNone}, {"region", Mask::kRegion}}, &a->mask);
  if (name == "qk_norm") return Choose<QkNorm>(name, word, {{"none", QkNorm::kNone}, {"l2", QkNorm::kL2}}, &a->qk_norm);
  if (name == "shift_when_single") {
    return Choose<ShiftWhenSingle>(name, word,
                                   {{"keep", ShiftWhenSingle::kKeep},
                                    {"drop_axis", ShiftWhenSingle::kDropAxis},
                                    {"drop_both", ShiftWhenSingle::kDropBoth}},
                                   &a->shift_when_single);
  }
  if (name == "pad") {
    return Choose<Pad>(
        name, word, {{"none", Pad::kNone}, {"before_roll", Pad::kBeforeRoll}, {"after_roll", Pad::kAfterRoll}},
        &a->pad);
  }
  return Error("unknown attribute " + name);
}

Status Validate(const Attributes& a) {
  if (a.num_heads < 1 || a.num_heads > kLargest) {
    return Error("num_heads=" + std::to_string(a.num_heads) + "; expected 1 to " + std::to_string(kLargest));
  }
  if (a.head_size < 1 || a.head_size > kLargest) {
    return Error("head_size=" + std::to_string(a.head_size) + "; expected 1 to " + std::to_string(kLargest));
  }
  for (const auto axis : {&Pair::y, &Pair::x}) {
    if (Status status = ValidateAxis(a, axis); !status.ok()) return status;
  }
  if (!std::isfinite(a.scale)) {
    return Error("scale=" + std::to_string(a.scale) + "; expected a finite float32 number");
  }
  if (!std::isfinite(a.mask_value)) {
    return Error("mask_value=" + std::to_string(a.mask_value) + "; expected a finite float32 number");
  }
  return {};
}

Status Check(const Attributes& a, const Shapes& shapes) {
  if (shapes.qkv.size() != 4) {
    return Error("qkv has shape " + Show(shapes.qkv) + "; expected [batch, height, width, channels]");
  }
  const int64_t channels = shapes.qkv[3];
  if (channels % a.num_heads != 0 || channels / a.num_heads - 2 * a.head_size < 1) {
    return Error("qkv has " + std::to_string(channels) + " channels with num_heads=" +
                 std::to_string(a.num_heads) + ", head_size=" + std::to_string(a.head_size) + "; expected " +
                 std::to_string(a.num_heads) + "·(2·" + std::to_string(a.head_size) + " + dv) for some dv >= 1");
  }
  const Shape bias{a.num_heads, a.window.y * a.window.x, a.kv_window.y * a.kv_window.x};
  if (Status status = CheckShape("bias", shapes.bias, bias); !status.ok()) return status;
  if (Status status = CheckShape("head_scale", shapes.head_scale, {a.num_heads}); !status.ok()) return status;
  if (Status status = CheckShape("pad_value", shapes.pad_value, {channels}); !status.ok()) return status;
  if (Status status = CheckExtent(a, "height", shapes.qkv[1], a.window.y); !status.ok()) return status;
  return CheckExtent(a, "width", shapes.qkv[2], a.window.x);
}

Shape OutputShape(const Attributes& a, const Shape& qkv) {
  return {qkv[0], qkv[1], qkv[2], qkv[3] - 2 * a.num_heads * a.head_size};
}

Extents MakeExtents(const Attributes& a, const Shape& qkv) {
  Extents extents{MakeExtent(a, &Pair::y, qkv[1]), MakeExtent(a, &Pair::x, qkv[2])};
  DropShift(a.shift_when_single, &extents.y, &extents.x);
  return extents;
}

}  // namespace edgetx::window_attention
