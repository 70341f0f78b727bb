// The vector code of WindowAttention, compiled once per instruction set.
//
// One item is a window and a head. Its q, k and v are gathered from NHWC, with roll, padding and partition in the
// addresses; native/attention-inl.h does the rest.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/window_attention/simd.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/window_attention/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/attention-inl.h"
#include "edgetx/ops/native/simd_select.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::window_attention {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

// 0, 1 or 2: split at padded - window and padded - shift; an axis without shift is one region.
HWY_INLINE int64_t Region(const Axis& axis, int64_t position) {
  if (axis.shift == 0) return 0;
  return (position >= axis.padded - axis.window) + (position >= axis.padded - axis.shift);
}

HWY_INLINE int64_t Token(const Axis& axis, int64_t position) {
  if (position < 0 || position >= axis.padded) return kOutside;
  return axis.token[static_cast<size_t>(position)];
}

template <class T>
class Worker {
 public:
  Worker(const Plan& plan, const Tensors& tensors, std::byte* scratch)
      : plan_(plan),
        a_(plan.attributes),
        qkv_(static_cast<const T*>(tensors.qkv)),
        output_(static_cast<T*>(tensors.output)),
        tensors_(tensors),
        heads_(static_cast<size_t>(a_.num_heads)),
        d_(static_cast<size_t>(a_.head_size)),
        dv_(static_cast<size_t>(plan.value_size)),
        nq_(static_cast<size_t>(a_.window.y * a_.window.x)),
        nk_(static_cast<size_t>(a_.kv_window.y * a_.kv_window.x)),
        channels_(static_cast<size_t>(plan.channels)),
        query_tokens_(Part<int64_t>(scratch, plan.layout.query_tokens)),
        key_tokens_(Part<int64_t>(scratch, plan.layout.key_tokens)),
        mask_rows_(Part<const float*>(scratch, plan.layout.mask_rows)),
        masks_(Part<float>(scratch, plan.layout.masks)),
        rows_(Part<T*>(scratch, plan.layout.rows)),
        head_(plan.layout.head, scratch + plan.layout.head_memory) {}

  // All items of one window that follow each other share its tables.
  void Run(int64_t begin, int64_t end) {
    int64_t current = -1;
    bool used = false;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t window = item / a_.num_heads;
      if (window != current) used = Enter(window);
      current = window;
      if (!used) continue;
      const auto head = static_cast<size_t>(item % a_.num_heads);
      Gather(head);
      Attend(head);
    }
  }

 private:
  template <class U>
  static U* Part(std::byte* scratch, size_t offset) {
    return reinterpret_cast<U*>(scratch + offset);
  }

  // Fills the tables of tokens and masks; false if every query is a pad token, which writes nothing.
  bool Enter(int64_t window) {
    const Axis& y = plan_.y;
    const Axis& x = plan_.x;
    const int64_t batch = window / (y.windows * x.windows);
    const int64_t top = window / x.windows % y.windows * y.window;
    const int64_t left = window % x.windows * x.window;
    if (!List(batch, top, left, y.window, x.window, query_tokens_)) return false;
    const int64_t first_y = top - (y.keys - y.window) / 2;
    const int64_t first_x = left - (x.keys - x.window) / 2;
    List(batch, first_y, first_x, y.keys, x.keys, key_tokens_);
    masked_ = a_.mask == Mask::kRegion &&
              (Region(y, first_y) != Region(y, first_y + y.keys - 1) ||
               Region(x, first_x) != Region(x, first_x + x.keys - 1));
    if (masked_) Mark(top, left, first_y, first_x);
    return true;
  }

  // Tokens of a rectangle of positions, as rows of qkv; whether any is a token of the map.
  bool List(int64_t batch, int64_t top, int64_t left, int64_t height, int64_t width, int64_t* tokens) const {
    bool any = false;
    for (int64_t i = 0; i < height; ++i) {
      const int64_t y = Token(plan_.y, top + i);
      const int64_t row = (batch * plan_.y.size + y) * plan_.x.size;
      for (int64_t j = 0; j < width; ++j) {
        const int64_t x = Token(plan_.x, left + j);
        const bool real = y >= 0 && x >= 0;
        any |= real;
        *tokens++ = real ? row + x : std::min(y, x);
      }
    }
    return any;
  }

  // One row of the mask per region of queries, and the row of each query.
  void Mark(int64_t top, int64_t left, int64_t first_y, int64_t first_x) {
    for (int64_t ry = Region(plan_.y, top); ry <= Region(plan_.y, top + plan_.y.window - 1); ++ry) {
      for (int64_t rx = Region(plan_.x, left); rx <= Region(plan_.x, left + plan_.x.window - 1); ++rx) {
        float* row = MaskRow(ry, rx);
        for (int64_t i = 0; i < plan_.y.keys; ++i) {
          const bool same = Region(plan_.y, first_y + i) == ry;
          for (int64_t j = 0; j < plan_.x.keys; ++j) {
            *row++ = same && Region(plan_.x, first_x + j) == rx ? 0.0f : a_.mask_value;
          }
        }
        for (size_t j = nk_; j < plan_.layout.head.logit_stride; ++j) *row++ = 0.0f;
      }
    }
    const float** query = mask_rows_;
    for (int64_t i = 0; i < plan_.y.window; ++i) {
      const int64_t ry = Region(plan_.y, top + i);
      for (int64_t j = 0; j < plan_.x.window; ++j) *query++ = MaskRow(ry, Region(plan_.x, left + j));
    }
  }

  float* MaskRow(int64_t ry, int64_t rx) const {
    return masks_ + static_cast<size_t>(ry * 3 + rx) * plan_.layout.head.logit_stride;
  }

  // Part of a token's row (`offset`, `count` of its channels) as float32, times `factor`.
  HWY_INLINE void Copy(int64_t token, size_t offset, size_t count, float factor, float* to) const {
    if (token >= 0) {
      CopyRow(qkv_ + static_cast<size_t>(token) * channels_ + offset, count, factor, to);
    } else if (token == kPad && tensors_.pad_value != nullptr) {
      CopyRow(tensors_.pad_value + offset, count, factor, to);
    } else {
      ZeroRow(count, to);
    }
  }

  // The same for a key, where it lies or in the buffer.
  HWY_INLINE const float* Key(int64_t token, size_t offset, float* buffer) const {
    using attention::HWY_NAMESPACE::Readable;
    if (token >= 0) return Readable(qkv_ + static_cast<size_t>(token) * channels_ + offset, d_, buffer);
    if (token == kPad && tensors_.pad_value != nullptr) return Readable(tensors_.pad_value + offset, d_, buffer);
    ZeroRow(d_, buffer);
    return buffer;
  }

  template <bool kL2>
  void GatherAll(size_t head) {
    const float scale = a_.scale * (tensors_.head_scale != nullptr ? tensors_.head_scale[head] : 1.0f);
    const size_t key = (heads_ + head) * d_;
    const size_t value = 2 * heads_ * d_ + head * dv_;
    head_.template SetQueries<kL2>(
        nq_, scale, [&](size_t i, float factor, float* to) { Copy(query_tokens_[i], head * d_, d_, factor, to); });
    head_.template SetKeys<kL2>(nk_, [&](size_t j, float* buffer) { return Key(key_tokens_[j], key, buffer); });
    head_.SetValues([&](size_t j, float factor, float* to) { Copy(key_tokens_[j], value, dv_, factor, to); });
  }

  void Gather(size_t head) {
    if (a_.qk_norm == QkNorm::kL2) {
      GatherAll<true>(head);
    } else {
      GatherAll<false>(head);
    }
  }

  void Attend(size_t head) {
    for (size_t i = 0; i < nq_; ++i) {
      const int64_t token = query_tokens_[i];
      rows_[i] = token < 0 ? nullptr : output_ + (static_cast<size_t>(token) * heads_ + head) * dv_;
    }
    attention::Addends addends;
    if (tensors_.bias != nullptr) addends.bias = tensors_.bias + head * nq_ * nk_;
    if (masked_) addends.masks = mask_rows_;
    head_.Attend(addends, rows_, [](size_t, size_t) {});
  }

  const Plan& plan_;
  const Attributes& a_;
  const T* qkv_;
  T* output_;
  const Tensors& tensors_;
  size_t heads_, d_, dv_, nq_, nk_, channels_;
  int64_t* query_tokens_;
  int64_t* key_tokens_;
  const float** mask_rows_;
  float* masks_;
  T** rows_;
  attention::HWY_NAMESPACE::Head<attention::Activation::kSoftmax> head_;
  bool masked_ = false;
};

void Run(const Plan& plan, const Tensors& tensors, int64_t begin, int64_t end, std::byte* scratch) {
  switch (tensors.dtype) {
    case DType::kFloat32:
      return Worker<float>(plan, tensors, scratch).Run(begin, end);
    case DType::kFloat16:
      return Worker<hwy::float16_t>(plan, tensors, scratch).Run(begin, end);
    case DType::kBFloat16:
      return Worker<hwy::bfloat16_t>(plan, tensors, scratch).Run(begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::window_attention
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgetx::window_attention {

EDGETX_DEFINE_SELECT_RUN()

}  // namespace edgetx::window_attention
#endif
