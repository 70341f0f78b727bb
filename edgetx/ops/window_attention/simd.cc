// The vector code of WindowAttention, compiled once per instruction set.
//
// One item is a window and a head. Its q, k and v are gathered from NHWC into memory that stays in the
// first- or second-level cache (Swin: 49 tokens of 32 channels, 20 KB), with roll, padding and partition in
// the addresses. Keys are transposed into panels of kPanel vectors of keys, so that
//
//   logits[r, keys] += q[r, c] · panel[c, keys]      kMaxRows queries x kPanel vectors in registers
//   result[r, dv]   += p[r, j] · v[j, dv]            the same blocking, channels as lanes
//
// run at one multiply-add per lane and cycle with few loads: 10 loads feed 24 multiply-adds with 32 registers,
// 8 feed 12 with 16. The softmax runs on the block's rows in between, while they are in the first-level cache;
// its sum divides the result, not the probabilities. Keys past Nk pad the last vector: they get probability 0.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/window_attention/simd.h"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/window_attention/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::window_attention {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64;
constexpr size_t kPanel = kManyRegisters ? 4 : 2;
// Zen 4 runs a 512-bit instruction as two, so half a vector for the last few keys saves time there.
constexpr bool kHalves = HWY_TARGET == HWY_AVX3;
using H = hn::CappedTag<float, HWY_MAX(kLanes / 2, 1)>;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

constexpr size_t Vectors(size_t count) { return (count + kLanes - 1) / kLanes; }
constexpr bool EndsInHalf(size_t keys) { return kHalves && keys % kLanes != 0 && keys % kLanes <= kLanes / 2; }

// ---- rows

// `count` elements times `factor`; writes whole vectors, zeros past `count`.
template <class T>
HWY_INLINE void CopyRow(const T* from, size_t count, float factor, float* HWY_RESTRICT to) {
  const Vec f = hn::Set(F(), factor);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::Mul(LoadRow(from + i), f), F(), to + i);
  if (i < count) hn::StoreU(hn::Mul(LoadRow(from + i, count - i), f), F(), to + i);
}

HWY_INLINE void ZeroRow(size_t count, float* HWY_RESTRICT to) {
  for (size_t i = 0; i < count; i += kLanes) hn::StoreU(hn::Zero(F()), F(), to + i);
}

// max(norm, 1e-12), as torch.nn.functional.normalize.
template <class T>
HWY_INLINE float Norm(const T* from, size_t count) {
  Vec sum = hn::Zero(F());
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec row = LoadRow(from + i);
    sum = hn::MulAdd(row, row, sum);
  }
  if (i < count) {
    const Vec row = LoadRow(from + i, count - i);
    sum = hn::MulAdd(row, row, sum);
  }
  const float squares = hn::ReduceSum(F(), sum);
  return std::max(hn::GetLane(hn::Sqrt(hn::Set(F(), squares))), 1e-12f);
}

// ---- the two matrix products; the sums stay in registers because every loop over them is unrolled

// What the logits of some rows start from: bias + mask, and -inf past the last key.
struct Start {
  const float* bias;          // or null; of the first row and the panel's first key
  size_t bias_stride;
  const float* const* masks;  // or null; one row of all keys per query
  size_t key;                 // the panel's first key
  size_t tail;                // keys of the panel's last vector
  bool first;                 // whether this is the first panel
};

template <class D>
HWY_INLINE hn::Vec<D> StartOf(D f, const Start& start, size_t row, size_t offset) {
  hn::Vec<D> x = hn::Zero(f);
  if (start.bias != nullptr) x = hn::LoadU(f, start.bias + row * start.bias_stride + offset);
  if (start.masks != nullptr) x = hn::Add(x, hn::Load(f, start.masks[row] + start.key + offset));
  return x;
}
template <class D>
HWY_INLINE hn::Vec<D> StartOfLast(D f, const Start& start, size_t row, size_t offset) {
  if (start.tail == hn::Lanes(f)) return StartOf(f, start, row, offset);
  hn::Vec<D> x = hn::Zero(f);
  if (start.bias != nullptr) x = hn::LoadN(f, start.bias + row * start.bias_stride + offset, start.tail);
  if (start.masks != nullptr) x = hn::Add(x, hn::Load(f, start.masks[row] + start.key + offset));
  return hn::IfThenElse(hn::FirstN(f, start.tail), x, hn::Set(f, kLowest));
}

// s[r, keys] = start + q[r, :] · panel[:, keys] for R queries and V vectors of keys, the last of them half a
// vector if kHalf; each row's largest so far, per lane, goes to highest[r, :].
template <size_t R, size_t V, bool kHalf>
void Dot(const float* HWY_RESTRICT q, size_t d, const float* HWY_RESTRICT panel, const Start& start,
         float* HWY_RESTRICT s, size_t s_stride, float* HWY_RESTRICT highest) {
  const F f;
  const H half;
  constexpr size_t kWhole = kHalf ? V - 1 : V;
  constexpr size_t kLast = (V - 1) * kLanes;
  Vec sum[R][V];
  hn::Vec<H> tail[R];
  HWY_UNROLL(6)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(6)
    for (size_t v = 0; v < V - 1; ++v) sum[r][v] = StartOf(f, start, r, v * kLanes);
    if constexpr (kHalf) {
      tail[r] = StartOfLast(half, start, r, kLast);
    } else {
      sum[r][V - 1] = StartOfLast(f, start, r, kLast);
    }
  }
  for (size_t c = 0; c < d; ++c) {
    Vec keys[V];
    hn::Vec<H> last_keys;
    HWY_UNROLL(6)
    for (size_t v = 0; v < kWhole; ++v) keys[v] = hn::Load(f, panel + (c * V + v) * kLanes);
    if constexpr (kHalf) last_keys = hn::Load(half, panel + c * V * kLanes + kLast);
    HWY_UNROLL(6)
    for (size_t r = 0; r < R; ++r) {
      const Vec query = hn::Set(f, q[r * d + c]);
      HWY_UNROLL(6)
      for (size_t v = 0; v < kWhole; ++v) sum[r][v] = hn::MulAdd(query, keys[v], sum[r][v]);
      if constexpr (kHalf) tail[r] = hn::MulAdd(hn::ResizeBitCast(half, query), last_keys, tail[r]);
    }
  }
  HWY_UNROLL(6)
  for (size_t r = 0; r < R; ++r) {
    Vec max = start.first ? hn::Set(f, kLowest) : hn::Load(f, highest + r * kLanes);
    HWY_UNROLL(6)
    for (size_t v = 0; v < kWhole; ++v) {
      hn::Store(sum[r][v], f, s + r * s_stride + v * kLanes);
      max = hn::Max(max, sum[r][v]);
    }
    hn::Store(max, f, highest + r * kLanes);
    if constexpr (kHalf) {
      hn::Store(tail[r], half, s + r * s_stride + kLast);
      hn::Store(hn::Max(hn::ResizeBitCast(half, max), tail[r]), half, highest + r * kLanes);
    }
  }
}

// rows[r][:] = factor[r] · p[r, :] · values[:, dv] for R queries and V vectors of channels.
template <size_t R, size_t V>
void Mix(const float* HWY_RESTRICT p, size_t p_stride, const float* HWY_RESTRICT values, size_t stride,
         size_t tokens, const float* HWY_RESTRICT factor, float* const* HWY_RESTRICT rows, size_t channel) {
  const F f;
  Vec sum[R][V];
  HWY_UNROLL(6)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(6)
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::Zero(f);
  }
  for (size_t j = 0; j < tokens; ++j) {
    Vec row[V];
    HWY_UNROLL(6)
    for (size_t v = 0; v < V; ++v) row[v] = hn::Load(f, values + j * stride + v * kLanes);
    HWY_UNROLL(6)
    for (size_t r = 0; r < R; ++r) {
      const Vec weight = hn::Set(f, p[r * p_stride + j]);
      HWY_UNROLL(6)
      for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(weight, row[v], sum[r][v]);
    }
  }
  HWY_UNROLL(6)
  for (size_t r = 0; r < R; ++r) {
    const Vec scale = hn::Set(f, factor[r]);
    HWY_UNROLL(6)
    for (size_t v = 0; v < V; ++v) hn::StoreU(hn::Mul(sum[r][v], scale), f, rows[r] + channel + v * kLanes);
  }
}

// A function for every number of rows and of vectors.
using DotFunction = decltype(&Dot<1, 1, false>);
using MixFunction = decltype(&Mix<1, 1>);
template <bool kHalf, size_t... I>
constexpr std::array<DotFunction, sizeof...(I)> DotTable(std::index_sequence<I...>) {
  return {&Dot<I / kPanel + 1, I % kPanel + 1, kHalf>...};
}
template <size_t... I>
constexpr std::array<MixFunction, sizeof...(I)> MixTable(std::index_sequence<I...>) {
  return {&Mix<I / kPanel + 1, I % kPanel + 1>...};
}
constexpr auto kDot = DotTable<false>(std::make_index_sequence<kMaxRows * kPanel>());
constexpr auto kDotHalf = DotTable<kHalves>(std::make_index_sequence<kMaxRows * kPanel>());
constexpr auto kMix = MixTable(std::make_index_sequence<kMaxRows * kPanel>());
constexpr size_t Index(size_t rows, size_t vectors) { return (rows - 1) * kPanel + vectors - 1; }

// One vector of keys, [kLanes][stride], to its columns of a panel, [d][width].
HWY_INLINE void Transpose(const float* HWY_RESTRICT from, size_t stride, size_t d, size_t width,
                          float* HWY_RESTRICT to) {
  const F f;
#if HWY_TARGET == HWY_SCALAR
  for (size_t c = 0; c < d; ++c) hn::Store(hn::LoadU(f, from + c), f, to + c * width);
#else
  const hn::BlockDFromD<F> block;
  // Vector i holds channels c to c+3 of the keys i, i + 4, i + 8, ...: one 4x4 transpose per 128-bit block.
  for (size_t c = 0; c < d; c += 4) {
    Vec rows[4];
    for (size_t i = 0; i < 4; ++i) {
      const float* row = from + i * stride + c;
#if HWY_TARGET == HWY_AVX3
      rows[i] = hn::ResizeBitCast(f, hn::Load(block, row));
      rows[i] = hn::InsertBlock<1>(rows[i], hn::Load(block, row + 4 * stride));
      rows[i] = hn::InsertBlock<2>(rows[i], hn::Load(block, row + 8 * stride));
      rows[i] = hn::InsertBlock<3>(rows[i], hn::Load(block, row + 12 * stride));
#elif HWY_TARGET == HWY_AVX2
      rows[i] = hn::Combine(f, hn::Load(block, row + 4 * stride), hn::Load(block, row));
#else
      static_assert(kLanes == 4, "vectors of one block");
      rows[i] = hn::Load(block, row);
#endif
    }
    const Vec even_low = hn::InterleaveLower(f, rows[0], rows[2]);
    const Vec even_high = hn::InterleaveUpper(f, rows[0], rows[2]);
    const Vec odd_low = hn::InterleaveLower(f, rows[1], rows[3]);
    const Vec odd_high = hn::InterleaveUpper(f, rows[1], rows[3]);
    const Vec columns[4] = {
        hn::InterleaveLower(f, even_low, odd_low), hn::InterleaveUpper(f, even_low, odd_low),
        hn::InterleaveLower(f, even_high, odd_high), hn::InterleaveUpper(f, even_high, odd_high)};
    const size_t count = std::min<size_t>(4, d - c);
    for (size_t i = 0; i < count; ++i) hn::Store(columns[i], f, to + (c + i) * width);
  }
#endif
}

// ---- softmax

// e^x for x <= 0, relative error below 2e-7 where the result is above 1e-3; below -87 (and -inf) 1e-38 instead of
// less, which no float32 sum of a softmax sees. Keeps NaN.
template <class D>
HWY_INLINE hn::Vec<D> Exp(D f, hn::Vec<D> x) {
  const hn::RebindToSigned<D> i;
  // x86 returns the second operand where one is NaN.
  x = hn::Max(hn::Set(f, -87.0f), x);
  // Adding 1.5·2^23 leaves n = round(x / ln 2) in the low bits.
  const auto magic = hn::Set(f, 12582912.0f);
  const auto shifted = hn::MulAdd(x, hn::Set(f, 1.44269504f), magic);
  const auto r = hn::NegMulAdd(hn::Sub(shifted, magic), hn::Set(f, 0.693147181f), x);
  // 1 + r·q(r), the q of degree 4 with the least relative error (9e-8) on [-ln(2)/2, ln(2)/2].
  auto p = hn::MulAdd(hn::Set(f, 0x1.0fa77cp-7f), r, hn::Set(f, 0x1.573b4ap-5f));
  p = hn::MulAdd(p, r, hn::Set(f, 0x1.555a7p-3f));
  p = hn::MulAdd(p, r, hn::Set(f, 0x1.fffdc2p-2f));
  p = hn::MulAdd(p, r, hn::Set(f, 0x1.fffff6p-1f));
  p = hn::MulAdd(p, r, hn::Set(f, 1.0f));
  return hn::BitCast(f, hn::Add(hn::BitCast(i, p), hn::ShiftLeft<23>(hn::BitCast(i, shifted))));
}

// s = e^(s - highest) for R rows side by side, since each is a long chain; factor = 1 / sum.
template <size_t R>
HWY_INLINE void Exponentials(float* HWY_RESTRICT s, size_t stride, size_t keys, const float* HWY_RESTRICT highest,
                             float* HWY_RESTRICT factor) {
  const F f;
  const H half;
  const size_t whole = EndsInHalf(keys) ? keys / kLanes * kLanes : keys;
  Vec max[R];
  Vec sum[R];
  HWY_UNROLL(4)
  for (size_t r = 0; r < R; ++r) {
    max[r] = hn::Set(f, highest[r]);
    sum[r] = hn::Zero(f);
  }
  for (size_t j = 0; j < whole; j += kLanes) {
    HWY_UNROLL(4)
    for (size_t r = 0; r < R; ++r) {
      const Vec e = Exp(f, hn::Sub(hn::Load(f, s + r * stride + j), max[r]));
      hn::Store(e, f, s + r * stride + j);
      sum[r] = hn::Add(sum[r], e);
    }
  }
  if (whole < keys) {
    HWY_UNROLL(4)
    for (size_t r = 0; r < R; ++r) {
      const auto e = Exp(half, hn::Sub(hn::Load(half, s + r * stride + whole), hn::ResizeBitCast(half, max[r])));
      hn::Store(e, half, s + r * stride + whole);
      sum[r] = hn::Add(sum[r], hn::ZeroExtendResizeBitCast(f, half, e));
    }
  }
  HWY_UNROLL(4)
  for (size_t r = 0; r < R; ++r) factor[r] = 1.0f / hn::ReduceSum(f, sum[r]);
}

// The numerators of the softmax of `rows` rows; factor = 1 / sum. `highest` holds a vector per row.
HWY_INLINE void Softmax(float* s, size_t stride, size_t keys, float* highest, float* factor, size_t rows) {
  for (size_t r = 0; r < rows; ++r) highest[r] = hn::ReduceMax(F(), hn::Load(F(), highest + r * kLanes));
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) Exponentials<4>(s + r * stride, stride, keys, highest + r, factor + r);
  for (; r < rows; ++r) Exponentials<1>(s + r * stride, stride, keys, highest + r, factor + r);
}

// ---- windows and heads

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
        queries_(Part<float>(scratch, plan.layout.queries)),
        keys_(Part<float>(scratch, plan.layout.keys)),
        panels_(Part<float>(scratch, plan.layout.panels)),
        values_(Part<float>(scratch, plan.layout.values)),
        logits_(Part<float>(scratch, plan.layout.logits)),
        highest_(Part<float>(scratch, plan.layout.highest)),
        factors_(Part<float>(scratch, plan.layout.factors)),
        result_(Part<float>(scratch, plan.layout.result)) {
  }

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
        for (size_t j = nk_; j < plan_.layout.logit_stride; ++j) *row++ = 0.0f;
      }
    }
    const float** query = mask_rows_;
    for (int64_t i = 0; i < plan_.y.window; ++i) {
      const int64_t ry = Region(plan_.y, top + i);
      for (int64_t j = 0; j < plan_.x.window; ++j) *query++ = MaskRow(ry, Region(plan_.x, left + j));
    }
  }

  float* MaskRow(int64_t ry, int64_t rx) const {
    return masks_ + static_cast<size_t>(ry * 3 + rx) * plan_.layout.logit_stride;
  }

  // Part of a token's row (`offset`, `count` of its channels) as float32, times `factor` and, with kL2, over
  // its norm.
  template <bool kL2>
  HWY_INLINE void Fetch(int64_t token, size_t offset, size_t count, float factor, float* to) const {
    if (token >= 0) {
      const T* row = qkv_ + static_cast<size_t>(token) * channels_ + offset;
      if (kL2) factor /= Norm(row, count);
      CopyRow(row, count, factor, to);
    } else if (token == kPad && tensors_.pad_value != nullptr) {
      const float* row = tensors_.pad_value + offset;
      if (kL2) factor /= Norm(row, count);
      CopyRow(row, count, factor, to);
    } else {
      ZeroRow(count, to);
    }
  }

  template <bool kL2>
  void GatherAll(size_t head) {
    const float factor = a_.scale * (tensors_.head_scale != nullptr ? tensors_.head_scale[head] : 1.0f);
    const size_t key = (heads_ + head) * d_;
    const size_t value = 2 * heads_ * d_ + head * dv_;
    for (size_t i = 0; i < nq_; ++i) Fetch<kL2>(query_tokens_[i], head * d_, d_, factor, queries_ + i * d_);
    for (size_t j = 0; j < nk_; ++j) {
      Fetch<false>(key_tokens_[j], value, dv_, 1.0f, values_ + j * plan_.layout.value_stride);
    }
    const size_t vectors = Vectors(nk_);
    for (size_t v = 0; v < vectors; ++v) {
      for (size_t i = 0; i < kLanes; ++i) {
        const size_t j = v * kLanes + i;
        Fetch<kL2>(j < nk_ ? key_tokens_[j] : kOutside, key, d_, 1.0f, keys_ + i * plan_.layout.key_stride);
      }
      const size_t first = v / kPanel * kPanel;
      Transpose(keys_, plan_.layout.key_stride, d_, std::min(kPanel, vectors - first) * kLanes,
                panels_ + first * kLanes * d_ + (v - first) * kLanes);
    }
  }

  void Gather(size_t head) {
    if (a_.qk_norm == QkNorm::kL2) {
      GatherAll<true>(head);
    } else {
      GatherAll<false>(head);
    }
  }

  // The three steps, each over a whole group of queries: a switch between them costs their latency.
  void Attend(size_t head) {
    for (size_t first = 0; first < nq_; first += plan_.layout.group) {
      const size_t count = std::min(plan_.layout.group, nq_ - first);
      const size_t blocks = (count + kMaxRows - 1) / kMaxRows;
      // 49 queries are 4 blocks of 6 and 5 of 5, not 8 of 6 and a single row.
      const auto start = [&](size_t block) { return block * (count / blocks) + std::min(block, count % blocks); };
      for (size_t b = 0; b < blocks; ++b) Logits(head, first, start(b), start(b + 1) - start(b));
      Softmax(logits_, plan_.layout.logit_stride, nk_, highest_, factors_, count);
      for (size_t b = 0; b < blocks; ++b) Output(head, first, start(b), start(b + 1) - start(b));
    }
  }

  void Logits(size_t head, size_t first, size_t row, size_t rows) {
    const size_t stride = plan_.layout.logit_stride;
    const size_t vectors = Vectors(nk_);
    const size_t query = first + row;
    const float* bias = tensors_.bias;
    if (bias != nullptr) bias += (head * nq_ + query) * nk_;
    for (size_t v = 0; v < vectors; v += kPanel) {
      const size_t width = std::min(kPanel, vectors - v);
      const size_t key = v * kLanes;
      const bool last = v + width == vectors;
      const Start start{bias != nullptr ? bias + key : nullptr,
                        nk_,
                        masked_ ? mask_rows_ + query : nullptr,
                        key,
                        last ? nk_ - (vectors - 1) * kLanes : kLanes,
                        v == 0};
      const auto& table = last && EndsInHalf(nk_) ? kDotHalf : kDot;
      table[Index(rows, width)](queries_ + query * d_, d_, panels_ + key * d_, start,
                                logits_ + row * stride + key, stride, highest_ + row * kLanes);
    }
  }

  void Output(size_t head, size_t first, size_t row, size_t rows) {
    const size_t vectors = Vectors(dv_);
    // Whole vectors of float32 go straight to the output.
    constexpr bool kFloat = std::is_same<T, float>::value;
    const bool direct = kFloat && dv_ % kLanes == 0;
    T* to[kMaxRows];
    float* through[kMaxRows];
    for (size_t r = 0; r < rows; ++r) {
      const int64_t token = query_tokens_[first + row + r];
      to[r] = token < 0 ? nullptr : output_ + (static_cast<size_t>(token) * heads_ + head) * dv_;
      through[r] = result_ + r * plan_.layout.value_stride;
      if constexpr (kFloat) {
        if (direct && to[r] != nullptr) through[r] = to[r];
      }
    }
    const float* weights = logits_ + row * plan_.layout.logit_stride;
    for (size_t v = 0; v < vectors; v += kPanel) {
      kMix[Index(rows, std::min(kPanel, vectors - v))](weights, plan_.layout.logit_stride, values_ + v * kLanes,
                                                       plan_.layout.value_stride, nk_, factors_ + row, through,
                                                       v * kLanes);
    }
    if (direct) return;
    for (size_t r = 0; r < rows; ++r) {
      if (to[r] == nullptr) continue;
      size_t i = 0;
      for (; i + kLanes <= dv_; i += kLanes) StoreRow(hn::Load(F(), through[r] + i), to[r] + i);
      if (i < dv_) StoreRow(hn::Load(F(), through[r] + i), to[r] + i, dv_ - i);
    }
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
  float* queries_;
  float* keys_;
  float* panels_;
  float* values_;
  float* logits_;
  float* highest_;
  float* factors_;
  float* result_;
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

RunFunction SelectRun([[maybe_unused]] CpuLevel level) {
#if HWY_TARGETS & HWY_AVX3
  if (level >= CpuLevel::kAvx512) return &N_AVX3::Run;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (level >= CpuLevel::kAvx2) return &N_AVX2::Run;
#endif
  return &HWY_NAMESPACE::Run;
}

}  // namespace edgetx::window_attention
#endif
