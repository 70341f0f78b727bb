// The vector code of DepthwiseConv, compiled once per instruction set.
//
// Channels are the lanes. One vector of channels goes along a row of pixels with the kernel's weights in registers
// (3x3: nine), kAtOnce pixels at a time, so that a loaded pixel serves up to three sums: 18 loads feed 36
// multiply-adds. Rows above and below stay in the second-level cache from one row to the next.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/depthwise_conv/kernel.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/depthwise_conv/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/gelu-inl.h"
#include "edgetx/ops/native/simd_rows-inl.h"
#include "edgetx/ops/native/simd_select.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::depthwise_conv {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

constexpr size_t kAtOnce = 4;

// `count` channels, all of a vector if kWhole.
template <bool kWhole, class T>
HWY_INLINE Vec Get(const T* from, size_t count) {
  if constexpr (kWhole) return LoadRow(from);
  return LoadRow(from, count);
}
template <bool kWhole, class T>
HWY_INLINE void Put(Vec value, T* to, size_t count) {
  if constexpr (kWhole) return StoreRow(value, to);
  StoreRow(value, to, count);
}

// One vector of channels of one row of pixels, as pointers to its first pixel.
template <class T>
struct Row {
  const T* x;      // of the same row
  const T* other;  // or null
  T* out;
  const float* weight;
  const float* bias;
  size_t count;  // channels
  int64_t first;  // kernel rows [first, last) lie inside the map
  int64_t last;
};

template <bool kWhole, size_t N, class T>
HWY_INLINE void Finish(const Call& call, const Row<T>& row, int64_t column, Vec (&sums)[N]) {
  if (call.activation == Activation::kGelu) gelu::HWY_NAMESPACE::Gelu(sums);
  for (size_t p = 0; p < N; ++p) {
    const int64_t pixel = column + static_cast<int64_t>(p);
    if (row.other != nullptr) {
      const Vec other = Get<kWhole>(row.other + pixel * call.other_stride, row.count);
      sums[p] = call.combine == Combine::kAdd ? hn::Add(sums[p], other) : hn::Mul(sums[p], other);
    }
    Put<kWhole>(sums[p], row.out + pixel * call.channels, row.count);
  }
}

// One pixel, any kernel, at the edges too.
template <bool kWhole, class T>
void Pixel(const Call& call, const Row<T>& row, int64_t column) {
  const int64_t left = std::max<int64_t>(call.kernel_width / 2 - column, 0);
  const int64_t right = std::min(call.kernel_width, call.width - column + call.kernel_width / 2);
  Vec sums[] = {Get<kWhole>(row.bias, row.count)};
  for (int64_t i = row.first; i < row.last; ++i) {
    const T* x = row.x + (i - call.kernel_height / 2) * call.width * call.x_stride;
    for (int64_t j = left; j < right; ++j) {
      const Vec weight = Get<kWhole>(row.weight + (i * call.kernel_width + j) * call.channels, row.count);
      const Vec value = Get<kWhole>(x + (column + j - call.kernel_width / 2) * call.x_stride, row.count);
      sums[0] = hn::MulAdd(weight, value, sums[0]);
    }
  }
  Finish<kWhole>(call, row, column, sums);
}

// Pixels [begin, end) of a 3x3 kernel whose columns all lie inside the map.
template <bool kWhole, class T>
int64_t ThreeByThree(const Call& call, const Row<T>& row, int64_t begin, int64_t end) {
  Vec weight[3][3];
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 3; ++j) weight[i][j] = Get<kWhole>(row.weight + (i * 3 + j) * call.channels, row.count);
  }
  const Vec bias = Get<kWhole>(row.bias, row.count);
  const bool above = row.first == 0;
  const bool below = row.last == 3;
  const int64_t line = call.width * call.x_stride;
  int64_t column = begin;
  for (; column + static_cast<int64_t>(kAtOnce) <= end; column += kAtOnce) {
    Vec sums[kAtOnce];
    for (size_t p = 0; p < kAtOnce; ++p) sums[p] = bias;
    const T* x = row.x + (column - 1) * call.x_stride;
    const auto add = [&](const T* from, const Vec(&w)[3]) HWY_ATTR {
      HWY_UNROLL(6)
      for (size_t t = 0; t < kAtOnce + 2; ++t) {
        const Vec value = Get<kWhole>(from + static_cast<int64_t>(t) * call.x_stride, row.count);
        HWY_UNROLL(4)
        for (size_t p = 0; p < kAtOnce; ++p) {
          if (p <= t && t < p + 3) sums[p] = hn::MulAdd(w[t - p], value, sums[p]);
        }
      }
    };
    if (above) add(x - line, weight[0]);
    add(x, weight[1]);
    if (below) add(x + line, weight[2]);
    Finish<kWhole>(call, row, column, sums);
  }
  return column;
}

template <bool kWhole, class T>
void RunVector(const Call& call, const Row<T>& row) {
  int64_t column = 0;
  if (call.kernel_height == 3 && call.kernel_width == 3 && call.width > 2) {
    Pixel<kWhole>(call, row, 0);
    column = ThreeByThree<kWhole>(call, row, 1, call.width - 1);
  }
  for (; column < call.width; ++column) Pixel<kWhole>(call, row, column);
}

template <class T>
void RunRows(const Call& call, int64_t begin, int64_t end) {
  const auto channels = static_cast<size_t>(call.channels);
  for (int64_t line = begin; line < end; ++line) {
    const int64_t y = line % call.height;
    for (size_t c = 0; c < channels; c += kLanes) {
      const int64_t pixel = line * call.width;
      Row<T> row;
      row.x = static_cast<const T*>(call.x) + pixel * call.x_stride + c;
      row.other = call.other == nullptr ? nullptr : static_cast<const T*>(call.other) + pixel * call.other_stride + c;
      row.out = static_cast<T*>(call.out) + pixel * call.channels + c;
      row.weight = call.weight + c;
      row.bias = call.bias + c;
      row.count = std::min(kLanes, channels - c);
      row.first = std::max<int64_t>(call.kernel_height / 2 - y, 0);
      row.last = std::min(call.kernel_height, call.height - y + call.kernel_height / 2);
      if (row.count == kLanes) {
        RunVector<true>(call, row);
      } else {
        RunVector<false>(call, row);
      }
    }
  }
}

void Run(const Call& call, int64_t begin, int64_t end) {
  switch (call.dtype) {
    case DType::kFloat32:
      return RunRows<float>(call, begin, end);
    case DType::kFloat16:
      return RunRows<hwy::float16_t>(call, begin, end);
    case DType::kBFloat16:
      return RunRows<hwy::bfloat16_t>(call, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::depthwise_conv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgetx::depthwise_conv {

EDGETX_DEFINE_SELECT_RUN()

}  // namespace edgetx::depthwise_conv
#endif
