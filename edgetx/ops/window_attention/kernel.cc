#include "edgetx/ops/window_attention/kernel.h"

#include "edgetx/ops/native/denormals.h"
#include "edgetx/ops/window_attention/simd.h"

namespace edgetx::window_attention {
namespace {

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

Layout MakeLayout(const Attributes& a, int64_t channels, int64_t value_size) {
  const auto nq = static_cast<size_t>(a.window.y * a.window.x);
  const auto nk = static_cast<size_t>(a.kv_window.y * a.kv_window.x);
  Layout layout;
  layout.head = attention::Layout(nq, nk, static_cast<size_t>(a.head_size), static_cast<size_t>(value_size));
  const auto take = [&layout](size_t bytes) {
    const size_t start = layout.bytes;
    layout.bytes = RoundUp(start + bytes, 64);
    return start;
  };
  for (size_t i = 0; i < 2; ++i) {
    layout.query_rows[i] = take(nq * sizeof(void*));
    layout.key_rows[i] = take(nk * sizeof(void*));
    layout.output_rows[i] = take(nq * sizeof(void*));
  }
  layout.pad_row = take(static_cast<size_t>(channels) * sizeof(float));
  layout.zero_row = take(static_cast<size_t>(channels) * sizeof(float));
  layout.rows = take(nq * sizeof(void*));
  layout.mask_rows = take(a.mask == Mask::kRegion ? nq * sizeof(const float*) : 0);
  layout.masks = take(a.mask == Mask::kRegion ? 9 * layout.head.logit_stride * sizeof(float) : 0);
  layout.head_memory = take(layout.head.bytes);
  return layout;
}

}  // namespace

Plan::Plan(const Attributes& given, const Shape& qkv, CpuLevel level)
    : attributes(given),
      channels(qkv[3]),
      value_size(qkv[3] / given.num_heads - 2 * given.head_size),
      layout(MakeLayout(given, channels, value_size)),
      run_(SelectRun(level)) {
  const Extents extents = MakeExtents(given, qkv);
  static_cast<Extent&>(y) = extents.y;
  static_cast<Extent&>(x) = extents.x;
  MapTokens(given.pad, &y);
  MapTokens(given.pad, &x);
  items_ = qkv[0] * y.windows * x.windows * given.num_heads;
}

int64_t Plan::tasks() const {
  const Attributes& a = attributes;
  return attention::CountTasks(items_, static_cast<size_t>(a.window.y * a.window.x),
                               static_cast<size_t>(a.kv_window.y * a.kv_window.x), layout.head);
}

void Plan::Run(const Tensors& tensors, int64_t begin, int64_t end, std::byte* scratch) const noexcept {
  const FlushDenormals flush;
  run_(*this, tensors, begin, end, scratch);
}

}  // namespace edgetx::window_attention
