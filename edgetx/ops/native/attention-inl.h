// The vector code of attention on gathered rows. Included once per instruction set, after Highway.
//
// A head's q, k and v lie in memory that stays in the first- or second-level cache (Swin: 49 tokens of 32
// channels, 20 KB). Keys are transposed into panels of kPanel vectors of keys, so that
//
//   logits[r, keys] += q[r, c] · panel[c, keys]      kMaxRows queries x kPanel vectors in registers
//   result[r, dv]   += p[r, j] · v[j, dv]            the same blocking, channels as lanes
//
// run at one multiply-add per lane and cycle with few loads: 10 loads feed 24 multiply-adds with 32 registers,
// 8 feed 12 with 16. The activation runs on the block's rows in between, while they are in the first-level cache;
// the softmax's sum divides the result, not the probabilities. Keys past the last pad the last vector: their
// logit is -inf, so both activations make them 0.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#undef EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#else
#define EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <utility>

#include "edgetx/ops/native/attention.h"
#include "edgetx/ops/native/simd_rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
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

// ---- unnormalised activation

// s = max(s, 0)^2 for `rows` rows; factor = 1. Keeps NaN.
HWY_INLINE void Relu2(float* s, size_t stride, size_t keys, float* factor, size_t rows) {
  const F f;
  for (size_t r = 0; r < rows; ++r) {
    float* row = s + r * stride;
    for (size_t j = 0; j < keys; j += kLanes) {
      const Vec positive = hn::Max(hn::Zero(f), hn::Load(f, row + j));
      hn::Store(hn::Mul(positive, positive), f, row + j);
    }
    factor[r] = 1.0f;
  }
}

// ---- one head

// Takes the head's rows, then attends. `fetch(i, to)` writes row i, float32, at `to`; it may write whole vectors.
template <Activation kActivation>
class Head {
 public:
  // `scratch` is aligned to 64 bytes, has layout.bytes and is used by no other thread; it may be used again
  // for the next head.
  Head(const Layout& layout, std::byte* scratch)
      : layout_(layout),
        d_(layout.head_size),
        dv_(layout.value_size),
        queries_(Part(scratch, layout.queries)),
        keys_(Part(scratch, layout.keys)),
        panels_(Part(scratch, layout.panels)),
        values_(Part(scratch, layout.values)),
        logits_(Part(scratch, layout.logits)),
        highest_(Part(scratch, layout.highest)),
        factors_(Part(scratch, layout.factors)),
        result_(Part(scratch, layout.result)) {}

  // Rows of head_size elements, times the scale. At least one.
  template <class Fetch>
  HWY_INLINE void SetQueries(size_t count, Fetch fetch) {
    nq_ = count;
    for (size_t i = 0; i < count; ++i) fetch(i, queries_ + i * d_);
  }

  // Rows of head_size elements. At least one.
  template <class Fetch>
  HWY_INLINE void SetKeys(size_t count, Fetch fetch) {
    nk_ = count;
    const size_t vectors = Vectors(nk_);
    for (size_t v = 0; v < vectors; ++v) {
      for (size_t i = 0; i < kLanes; ++i) {
        float* to = keys_ + i * layout_.key_stride;
        if (v * kLanes + i < nk_) {
          fetch(v * kLanes + i, to);
        } else {
          ZeroRow(d_, to);
        }
      }
      const size_t first = v / kPanel * kPanel;
      Transpose(keys_, layout_.key_stride, d_, std::min(kPanel, vectors - first) * kLanes,
                panels_ + first * kLanes * d_ + (v - first) * kLanes);
    }
  }

  // Rows of value_size elements, one per key.
  template <class Fetch>
  HWY_INLINE void SetValues(Fetch fetch) {
    for (size_t j = 0; j < nk_; ++j) fetch(j, values_ + j * layout_.value_stride);
  }

  // Writes value_size elements to rows[i] for each query; nothing where it is null. T is float, hwy::float16_t
  // or hwy::bfloat16_t. The three steps run over a whole group of queries each: a switch between them costs
  // their latency.
  template <class T>
  HWY_INLINE void Attend(const Addends& addends, T* const* rows) {
    for (size_t first = 0; first < nq_; first += layout_.group) {
      const size_t count = std::min(layout_.group, nq_ - first);
      const size_t blocks = (count + kMaxRows - 1) / kMaxRows;
      // 49 queries are 4 blocks of 6 and 5 of 5, not 8 of 6 and a single row.
      const auto start = [&](size_t block) { return block * (count / blocks) + std::min(block, count % blocks); };
      for (size_t b = 0; b < blocks; ++b) Logits(addends, first, start(b), start(b + 1) - start(b));
      if constexpr (kActivation == Activation::kSoftmax) {
        Softmax(logits_, layout_.logit_stride, nk_, highest_, factors_, count);
      } else {
        Relu2(logits_, layout_.logit_stride, nk_, factors_, count);
      }
      for (size_t b = 0; b < blocks; ++b) Output(rows + first + start(b), start(b), start(b + 1) - start(b));
    }
  }

 private:
  static float* Part(std::byte* scratch, size_t offset) { return reinterpret_cast<float*>(scratch + offset); }

  void Logits(const Addends& addends, size_t first, size_t row, size_t rows) {
    const size_t stride = layout_.logit_stride;
    const size_t vectors = Vectors(nk_);
    const size_t query = first + row;
    const float* bias = addends.bias;
    if (bias != nullptr) bias += query * nk_;
    for (size_t v = 0; v < vectors; v += kPanel) {
      const size_t width = std::min(kPanel, vectors - v);
      const size_t key = v * kLanes;
      const bool last = v + width == vectors;
      const Start start{bias != nullptr ? bias + key : nullptr,
                        nk_,
                        addends.masks != nullptr ? addends.masks + query : nullptr,
                        key,
                        last ? nk_ - (vectors - 1) * kLanes : kLanes,
                        v == 0};
      const auto& table = last && EndsInHalf(nk_) ? kDotHalf : kDot;
      table[Index(rows, width)](queries_ + query * d_, d_, panels_ + key * d_, start,
                                logits_ + row * stride + key, stride, highest_ + row * kLanes);
    }
  }

  template <class T>
  HWY_INLINE void Output(T* const* to, size_t row, size_t rows) {
    const size_t vectors = Vectors(dv_);
    // Whole vectors of float32 go straight to the output.
    constexpr bool kFloat = std::is_same<T, float>::value;
    const bool direct = kFloat && dv_ % kLanes == 0;
    float* through[kMaxRows];
    for (size_t r = 0; r < rows; ++r) {
      through[r] = result_ + r * layout_.value_stride;
      if constexpr (kFloat) {
        if (direct && to[r] != nullptr) through[r] = to[r];
      }
    }
    const float* weights = logits_ + row * layout_.logit_stride;
    for (size_t v = 0; v < vectors; v += kPanel) {
      kMix[Index(rows, std::min(kPanel, vectors - v))](weights, layout_.logit_stride, values_ + v * kLanes,
                                                       layout_.value_stride, nk_, factors_ + row, through,
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

  const Layout& layout_;
  const size_t d_, dv_;
  size_t nq_ = 0;
  size_t nk_ = 0;
  float* const queries_;
  float* const keys_;
  float* const panels_;
  float* const values_;
  float* const logits_;
  float* const highest_;
  float* const factors_;
  float* const result_;
};

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_ATTENTION_INL_H_
