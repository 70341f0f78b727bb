// DepthwiseConv against plain loops in double, at every instruction set and with buffers of exactly the size in
// use, so that AddressSanitizer sees each byte read or written past them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "edgetx/ops/depthwise_conv/kernel.h"

namespace {

using edgetx::CpuLevel;
using edgetx::depthwise_conv::Activation;
using edgetx::depthwise_conv::Call;
using edgetx::depthwise_conv::Combine;

constexpr double kTolerance = 4e-6;

std::vector<float> Draw(std::mt19937* random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(*random);
  return values;
}

double Expected(const Call& call, int64_t line, int64_t column, int64_t c) {
  const int64_t y = line % call.height;
  const int64_t first = line - y;
  const auto* x = static_cast<const float*>(call.x);
  double sum = call.bias[c];
  for (int64_t i = 0; i < call.kernel_height; ++i) {
    for (int64_t j = 0; j < call.kernel_width; ++j) {
      const int64_t row = y + i - call.kernel_height / 2;
      const int64_t pixel = column + j - call.kernel_width / 2;
      if (row < 0 || row >= call.height || pixel < 0 || pixel >= call.width) continue;
      const double weight = call.weight[(i * call.kernel_width + j) * call.channels + c];
      sum += weight * x[((first + row) * call.width + pixel) * call.x_stride + c];
    }
  }
  if (call.activation == Activation::kGelu) sum *= 0.5 * (1.0 + std::erf(sum / std::sqrt(2.0)));
  if (call.other == nullptr) return sum;
  const double other = static_cast<const float*>(call.other)[(line * call.width + column) * call.other_stride + c];
  return call.combine == Combine::kAdd ? sum + other : sum * other;
}

}  // namespace

int main() {
  std::mt19937 random(0);
  int passed = 0;
  int failed = 0;
  const int64_t sizes[] = {1, 2, 3, 6, 11};
  const int64_t kernels[][2] = {{3, 3}, {1, 1}, {5, 3}, {7, 7}};
  CpuLevel best;
  if (const edgetx::Status status = edgetx::DetectCpuLevel(&best); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 2;
  }
  for (const CpuLevel level : {CpuLevel::kBaseline, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (level > best) continue;
    for (const int64_t channels : {1, 7, 16, 33}) {
      for (const int64_t height : sizes) {
        for (const int64_t width : sizes) {
          for (const auto& kernel : kernels) {
            for (const int form : {0, 1, 2}) {
              Call call;
              call.height = height;
              call.width = width;
              call.channels = channels;
              call.x_stride = channels;
              call.other_stride = channels;
              call.kernel_height = kernel[0];
              call.kernel_width = kernel[1];
              call.activation = form == 2 ? Activation::kGelu : Activation::kNone;
              call.combine = form == 2 ? Combine::kMultiply : Combine::kAdd;
              const int64_t lines = 2 * height;
              const auto x = Draw(&random, lines * width * channels);
              auto weight = Draw(&random, kernel[0] * kernel[1] * channels);
              for (float& each : weight) each /= static_cast<float>(kernel[0] * kernel[1]);
              const auto bias = Draw(&random, channels);
              const auto other = Draw(&random, lines * width * channels);
              std::vector<float> out(x.size());
              call.x = x.data();
              call.weight = weight.data();
              call.bias = bias.data();
              call.other = form == 0 ? nullptr : other.data();
              call.out = out.data();
              edgetx::depthwise_conv::SelectRun(level)(call, 0, lines);
              double worst = 0.0;
              for (int64_t line = 0; line < lines; ++line) {
                for (int64_t column = 0; column < width; ++column) {
                  for (int64_t c = 0; c < channels; ++c) {
                    const double want = Expected(call, line, column, c);
                    const double got = out[static_cast<size_t>((line * width + column) * channels + c)];
                    const double error = std::abs(got - want) / std::max(1.0, std::abs(want));
                    if (!(error <= worst)) worst = error;
                  }
                }
              }
              const bool good = worst <= kTolerance;  // false for NaN
              (good ? passed : failed)++;
              if (!good) {
                std::printf("FAILED level %d, %lld x %lld x %lld: error %.3g\n", static_cast<int>(level),
                            static_cast<long long>(height), static_cast<long long>(width),
                            static_cast<long long>(channels), worst);
              }
            }
          }
        }
      }
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
