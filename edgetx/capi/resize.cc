#include "edgetx/capi/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgetx::capi {
namespace {

constexpr double kPi = 3.14159265358979323846;
// Of the weights: 8 bits of a sample and 2 of headroom are left of 32.
constexpr int kPrecision = 32 - 8 - 2;

double Box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double Bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double Hamming(double x) {
  x = std::fabs(x);
  if (x == 0.0) return 1.0;
  if (x >= 1.0) return 0.0;
  x *= kPi;
  // The two constants are float32 there.
  return std::sin(x) / x * (static_cast<double>(0.54f) + static_cast<double>(0.46f) * std::cos(x));
}

// Keys' cubic convolution with a = -1/2.
double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double Sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= kPi;
  return std::sin(x) / x;
}

double Lanczos(double x) { return x >= -3.0 && x < 3.0 ? Sinc(x) * Sinc(x / 3) : 0.0; }

struct Filter {
  double (*weight)(double);
  double support;
};

Filter FilterOf(const std::string& name) {
  if (name == "box") return {Box, 0.5};
  if (name == "bilinear") return {Bilinear, 1.0};
  if (name == "hamming") return {Hamming, 1.0};
  if (name == "lanczos") return {Lanczos, 3.0};
  return {Bicubic, 2.0};
}

// Where each output sample takes its input samples from, and their weights.
struct Taps {
  struct Range {
    int64_t first = 0;
    int64_t count = 0;
  };
  std::vector<Range> ranges;
  std::vector<int32_t> weights;  // [output][widest]
  int64_t widest = 0;
};

Taps MakeTaps(int64_t from, int64_t to, const Filter& filter) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);
  const double support = filter.support * stretch;
  Taps taps;
  taps.widest = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  taps.ranges.resize(static_cast<size_t>(to));
  taps.weights.assign(static_cast<size_t>(to * taps.widest), 0);
  std::vector<double> weights(static_cast<size_t>(taps.widest));
  for (int64_t x = 0; x < to; ++x) {
    const double center = (static_cast<double>(x) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t last = std::min(static_cast<int64_t>(center + support + 0.5), from);
    const int64_t count = last - first;
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const double weight =
          filter.weight((static_cast<double>(i + first) - center + 0.5) * (1.0 / stretch));
      weights[static_cast<size_t>(i)] = weight;
      sum += weight;
    }
    for (int64_t i = 0; i < count; ++i) {
      const double weight = sum != 0.0 ? weights[static_cast<size_t>(i)] / sum : weights[static_cast<size_t>(i)];
      const double fixed = weight * (1 << kPrecision);
      taps.weights[static_cast<size_t>(x * taps.widest + i)] =
          static_cast<int32_t>(weight < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    taps.ranges[static_cast<size_t>(x)] = {first, count};
  }
  return taps;
}

uint8_t Clip(int32_t sum) {
  const int32_t value = sum >> kPrecision;
  return static_cast<uint8_t>(std::min(std::max(value, 0), 255));
}

// output[y][x] = sum of weights · input samples `step` bytes apart, starting at `row + first · step`.
void Mix(const uint8_t* samples, size_t step, const int32_t* weights, int64_t count, uint8_t* to) {
  int32_t sums[3] = {1 << (kPrecision - 1), 1 << (kPrecision - 1), 1 << (kPrecision - 1)};
  for (int64_t i = 0; i < count; ++i, samples += step) {
    for (int c = 0; c < 3; ++c) sums[c] += samples[c] * weights[i];
  }
  for (int c = 0; c < 3; ++c) to[c] = Clip(sums[c]);
}

Picture Nearest(const Picture& picture, int64_t width, int64_t height) {
  Picture result{width, height, std::vector<uint8_t>(static_cast<size_t>(width * height) * 3)};
  const auto positions = [](int64_t from, int64_t to) {
    std::vector<int64_t> sources(static_cast<size_t>(to), -1);
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    double at = scale * 0.5;  // summed up as Pillow does, with its rounding
    for (int64_t& source : sources) {
      const auto position = static_cast<int64_t>(at);
      if (position < from) source = position;
      at += scale;
    }
    return sources;
  };
  const std::vector<int64_t> columns = positions(picture.width, width);
  const std::vector<int64_t> rows = positions(picture.height, height);
  for (int64_t y = 0; y < height; ++y) {
    if (rows[static_cast<size_t>(y)] < 0) continue;
    const uint8_t* from = picture.Row(rows[static_cast<size_t>(y)]);
    uint8_t* to = result.Row(y);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t column = columns[static_cast<size_t>(x)];
      if (column >= 0) std::memcpy(to + 3 * x, from + 3 * column, 3);
    }
  }
  return result;
}

Picture Across(const Picture& picture, int64_t width, const Filter& filter) {
  const Taps taps = MakeTaps(picture.width, width, filter);
  Picture result{width, picture.height, std::vector<uint8_t>(static_cast<size_t>(width * picture.height) * 3)};
  for (int64_t y = 0; y < picture.height; ++y) {
    const uint8_t* from = picture.Row(y);
    uint8_t* to = result.Row(y);
    for (int64_t x = 0; x < width; ++x) {
      const auto& range = taps.ranges[static_cast<size_t>(x)];
      Mix(from + 3 * range.first, 3, taps.weights.data() + x * taps.widest, range.count, to + 3 * x);
    }
  }
  return result;
}

Picture Down(const Picture& picture, int64_t height, const Filter& filter) {
  const Taps taps = MakeTaps(picture.height, height, filter);
  Picture result{picture.width, height, std::vector<uint8_t>(static_cast<size_t>(picture.width * height) * 3)};
  const size_t stride = static_cast<size_t>(picture.width) * 3;
  for (int64_t y = 0; y < height; ++y) {
    const auto& range = taps.ranges[static_cast<size_t>(y)];
    const uint8_t* from = picture.Row(range.first);
    uint8_t* to = result.Row(y);
    for (int64_t x = 0; x < picture.width; ++x) {
      Mix(from + 3 * x, stride, taps.weights.data() + y * taps.widest, range.count, to + 3 * x);
    }
  }
  return result;
}

}  // namespace

Picture Resize(const Picture& picture, int64_t width, int64_t height, const std::string& name) {
  if (width == picture.width && height == picture.height) return picture;
  if (name == "nearest") return Nearest(picture, width, height);
  const Filter filter = FilterOf(name);
  if (width == picture.width) return Down(picture, height, filter);
  if (height == picture.height) return Across(picture, width, filter);
  const int64_t lost = picture.height - height;
  const bool down_first = lost > 0 && lost > 2 * (picture.width - width);
  return down_first ? Across(Down(picture, height, filter), width, filter)
                    : Down(Across(picture, width, filter), height, filter);
}

Picture Crop(const Picture& picture, int64_t left, int64_t top, int64_t width, int64_t height) {
  Picture result{width, height, std::vector<uint8_t>(static_cast<size_t>(width * height) * 3)};
  const int64_t first = std::max<int64_t>(left, 0);
  const int64_t last = std::min(left + width, picture.width);
  for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + height, picture.height) && first < last; ++y) {
    std::memcpy(result.Row(y - top) + 3 * (first - left), picture.Row(y) + 3 * first,
                static_cast<size_t>(last - first) * 3);
  }
  return result;
}

}  // namespace edgetx::capi
