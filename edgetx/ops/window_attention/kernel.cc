#include "edgetx/ops/window_attention/kernel.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "edgetx/ops/window_attention/simd.h"

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

Axis MakeAxis(const Attributes& a, int64_t Pair::* axis, int64_t size) {
  Axis result;
  result.size = size;
  result.window = a.window.*axis;
  result.keys = a.kv_window.*axis;
  const int64_t multiple = a.pad == Pad::kNone ? result.window : a.pad_to.*axis;
  result.padded = (size + multiple - 1) / multiple * multiple;
  result.windows = result.padded / result.window;
  result.shift = a.shift.*axis;
  return result;
}

void DropShift(ShiftWhenSingle rule, Axis* y, Axis* x) {
  const bool single_y = y->windows == 1;
  const bool single_x = x->windows == 1;
  if (rule == ShiftWhenSingle::kKeep) return;
  const bool both = rule == ShiftWhenSingle::kDropBoth && (single_y || single_x);
  if (single_y || both) y->shift = 0;
  if (single_x || both) x->shift = 0;
}

void MapTokens(Pad pad, Axis* axis) {
  axis->token.resize(static_cast<size_t>(axis->padded));
  for (int64_t p = 0; p < axis->padded; ++p) {
    int64_t token = kPad;
    if (pad != Pad::kAfterRoll) {
      token = (p + axis->shift) % axis->padded;
      if (token >= axis->size) token = kPad;
    } else if (p < axis->size) {
      token = (p + axis->shift) % axis->size;
    }
    axis->token[static_cast<size_t>(p)] = token;
  }
}

size_t RoundUp(size_t count, size_t multiple) { return (count + multiple - 1) / multiple * multiple; }

Layout MakeLayout(const Attributes& a, int64_t value_size) {
  const auto nq = static_cast<size_t>(a.window.y * a.window.x);
  const auto nk = static_cast<size_t>(a.kv_window.y * a.kv_window.x);
  Layout layout;
  layout.head = attention::Layout(nq, nk, static_cast<size_t>(a.head_size), static_cast<size_t>(value_size));
  const auto take = [&layout](size_t bytes) {
    const size_t start = layout.bytes;
    layout.bytes = RoundUp(start + bytes, 64);
    return start;
  };
  layout.query_tokens = take(nq * sizeof(int64_t));
  layout.key_tokens = take(nk * sizeof(int64_t));
  layout.rows = take(nq * sizeof(void*));
  layout.mask_rows = take(a.mask == Mask::kRegion ? nq * sizeof(const float*) : 0);
  layout.masks = take(a.mask == Mask::kRegion ? 9 * layout.head.logit_stride * sizeof(float) : 0);
  layout.head_memory = take(layout.head.bytes);
  return layout;
}

}  // namespace

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

Plan::Plan(const Attributes& given, const Shape& qkv, CpuLevel level)
    : attributes(given),
      channels(qkv[3]),
      value_size(qkv[3] / given.num_heads - 2 * given.head_size),
      y(MakeAxis(given, &Pair::y, qkv[1])),
      x(MakeAxis(given, &Pair::x, qkv[2])),
      layout(MakeLayout(given, value_size)),
      run_(SelectRun(level)) {
  DropShift(given.shift_when_single, &y, &x);
  MapTokens(given.pad, &y);
  MapTokens(given.pad, &x);
  items_ = qkv[0] * y.windows * x.windows * given.num_heads;
}

void Plan::Run(const Tensors& tensors, int64_t begin, int64_t end, std::byte* scratch) const noexcept {
  run_(*this, tensors, begin, end, scratch);
}

}  // namespace edgetx::window_attention
