// The two matrix products of attention on gathered rows. Included once per instruction set, after Highway.
//
//   logits[r, keys] += q[r, c] · panel[c, keys]      keys as lanes
//   result[r, dv]   += p[r, j] · v[j, dv]            channels as lanes
//
// Both keep R rows x V vectors of sums in registers, as many as there are: 9 x 3 take 12 loads for 27 multiply-adds.
// A few keys that do not fill a vector are a loss as lanes (49 keys in vectors of 16): their logits are dot
// products along the channels, summed over the lanes of four rows at once, and lie with rows as lanes.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_ATTENTION_PRODUCTS_INL_H_
#undef EDGETX_OPS_NATIVE_ATTENTION_PRODUCTS_INL_H_
#else
#define EDGETX_OPS_NATIVE_ATTENTION_PRODUCTS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <limits>

#include "edgetx/ops/native/attention.h"
#include "edgetx/ops/native/simd_rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

constexpr size_t kRegisters = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 32 : 16;
constexpr size_t kPanel = kRegisters == 32 ? 4 : 2;  // vectors of keys or channels at once, at most
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// The rows that leave registers for V vectors of the other factor and one of this one. No more than 8: addresses
// need registers too.
constexpr size_t MostRows(size_t vectors) {
  return std::min<size_t>((kRegisters - 1 - vectors) / vectors, 8);
}

// `count` things in the fewest parts of at most `most`, as even as can be: 49 rows are 7 parts of 7, not 6 of 8
// and a single row.
class Cut {
 public:
  Cut(size_t count, size_t most) : parts_((count + most - 1) / most), each_(count / parts_), more_(count % parts_) {}
  size_t parts() const { return parts_; }
  size_t begin(size_t part) const { return part * each_ + std::min(part, more_); }
  size_t size(size_t part) const { return each_ + (part < more_); }

 private:
  size_t parts_, each_, more_;
};

// ---- lanes of four vectors at once

struct Sum {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};
struct Largest {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
};

// The halves of a vector on each other, until 4 lanes are left, which go to `to`.
template <class Op, class D>
HWY_INLINE void Fold(D f, hn::Vec<D> x, Op op, float* HWY_RESTRICT to) {
  if constexpr (HWY_MAX_LANES_D(D) <= 4) {
    hn::StoreU(x, f, to);
  } else {
    const hn::Half<D> half;
    Fold(half, op(hn::LowerHalf(half, x), hn::UpperHalf(half, x)), op, to);
  }
}

// to[i] = op over the lanes of the i-th vector.
template <class Op>
HWY_INLINE void Reduce(const Vec (&x)[4], Op op, float* HWY_RESTRICT to) {
  const F f;
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < 4; ++i) hn::Store(x[i], f, to + i);
#else
  const Vec even = op(hn::InterleaveLower(f, x[0], x[2]), hn::InterleaveUpper(f, x[0], x[2]));
  const Vec odd = op(hn::InterleaveLower(f, x[1], x[3]), hn::InterleaveUpper(f, x[1], x[3]));
  Fold(f, op(hn::InterleaveLower(f, even, odd), hn::InterleaveUpper(f, even, odd)), op, to);
#endif
}

// ---- logits

// What the logits of some rows start from: bias + mask, and -inf past the last key.
struct Start {
  const float* bias;          // or null; of the first row and the panel's first key
  size_t bias_stride;
  const float* const* masks;  // or null; one row of all keys per query
  size_t key;                 // the panel's first key
  size_t in_last;             // keys of the panel's last vector
  bool first;                 // whether this is the first panel
};

// Branches outside, so that what runs is a row of loads.
template <size_t R, size_t V>
HWY_INLINE void Begin(const Start& start, Vec (&sum)[R][V]) {
  const F f;
  const auto each = [&](auto load) {
    HWY_UNROLL(9)
    for (size_t r = 0; r < R; ++r) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < V; ++v) sum[r][v] = load(r, v);
    }
  };
  const auto bias = [&](size_t r, size_t v) { return hn::LoadU(f, start.bias + r * start.bias_stride + v * kLanes); };
  const auto mask = [&](size_t r, size_t v) { return hn::Load(f, start.masks[r] + start.key + v * kLanes); };
  if (start.in_last != kLanes) {
    const auto inside = hn::FirstN(f, start.in_last);
    each([&](size_t r, size_t v) {
      Vec x = hn::Zero(f);
      if (start.bias != nullptr) {
        x = v + 1 < V ? bias(r, v) : hn::LoadN(f, start.bias + r * start.bias_stride + v * kLanes, start.in_last);
      }
      if (start.masks != nullptr) x = hn::Add(x, mask(r, v));
      return v + 1 < V ? x : hn::IfThenElse(inside, x, hn::Set(f, kLowest));
    });
  } else if (start.masks != nullptr && start.bias != nullptr) {
    each([&](size_t r, size_t v) { return hn::Add(bias(r, v), mask(r, v)); });
  } else if (start.masks != nullptr) {
    each(mask);
  } else if (start.bias != nullptr) {
    each(bias);
  } else {
    each([&](size_t, size_t) { return hn::Zero(f); });
  }
}

// s[r, keys] = start + q[r, :] · panel[:, keys] for R queries and V vectors of keys; each row's largest so far,
// per lane, goes to highest[r, :].
template <size_t R, size_t V>
void Dot(const float* HWY_RESTRICT q, size_t q_stride, size_t d, const float* HWY_RESTRICT panel, const Start& start,
         float* HWY_RESTRICT s, size_t s_stride, float* HWY_RESTRICT highest) {
  const F f;
  Vec sum[R][V];
  Begin(start, sum);
  HWY_UNROLL(4)
  for (size_t c = 0; c < d; ++c) {
    Vec keys[V];
    HWY_UNROLL(4)
    for (size_t v = 0; v < V; ++v) keys[v] = hn::Load(f, panel + (c * V + v) * kLanes);
    HWY_UNROLL(9)
    for (size_t r = 0; r < R; ++r) {
      const Vec query = hn::Set(f, q[r * q_stride + c]);
      HWY_UNROLL(4)
      for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(query, keys[v], sum[r][v]);
    }
  }
  HWY_UNROLL(9)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < V; ++v) hn::Store(sum[r][v], f, s + r * s_stride + v * kLanes);
    HWY_UNROLL(4)
    for (size_t v = 1; v < V; ++v) sum[r][0] = hn::Max(sum[r][0], sum[r][v]);
  }
  if (!start.first) {
    HWY_UNROLL(9)
    for (size_t r = 0; r < R; ++r) sum[r][0] = hn::Max(sum[r][0], hn::Load(f, highest + r * kLanes));
  }
  HWY_UNROLL(9)
  for (size_t r = 0; r < R; ++r) hn::Store(sum[r][0], f, highest + r * kLanes);
}

// s[r] = q[r, :] · key for rows that are padded to whole vectors; writes up to 3 elements more.
EDGETX_STEP void DotTail(const float* HWY_RESTRICT q, size_t q_stride, size_t d, const float* HWY_RESTRICT key,
                         size_t rows, float* HWY_RESTRICT s) {
  const F f;
  for (size_t r = 0; r < rows; r += 4) {
    Vec sum[4] = {hn::Zero(f), hn::Zero(f), hn::Zero(f), hn::Zero(f)};
    for (size_t c = 0; c < d; c += kLanes) {
      const Vec k = hn::Load(f, key + c);
      HWY_UNROLL(4)
      for (size_t i = 0; i < 4; ++i) sum[i] = hn::MulAdd(hn::Load(f, q + (r + i) * q_stride + c), k, sum[i]);
    }
    Reduce(sum, Sum(), s + r);
  }
}

// ---- results

// p[r, j] for the keys that are lanes, then tail[j, r] for the rest.
struct Weights {
  const float* p;
  size_t p_stride;
  size_t keys;
  const float* tail;
  size_t tail_stride;
  size_t tail_keys;
  const float* factor;  // of each row
};

template <size_t R, size_t V>
HWY_INLINE void MixOne(const float* HWY_RESTRICT p, size_t p_stride, const float* HWY_RESTRICT values,
                       Vec (&sum)[R][V]) {
  const F f;
  Vec row[V];
  HWY_UNROLL(4)
  for (size_t v = 0; v < V; ++v) row[v] = hn::Load(f, values + v * kLanes);
  HWY_UNROLL(9)
  for (size_t r = 0; r < R; ++r) {
    const Vec weight = hn::Set(f, p[r * p_stride]);
    HWY_UNROLL(4)
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(weight, row[v], sum[r][v]);
  }
}

// rows[r][channels] = factor[r] · p[r, :] · values[:, channels] for R queries and V vectors of channels, the last of
// them with `in_last`.
template <size_t R, size_t V>
void Mix(const Weights& weights, const float* HWY_RESTRICT values, size_t stride, float* const* HWY_RESTRICT rows,
         size_t channel, size_t in_last) {
  const F f;
  Vec sum[R][V];
  HWY_UNROLL(9)
  for (size_t r = 0; r < R; ++r) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::Zero(f);
  }
  HWY_UNROLL(4)
  for (size_t j = 0; j < weights.keys; ++j) {
    MixOne<R, V>(weights.p + j, weights.p_stride, values + j * stride, sum);
  }
  values += weights.keys * stride;
  for (size_t j = 0; j < weights.tail_keys; ++j) {
    MixOne<R, V>(weights.tail + j * weights.tail_stride, 1, values + j * stride, sum);
  }
  HWY_UNROLL(9)
  for (size_t r = 0; r < R; ++r) {
    const Vec scale = hn::Set(f, weights.factor[r]);
    float* to = rows[r] + channel;
    HWY_UNROLL(4)
    for (size_t v = 0; v < V - 1; ++v) hn::StoreU(hn::Mul(sum[r][v], scale), f, to + v * kLanes);
    const Vec last = hn::Mul(sum[r][V - 1], scale);
    if (in_last == kLanes) {
      hn::StoreU(last, f, to + (V - 1) * kLanes);
    } else {
      hn::StoreN(last, f, to + (V - 1) * kLanes, in_last);
    }
  }
}

// ---- a function for every number of rows and of vectors that fits

using DotFunction = decltype(&Dot<1, 1>);
using MixFunction = decltype(&Mix<1, 1>);
constexpr size_t kTable = 9 * kPanel;
constexpr size_t Index(size_t rows, size_t vectors) { return (rows - 1) * kPanel + vectors - 1; }

// Null where registers do not suffice. attention_dot.cc and attention_mix.cc hold the functions for all operators:
// they are most of what there is to compile.
extern const std::array<DotFunction, kTable> kDot;
extern const std::array<MixFunction, kTable> kMix;

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_ATTENTION_PRODUCTS_INL_H_
