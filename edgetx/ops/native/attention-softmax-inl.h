// What attention does between its two matrix products. Included once per instruction set, after Highway.

// NOLINTNEXTLINE(llvm-header-guard): Highway's way to include a header once per target.
#if defined(EDGETX_OPS_NATIVE_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGETX_OPS_NATIVE_ATTENTION_SOFTMAX_INL_H_
#undef EDGETX_OPS_NATIVE_ATTENTION_SOFTMAX_INL_H_
#else
#define EDGETX_OPS_NATIVE_ATTENTION_SOFTMAX_INL_H_
#endif

#include "edgetx/ops/native/attention-products-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::attention {
namespace HWY_NAMESPACE {

constexpr float kLog2E = 1.44269504f;
// 2^r = 1 + r·(..) on [-1/2, 1/2]: the polynomial of degree 5 with the least relative error (9.4e-8).
constexpr float kExp2[] = {0x1.62e42ap-1f, 0x1.ebf9c2p-3f, 0x1.c6b6dap-5f, 0x1.3ce8b2p-7f, 0x1.5bd97ap-10f};

// The logits of `rows` queries. Memory of rows is padded: [rows] to whole vectors.
struct Logits {
  float* s;                // [rows][stride]: the keys that are lanes, padded with -inf to whole vectors
  size_t stride;
  size_t vectors;          // of keys, per row
  float* tail;             // [tail_keys][tail_stride]: the rest, rows as lanes
  size_t tail_stride;
  size_t tail_keys;
  const float* highest;    // [rows][kLanes]: the largest of s, per lane
  float* offset;           // [rows]: of use to Softmax
  float* factor;           // [rows]
  size_t rows;
};

// 2^u for u <= 0; below -125 (and -inf) 2^-125 instead of less, which no float32 sum of a softmax sees. Keeps NaN.
HWY_INLINE Vec Exp2(Vec u) {
  const F f;
  const hn::RebindToSigned<F> i;
  // x86 returns the second operand where one is NaN.
  u = hn::Max(hn::Set(f, -125.0f), u);
  // Adding 1.5·2^23 leaves n = round(u) in the low bits.
  const Vec magic = hn::Set(f, 12582912.0f);
  const Vec shifted = hn::Add(u, magic);
  const Vec r = hn::Sub(u, hn::Sub(shifted, magic));
  Vec p = hn::MulAdd(hn::Set(f, kExp2[4]), r, hn::Set(f, kExp2[3]));
  p = hn::MulAdd(p, r, hn::Set(f, kExp2[2]));
  p = hn::MulAdd(p, r, hn::Set(f, kExp2[1]));
  p = hn::MulAdd(p, r, hn::Set(f, kExp2[0]));
  p = hn::MulAdd(p, r, hn::Set(f, 1.0f));
  return hn::BitCast(f, hn::Add(hn::BitCast(i, p), hn::ShiftLeft<23>(hn::BitCast(i, shifted))));
}

// s = 2^(s·log2(e) + offset) for R rows side by side, since each is a long chain; returns the sums per lane.
template <size_t R>
HWY_INLINE void Exponentials(float* HWY_RESTRICT s, size_t stride, size_t vectors, const float* HWY_RESTRICT offset,
                             Vec (&sum)[R]) {
  const F f;
  const Vec log2e = hn::Set(f, kLog2E);
  Vec start[R];
  HWY_UNROLL(4)
  for (size_t r = 0; r < R; ++r) {
    start[r] = hn::Set(f, offset[r]);
    sum[r] = hn::Zero(f);
  }
  for (size_t j = 0; j < vectors * kLanes; j += kLanes) {
    HWY_UNROLL(4)
    for (size_t r = 0; r < R; ++r) {
      const Vec e = Exp2(hn::MulAdd(hn::Load(f, s + r * stride + j), log2e, start[r]));
      hn::Store(e, f, s + r * stride + j);
      sum[r] = hn::Add(sum[r], e);
    }
  }
}

// The numerators of the softmax in place; factor = 1 / sum.
EDGETX_STEP void Softmax(const Logits& x) {
  const F f;
  const Vec log2e = hn::Set(f, kLog2E);
  for (size_t r = 0; r < x.rows; r += 4) {
    const float* from = x.highest + r * kLanes;
    const Vec highest[4] = {hn::Load(f, from), hn::Load(f, from + kLanes), hn::Load(f, from + 2 * kLanes),
                            hn::Load(f, from + 3 * kLanes)};
    Reduce(highest, Largest(), x.offset + r);
  }
  // Rows as lanes: the offset is -max·log2(e); the factor holds the sum of the tail for now.
  for (size_t r = 0; r < x.rows; r += kLanes) {
    Vec max = hn::Load(f, x.offset + r);
    for (size_t t = 0; t < x.tail_keys; ++t) max = hn::Max(max, hn::Load(f, x.tail + t * x.tail_stride + r));
    const Vec offset = hn::Neg(hn::Mul(max, log2e));
    hn::Store(offset, f, x.offset + r);
    Vec sum = hn::Zero(f);
    for (size_t t = 0; t < x.tail_keys; ++t) {
      float* tail = x.tail + t * x.tail_stride + r;
      const Vec e = Exp2(hn::MulAdd(hn::Load(f, tail), log2e, offset));
      hn::Store(e, f, tail);
      sum = hn::Add(sum, e);
    }
    hn::Store(sum, f, x.factor + r);
  }
  size_t r = 0;
  for (; r + 4 <= x.rows; r += 4) {
    Vec sum[4];
    Exponentials<4>(x.s + r * x.stride, x.stride, x.vectors, x.offset + r, sum);
    Reduce(sum, Sum(), x.offset + r);
  }
  for (; r < x.rows; ++r) {
    Vec sum[1];
    Exponentials<1>(x.s + r * x.stride, x.stride, x.vectors, x.offset + r, sum);
    x.offset[r] = hn::ReduceSum(f, sum[0]);
  }
  for (r = 0; r < x.rows; r += kLanes) {
    const Vec sum = hn::Add(hn::Load(f, x.offset + r), hn::Load(f, x.factor + r));
    hn::Store(hn::Div(hn::Set(f, 1.0f), sum), f, x.factor + r);
  }
}

// max(x, 0)^2 in place, unnormalised: factor = 1. Keeps NaN.
EDGETX_STEP void Relu2(const Logits& x) {
  const F f;
  const auto apply = [&](float* at) {
    const Vec positive = hn::Max(hn::Zero(f), hn::Load(f, at));
    hn::Store(hn::Mul(positive, positive), f, at);
  };
  for (size_t r = 0; r < x.rows; ++r) {
    for (size_t v = 0; v < x.vectors; ++v) apply(x.s + r * x.stride + v * kLanes);
  }
  for (size_t r = 0; r < x.rows; r += kLanes) {
    for (size_t t = 0; t < x.tail_keys; ++t) apply(x.tail + t * x.tail_stride + r);
    hn::Store(hn::Set(f, 1.0f), f, x.factor + r);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::attention
HWY_AFTER_NAMESPACE();

#endif  // EDGETX_OPS_NATIVE_ATTENTION_SOFTMAX_INL_H_
