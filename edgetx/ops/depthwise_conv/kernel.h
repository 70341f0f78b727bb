// DepthwiseConv on the CPU, with no engine in sight. README.md beside this file defines it.
//
//   out[b, y, x, c] = activation(bias[c] + sum_ij weight[i, j, c] · in[b, y + i - kh/2, x + j - kw/2, offset + c])
//                     + or · other[b, y, x, other_offset + c]
#pragma once

#include <cstddef>
#include <cstdint>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"

namespace edgetx::depthwise_conv {

enum class Activation { kNone, kGelu };
enum class Combine { kAdd, kMultiply };

// `x`, `other` and `out` hold elements of `dtype`; x and other start at the first channel that is used.
struct Call {
  DType dtype = DType::kFloat32;
  Activation activation = Activation::kNone;
  Combine combine = Combine::kAdd;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;        // of out
  int64_t x_stride = 0;        // elements from one pixel to the next
  int64_t other_stride = 0;
  int64_t kernel_height = 0;   // odd
  int64_t kernel_width = 0;    // odd
  const void* x = nullptr;
  const float* weight = nullptr;  // [kernel_height][kernel_width][channels]
  const float* bias = nullptr;
  const void* other = nullptr;  // or null
  void* out = nullptr;
};

// Computes rows [begin, end) of batch · height rows of pixels.
using RunFunction = void (*)(const Call&, int64_t begin, int64_t end);

// The implementation for the highest compiled instruction set that `level` includes.
RunFunction SelectRun(CpuLevel level);

}  // namespace edgetx::depthwise_conv
