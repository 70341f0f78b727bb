// The vector code of attention on gathered rows. Included once per instruction set, after Highway.
//
// A head's q, k and v are copied to memory that stays in the first- or second-level cache (Swin: 49 tokens of 32
// channels, 20 KB), keys transposed into panels. Then groups of queries go through three steps, the logits, the
// activation and the results, while their logits are in the first-level cache; the softmax's sum divides the
// result, not the probabilities. Keys past the last pad the last vector: their logit is -inf, so that both
// activations make them 0.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#undef EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#else
#define EDGETX_OPS_NATIVE_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "edgetx/ops/native/attention-products-inl.h"
#include "edgetx/ops/native/attention-softmax-inl.h"
#include "edgetx/ops/native/attention.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
namespace HWY_NAMESPACE {

// So many keys beside whole vectors cost less as dot products than as one more vector.
constexpr size_t kTail = kLanes * 3 / 8;
static_assert(kTail <= kMaxTail && MostRows(kPanel) >= 1 && MostRows(1) <= kMaxRows && MostRows(3) <= kMaxRows);

constexpr size_t Vectors(size_t count) { return (count + kLanes - 1) / kLanes; }

// A row of keys where it lies, if it can be read there in fours, else a copy.
template <class T>
HWY_INLINE const float* Readable(const T* row, size_t d, float* buffer) {
  if constexpr (std::is_same<T, float>::value) {
    if (d % 4 == 0) return row;
  }
  CopyRow(row, d, 1.0f, buffer);
  return buffer;
}

// One vector of keys to its columns of a panel, [d][width]. Rows are readable up to a multiple of 4 elements.
EDGETX_STEP void Transpose(const float* const* HWY_RESTRICT from, size_t d, size_t width, float* HWY_RESTRICT to) {
  const F f;
#if HWY_TARGET == HWY_SCALAR
  for (size_t c = 0; c < d; ++c) hn::Store(hn::LoadU(f, from[0] + c), f, to + c * width);
#else
  const hn::BlockDFromD<F> block;
  // Vector i holds channels c to c+3 of the keys i, i + 4, i + 8, ...: one 4x4 transpose per 128-bit block.
  for (size_t c = 0; c < d; c += 4) {
    Vec rows[4];
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
#if HWY_TARGET == HWY_AVX3
      rows[i] = hn::ResizeBitCast(f, hn::LoadU(block, from[i] + c));
      rows[i] = hn::InsertBlock<1>(rows[i], hn::LoadU(block, from[i + 4] + c));
      rows[i] = hn::InsertBlock<2>(rows[i], hn::LoadU(block, from[i + 8] + c));
      rows[i] = hn::InsertBlock<3>(rows[i], hn::LoadU(block, from[i + 12] + c));
#elif HWY_TARGET == HWY_AVX2
      rows[i] = hn::Combine(f, hn::LoadU(block, from[i + 4] + c), hn::LoadU(block, from[i] + c));
#else
      static_assert(kLanes == 4, "vectors of one block");
      rows[i] = hn::LoadU(block, from[i] + c);
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

// 1 / max(norm, 1e-12) of vectors whose squares sum up to x, as torch.nn.functional.normalize.
HWY_INLINE Vec InverseNorm(Vec x) {
  const F f;
  return hn::Div(hn::Set(f, 1.0f), hn::Max(hn::Sqrt(x), hn::Set(f, 1e-12f)));
}

// The columns of one vector of keys, as Transpose left them, each key over its norm.
EDGETX_STEP void NormaliseColumns(size_t d, size_t width, float* HWY_RESTRICT columns) {
  const F f;
  Vec squares = hn::Zero(f);
  for (size_t c = 0; c < d; ++c) {
    const Vec x = hn::Load(f, columns + c * width);
    squares = hn::MulAdd(x, x, squares);
  }
  const Vec factor = InverseNorm(squares);
  for (size_t c = 0; c < d; ++c) {
    hn::Store(hn::Mul(hn::Load(f, columns + c * width), factor), f, columns + c * width);
  }
}

// Rows that are padded with zeros to whole vectors, each times `factor` over its norm; works on four at once.
EDGETX_STEP void NormaliseRows(float* HWY_RESTRICT rows, size_t stride, size_t d, size_t count, float factor) {
  const F f;
  for (size_t r = 0; r < count; r += 4) {
    float* from = rows + r * stride;
    Vec squares[4] = {hn::Zero(f), hn::Zero(f), hn::Zero(f), hn::Zero(f)};
    for (size_t i = 0; i < 4; ++i) {
      for (size_t c = 0; c < d; c += kLanes) {
        const Vec x = hn::Load(f, from + i * stride + c);
        squares[i] = hn::MulAdd(x, x, squares[i]);
      }
    }
    HWY_ALIGN float factors[HWY_MAX(kLanes, 4)] = {};
    Reduce(squares, Sum(), factors);
    for (size_t i = 0; i < 4; i += kLanes) {
      hn::Store(hn::Mul(InverseNorm(hn::Load(f, factors + i)), hn::Set(f, factor)), f, factors + i);
    }
    for (size_t i = 0; i < 4; ++i) {
      const Vec scale = hn::Set(f, factors[i]);
      for (size_t c = 0; c < d; c += kLanes) {
        hn::Store(hn::Mul(hn::Load(f, from + i * stride + c), scale), f, from + i * stride + c);
      }
    }
  }
}

// Takes the head's rows, which start `offset` elements after from[i], then attends.
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
        key_rows_(Part(scratch, layout.key_rows)),
        panels_(Part(scratch, layout.panels)),
        tail_rows_(Part(scratch, layout.tail_rows)),
        values_(Part(scratch, layout.values)),
        result_(Part(scratch, layout.result)),
        highest_(Part(scratch, layout.highest)) {
    logits_.s = Part(scratch, layout.logits);
    logits_.stride = layout.logit_stride;
    logits_.tail = Part(scratch, layout.tail);
    logits_.tail_stride = layout.group_stride;
    logits_.highest = highest_;
    logits_.offset = Part(scratch, layout.offset);
    logits_.factor = Part(scratch, layout.factor);
  }

  // Rows of head_size elements, times the factor and, with kNormalise, over their norms. At least one.
  template <bool kNormalise, class T>
  HWY_INLINE void SetQueries(const T* const* from, size_t offset, size_t count, float factor) {
    nq_ = count;
    CopyRows(from, offset, count, d_, kNormalise ? 1.0f : factor, queries_, layout_.query_stride);
    if (kNormalise) NormaliseRows(queries_, layout_.query_stride, d_, count, factor);
  }

  // Rows of head_size elements, with kNormalise over their norms. At least one.
  template <bool kNormalise, class T>
  HWY_INLINE void SetKeys(const T* const* from, size_t offset, size_t count) {
    nk_ = count;
    const size_t whole = count / kLanes;
    logits_.tail_keys = whole > 0 && count % kLanes <= kTail ? count % kLanes : 0;
    logits_.vectors = Vectors(count - logits_.tail_keys);
    lanes_ = std::min(logits_.vectors * kLanes, count);
    const Cut panels(logits_.vectors, kPanel);
    for (size_t p = 0; p < panels.parts(); ++p) {
      const size_t width = panels.size(p) * kLanes;
      float* panel = panels_ + panels.begin(p) * kLanes * d_;
      for (size_t v = 0; v < panels.size(p); ++v) {
        const size_t key = (panels.begin(p) + v) * kLanes;
        const size_t real = std::min(kLanes, count - key);
        const float* rows[kLanes];
        for (size_t i = 0; i < real; ++i) {
          rows[i] = Readable(from[key + i] + offset, d_, key_rows_ + i * layout_.query_stride);
        }
        for (size_t i = real; i < kLanes; ++i) {
          ZeroRow(d_, key_rows_ + i * layout_.query_stride);
          rows[i] = key_rows_ + i * layout_.query_stride;
        }
        Transpose(rows, d_, width, panel + v * kLanes);
        if (kNormalise) NormaliseColumns(d_, width, panel + v * kLanes);
      }
    }
    CopyRows(from + lanes_, offset, logits_.tail_keys, d_, 1.0f, tail_rows_, layout_.query_stride);
    if (kNormalise) NormaliseRows(tail_rows_, layout_.query_stride, d_, logits_.tail_keys, 1.0f);
  }

  // Rows of value_size elements, one per key.
  template <class T>
  HWY_INLINE void SetValues(const T* const* from, size_t offset) {
    CopyRows(from, offset, nk_, dv_, 1.0f, values_, layout_.value_stride);
  }

  // Writes value_size elements to rows[i] for each query; nothing where it is null. T is float, hwy::float16_t
  // or hwy::bfloat16_t. The three steps run over a whole group of queries each: a switch between them costs
  // their latency. `ahead(done, all)` is called now and then, to fetch what comes next.
  template <class T, class Ahead>
  HWY_INLINE void Attend(const Addends& addends, T* const* rows, Ahead ahead) {
    for (size_t first = 0; first < nq_; first += layout_.group) {
      logits_.rows = std::min(layout_.group, nq_ - first);
      SetLogits(addends, first, [&](size_t done) { ahead(2 * first + done, 2 * nq_); });
      if constexpr (kActivation == Activation::kSoftmax) {
        Softmax(logits_);
      } else {
        Relu2(logits_);
      }
      Output(rows + first, [&](size_t done) { ahead(2 * first + logits_.rows + done, 2 * nq_); });
    }
  }

 private:
  static float* Part(std::byte* scratch, size_t offset) { return reinterpret_cast<float*>(scratch + offset); }

  // A panel stays in the first-level cache for all rows of the group.
  template <class Ahead>
  HWY_INLINE void SetLogits(const Addends& addends, size_t first, Ahead ahead) {
    const float* bias = addends.bias != nullptr ? addends.bias + first * nk_ : nullptr;
    const float* const* masks = addends.masks != nullptr ? addends.masks + first : nullptr;
    const float* queries = queries_ + first * layout_.query_stride;
    const Cut panels(logits_.vectors, kPanel);
    for (size_t p = 0; p < panels.parts(); ++p) {
      const size_t key = panels.begin(p) * kLanes;
      const size_t width = panels.size(p);
      const Cut blocks(logits_.rows, MostRows(width));
      for (size_t b = 0; b < blocks.parts(); ++b) {
        const size_t row = blocks.begin(b);
        const Start start{bias != nullptr ? bias + row * nk_ + key : nullptr,
                          nk_,
                          masks != nullptr ? masks + row : nullptr,
                          key,
                          std::min(kLanes, lanes_ - key - (width - 1) * kLanes),
                          p == 0};
        kDot[Index(blocks.size(b), width)](queries + row * layout_.query_stride, layout_.query_stride, d_,
                                           panels_ + key * d_, start, logits_.s + row * logits_.stride + key,
                                           logits_.stride, highest_ + row * kLanes);
        if (p == 0) ahead(row + blocks.size(b));
      }
    }
    for (size_t t = 0; t < logits_.tail_keys; ++t) {
      const size_t key = lanes_ + t;
      float* tail = logits_.tail + t * logits_.tail_stride;
      DotTail(queries, layout_.query_stride, d_, tail_rows_ + t * layout_.query_stride, logits_.rows, tail);
      if (bias != nullptr) {
        for (size_t r = 0; r < logits_.rows; ++r) tail[r] += bias[r * nk_ + key];
      }
      if (masks != nullptr) {
        for (size_t r = 0; r < logits_.rows; ++r) tail[r] += masks[r][key];
      }
    }
  }

  template <class T, class Ahead>
  HWY_INLINE void Output(T* const* to, Ahead ahead) {
    const Cut panels(Vectors(dv_), kPanel);
    // Float32 goes straight to the output, unless cutting a vector short is slow.
    constexpr bool kFloat = std::is_same<T, float>::value;
    const bool all = std::find(to, to + logits_.rows, nullptr) == to + logits_.rows;
    const bool direct = kFloat && (dv_ % kLanes == 0 || kLanes >= 8);
    // All panels of channels have the rows of the widest.
    const Cut blocks(logits_.rows, std::min(MostRows(panels.size(0)), MostRows(panels.size(panels.parts() - 1))));
    for (size_t b = 0; b < blocks.parts(); ++b) {
      const size_t row = blocks.begin(b);
      const size_t rows = blocks.size(b);
      float* buffer[kMaxRows];
      float* const* through = buffer;
      if constexpr (kFloat) {
        if (direct && all) through = to + row;
      }
      if (through == buffer) {
        for (size_t r = 0; r < rows; ++r) {
          buffer[r] = result_ + r * layout_.value_stride;
          if constexpr (kFloat) {
            if (direct && to[row + r] != nullptr) buffer[r] = to[row + r];
          }
        }
      }
      const Weights weights{logits_.s + row * logits_.stride,
                            logits_.stride,
                            lanes_,
                            logits_.tail + row,
                            logits_.tail_stride,
                            logits_.tail_keys,
                            logits_.factor + row};
      for (size_t p = 0; p < panels.parts(); ++p) {
        const size_t channel = panels.begin(p) * kLanes;
        const size_t width = panels.size(p);
        const size_t in_last = direct ? std::min(kLanes, dv_ - channel - (width - 1) * kLanes) : kLanes;
        kMix[Index(rows, width)](weights, values_ + channel, layout_.value_stride, through, channel, in_last);
      }
      if (!direct) StoreRows(to + row, rows);
      ahead(row + rows);
    }
  }

  template <class T>
  HWY_INLINE void StoreRows(T* const* to, size_t rows) {
    for (size_t r = 0; r < rows; ++r) {
      if (to[r] == nullptr) continue;
      const float* from = result_ + r * layout_.value_stride;
      size_t i = 0;
      for (; i + kLanes <= dv_; i += kLanes) StoreRow(hn::Load(F(), from + i), to[r] + i);
      if (i < dv_) StoreRow(hn::Load(F(), from + i), to[r] + i, dv_ - i);
    }
  }

  const Layout& layout_;
  const size_t d_, dv_;
  size_t nq_ = 0;
  size_t nk_ = 0;
  size_t lanes_ = 0;  // keys that are lanes; the others are the tail
  float* const queries_;
  float* const key_rows_;
  float* const panels_;
  float* const tail_rows_;
  float* const values_;
  float* const result_;
  float* const highest_;
  Logits logits_{};
};

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_ATTENTION_INL_H_
