// The vector code of WindowAttention, compiled once per instruction set.
//
// One item is a window and a head. Its q, k and v are gathered from NHWC, with roll, padding and partition in the
// addresses; native/attention-inl.h does the rest.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/window_attention/simd.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

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

// Bytes of position bias from which on the windows of a head follow each other, rather than the heads of a window:
// the bias of all heads would not stay in a second-level cache.
constexpr size_t kLargeBias = 256 * 1024;

// A map of more bytes is not in the second-level cache when an operator gets it.
constexpr size_t kFar = 512 * 1024;

// To the second-level cache: the first is full of the item at hand.
HWY_INLINE void PrefetchLine([[maybe_unused]] const void* line) {
#if defined(__GNUC__)
  __builtin_prefetch(line, 0, 2);
#endif
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
        mask_rows_(Part<const float*>(scratch, plan.layout.mask_rows)),
        masks_(Part<float>(scratch, plan.layout.masks)),
        rows_(Part<T*>(scratch, plan.layout.rows)),
        pad_row_(Part<T>(scratch, plan.layout.pad_row)),
        zero_row_(Part<T>(scratch, plan.layout.zero_row)),
        own_keys_(plan.y.keys != plan.y.window || plan.x.keys != plan.x.window),
        far_(static_cast<size_t>(plan.items() / a_.num_heads) * nq_ * channels_ * sizeof(T) > kFar),
        head_(plan.layout.head, scratch + plan.layout.head_memory) {
    for (size_t i = 0; i < 2; ++i) {
      windows_[i].queries = Part<const T*>(scratch, plan.layout.query_rows[i]);
      windows_[i].keys = own_keys_ ? Part<const T*>(scratch, plan.layout.key_rows[i]) : windows_[i].queries;
      windows_[i].outputs = Part<T*>(scratch, plan.layout.output_rows[i]);
    }
    if (a_.pad != Pad::kNone || nk_ != nq_) {
      SetRow(tensors.pad_value, pad_row_);
      SetRow(nullptr, zero_row_);
    }
  }

  void Run(int64_t begin, int64_t end) {
    Window* now = &windows_[0];
    Window* next = &windows_[1];
    for (int64_t item = begin; item < end; ++item) {
      const Place place = PlaceOf(item);
      if (now->index != place.window) std::swap(now, next);
      if (now->index != place.window) Enter(place.window, now);
      if (mask_of_ != place.window) Mark(*now);
      Ahead ahead;
      if (item + 1 < end) {
        const Place following = PlaceOf(item + 1);
        if (following.window != place.window) Enter(following.window, next);
        if (far_) ahead = {this, following.window == place.window ? now : next, following.head, 0, 0};
      }
      if (!now->used) continue;
      Gather(*now, place.head);
      Attend(*now, place.head, &ahead);
    }
  }

 private:
  struct Place {
    int64_t window;
    size_t head;
  };

  // Where a window's rows lie; of no window at first.
  struct Window {
    int64_t index = -1;
    bool used = false;    // whether any query is a token of the map
    bool masked = false;  // whether it holds several regions
    int64_t top = 0, left = 0, first_y = 0, first_x = 0;  // of queries and of keys
    const T** queries = nullptr;
    const T** keys = nullptr;
    T** outputs = nullptr;
  };

  // Brings the rows of the next item near, a few at a time: they lie far apart.
  struct Ahead {
    void operator()(size_t done, size_t all) {
      if (worker != nullptr) worker->Prefetch(this, done, all);
    }
    const Worker* worker = nullptr;
    const Window* window = nullptr;
    size_t head = 0;
    size_t queries = 0, keys = 0;  // so many have been asked for
  };

  template <class U>
  static U* Part(std::byte* scratch, size_t offset) {
    return reinterpret_cast<U*>(scratch + offset);
  }

  // A row of all channels in the tensors' type; zeros for null.
  void SetRow(const float* from, T* to) const {
    for (size_t i = 0; i < channels_; i += kLanes) {
      const size_t count = std::min(kLanes, channels_ - i);
      StoreRow(from != nullptr ? LoadRow(from + i, count) : hn::Zero(F()), to + i, count);
    }
  }

  Place PlaceOf(int64_t item) const {
    const int64_t windows = plan_.items() / a_.num_heads;
    if (tensors_.bias != nullptr && heads_ * nq_ * nk_ * sizeof(float) > kLargeBias) {
      return {item % windows, static_cast<size_t>(item / windows)};
    }
    return {item / a_.num_heads, static_cast<size_t>(item % a_.num_heads)};
  }

  void Enter(int64_t index, Window* window) const {
    const Axis& y = plan_.y;
    const Axis& x = plan_.x;
    window->index = index;
    const int64_t batch = index / (y.windows * x.windows);
    window->top = index / x.windows % y.windows * y.window;
    window->left = index % x.windows * x.window;
    window->first_y = window->top - (y.keys - y.window) / 2;
    window->first_x = window->left - (x.keys - x.window) / 2;
    window->used = List(batch, window->top, window->left, y.window, x.window, window->queries, window->outputs);
    if (own_keys_) List(batch, window->first_y, window->first_x, y.keys, x.keys, window->keys, nullptr);
    window->masked = a_.mask == Mask::kRegion &&
                     (Region(y, window->first_y) != Region(y, window->first_y + y.keys - 1) ||
                      Region(x, window->first_x) != Region(x, window->first_x + x.keys - 1));
  }

  // The rows of a rectangle of positions; whether any is a token of the map.
  bool List(int64_t batch, int64_t top, int64_t left, int64_t height, int64_t width, const T** rows,
            T** outputs) const {
    bool any = false;
    for (int64_t i = 0; i < height; ++i) {
      const int64_t y = Token(plan_.y, top + i);
      const int64_t row = (batch * plan_.y.size + y) * plan_.x.size;
      for (int64_t j = 0; j < width; ++j) {
        const int64_t x = Token(plan_.x, left + j);
        const bool real = y >= 0 && x >= 0;
        any |= real;
        const auto token = static_cast<size_t>(row + x);
        *rows++ = real ? qkv_ + token * channels_ : std::min(y, x) == kPad ? pad_row_ : zero_row_;
        if (outputs != nullptr) *outputs++ = real ? output_ + token * heads_ * dv_ : nullptr;
      }
    }
    return any;
  }

  // One row of the mask per region of queries, and the row of each query.
  void Mark(const Window& window) {
    mask_of_ = window.index;
    if (!window.masked) return;
    const auto [top, left, first_y, first_x] = std::array{window.top, window.left, window.first_y, window.first_x};
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

  void Gather(const Window& window, size_t head) {
    if (a_.qk_norm == QkNorm::kL2) {
      GatherAll<true>(window, head);
    } else {
      GatherAll<false>(window, head);
    }
  }

  template <bool kL2>
  void GatherAll(const Window& window, size_t head) {
    const float scale = a_.scale * (tensors_.head_scale != nullptr ? tensors_.head_scale[head] : 1.0f);
    head_.template SetQueries<kL2>(window.queries, head * d_, nq_, scale);
    head_.template SetKeys<kL2>(window.keys, KeyOffset(head), nk_);
    head_.SetValues(window.keys, ValueOffset(head));
  }

  size_t KeyOffset(size_t head) const { return (heads_ + head) * d_; }
  size_t ValueOffset(size_t head) const { return 2 * heads_ * d_ + head * dv_; }

  HWY_INLINE void Prefetch(Ahead* ahead, size_t done, size_t all) const {
    const size_t queries = nq_ * done / all;
    const size_t keys = nk_ * done / all;
    const Window& window = *ahead->window;
    PrefetchRows(window.queries, ahead->queries, queries, ahead->head * d_, d_);
    PrefetchRows(window.keys, ahead->keys, keys, KeyOffset(ahead->head), d_);
    PrefetchRows(window.keys, ahead->keys, keys, ValueOffset(ahead->head), dv_);
    ahead->queries = queries;
    ahead->keys = keys;
  }

  static HWY_INLINE void PrefetchRows(const T* const* rows, size_t begin, size_t end, size_t offset, size_t size) {
    constexpr size_t kLine = 64 / sizeof(T);
    for (size_t i = begin; i < end; ++i) {
      const T* row = rows[i] + offset;
      for (size_t c = 0; c < size; c += kLine) PrefetchLine(row + c);
      if (size % kLine != 0) PrefetchLine(row + size - 1);
    }
  }

  void Attend(const Window& window, size_t head, Ahead* ahead) {
    for (size_t i = 0; i < nq_; ++i) {
      rows_[i] = window.outputs[i] != nullptr ? window.outputs[i] + head * dv_ : nullptr;
    }
    attention::Addends addends;
    if (tensors_.bias != nullptr) addends.bias = tensors_.bias + head * nq_ * nk_;
    if (window.masked) addends.masks = mask_rows_;
    head_.Attend(addends, rows_, [ahead](size_t done, size_t all) { (*ahead)(done, all); });
  }

  const Plan& plan_;
  const Attributes& a_;
  const T* qkv_;
  T* output_;
  const Tensors& tensors_;
  size_t heads_, d_, dv_, nq_, nk_, channels_;
  Window windows_[2];
  int64_t mask_of_ = -1;  // the window that the masks are of
  const float** mask_rows_;
  float* masks_;
  T** rows_;
  T* pad_row_;   // of padding, and of keys outside; only where the attributes allow them
  T* zero_row_;
  bool own_keys_;  // whether a window's keys are others than its queries' tokens
  bool far_;     // whether rows should be asked for ahead
  attention::HWY_NAMESPACE::Head<attention::Activation::kSoftmax> head_;
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
