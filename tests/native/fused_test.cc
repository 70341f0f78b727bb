// BiasGelu, AddNorm and NormAdd against plain loops in double, at every instruction set and with buffers of
// exactly the size in use, so that AddressSanitizer sees each byte read or written past them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "edgetx/ops/add_norm/kernel.h"
#include "edgetx/ops/bias_gelu/kernel.h"

namespace {

using edgetx::CpuLevel;

constexpr double kTolerance = 4e-6;
constexpr double kEpsilon = 1e-5;
int g_passed = 0;
int g_failed = 0;

std::vector<float> Draw(std::mt19937* random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(*random);
  return values;
}

void Report(const char* what, CpuLevel level, int64_t rows, int64_t channels, double error) {
  const bool passed = error <= kTolerance;  // false for NaN
  (passed ? g_passed : g_failed)++;
  if (!passed) {
    std::printf("FAILED %s, level %d, %lld rows of %lld: error %.3g\n", what, static_cast<int>(level),
                static_cast<long long>(rows), static_cast<long long>(channels), error);
  }
}

double WorstError(const std::vector<float>& actual, const std::vector<double>& expected) {
  double worst = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

std::vector<double> LayerNorm(const std::vector<double>& x, const std::vector<float>& scale,
                              const std::vector<float>& shift) {
  const size_t channels = scale.size();
  std::vector<double> result(x.size());
  for (size_t row = 0; row < x.size(); row += channels) {
    double mean = 0.0;
    double variance = 0.0;
    for (size_t c = 0; c < channels; ++c) mean += x[row + c] / static_cast<double>(channels);
    for (size_t c = 0; c < channels; ++c) {
      variance += (x[row + c] - mean) * (x[row + c] - mean) / static_cast<double>(channels);
    }
    for (size_t c = 0; c < channels; ++c) {
      result[row + c] = (x[row + c] - mean) / std::sqrt(variance + kEpsilon) * scale[c] + shift[c];
    }
  }
  return result;
}

void Gelu(std::mt19937* random, int64_t rows, int64_t channels, CpuLevel level) {
  const auto x = Draw(random, rows * channels);
  const auto bias = Draw(random, channels);
  std::vector<float> y(x.size());
  edgetx::bias_gelu::Call call;
  call.channels = channels;
  call.x = x.data();
  call.bias = bias.data();
  call.y = y.data();
  edgetx::bias_gelu::SelectRun(level)(call, 0, rows);
  std::vector<double> expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<double>(x[i] + bias[i % bias.size()]);
    expected[i] = 0.5 * v * (1.0 + std::erf(v / std::sqrt(2.0)));
  }
  Report("BiasGelu", level, rows, channels, WorstError(y, expected));
}

void Norm(std::mt19937* random, int64_t rows, int64_t channels, CpuLevel level, edgetx::add_norm::Order order) {
  const bool add_norm = order == edgetx::add_norm::Order::kAddNorm;
  const auto x = Draw(random, rows * channels);
  const auto branch = Draw(random, rows * channels);
  const auto bias = Draw(random, channels);
  const auto scale = Draw(random, channels);
  const auto shift = Draw(random, channels);
  std::vector<float> sum(add_norm ? x.size() : 0);
  std::vector<float> out(x.size());
  edgetx::add_norm::Call call;
  call.order = order;
  call.epsilon = static_cast<float>(kEpsilon);
  call.channels = channels;
  call.x = x.data();
  call.branch = branch.data();
  call.bias = bias.data();
  call.scale = scale.data();
  call.shift = shift.data();
  call.sum = add_norm ? sum.data() : nullptr;
  call.out = out.data();
  constexpr std::align_val_t kAlignment{64};
  const size_t bytes = edgetx::add_norm::ScratchBytes(channels);
  auto* scratch = new (kAlignment) std::byte[bytes];
  edgetx::add_norm::SelectRun(level)(call, 0, rows, scratch);
  ::operator delete[](scratch, kAlignment);

  std::vector<double> inner(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    inner[i] = static_cast<double>(branch[i]) + bias[i % bias.size()] + (add_norm ? x[i] : 0.0);
  }
  auto expected = LayerNorm(inner, scale, shift);
  if (add_norm) {
    Report("AddNorm's sum", level, rows, channels, WorstError(sum, inner));
  } else {
    for (size_t i = 0; i < x.size(); ++i) expected[i] += x[i];
  }
  // The norm of few channels can amplify rounding errors without bound.
  if (channels >= 4) Report(add_norm ? "AddNorm" : "NormAdd", level, rows, channels, WorstError(out, expected));
}

}  // namespace

int main() {
  CpuLevel best;
  if (const edgetx::Status status = edgetx::DetectCpuLevel(&best); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 2;
  }
  std::mt19937 random(7);
  for (int level = 0; level <= static_cast<int>(best); ++level) {
    for (const int64_t channels : {1, 3, 4, 7, 15, 16, 17, 31, 33, 64, 96, 97, 127, 384, 1000}) {
      for (const int64_t rows : {1, 2, 5}) {
        Gelu(&random, rows, channels, static_cast<CpuLevel>(level));
        Norm(&random, rows, channels, static_cast<CpuLevel>(level), edgetx::add_norm::Order::kAddNorm);
        Norm(&random, rows, channels, static_cast<CpuLevel>(level), edgetx::add_norm::Order::kNormAdd);
      }
    }
  }
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
