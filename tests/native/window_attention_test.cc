// WindowAttention's kernel against a plain implementation in double precision, on random attributes and shapes,
// at every instruction set of this machine and every element type. Every buffer is exactly as large as it must
// be, and working memory starts as NaN, so that sanitizers see what reaches too far.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"
#include "edgetx/ops/window_attention/kernel.h"

namespace {

using namespace edgetx;                    // NOLINT
using namespace edgetx::window_attention;  // NOLINT

int g_passed = 0;
int g_failed = 0;

void Expect(bool condition, const std::string& what) {
  ++(condition ? g_passed : g_failed);
  if (!condition) std::printf("FAILED: %s\n", what.c_str());
}

// ---- the plain implementation

int64_t Up(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

struct PlainAxis {
  int64_t size, padded, window, keys, shift;
  bool roll_first;

  // The token at a position of the rolled, padded map; -1 for a pad token, -2 outside.
  int64_t Token(int64_t p) const {
    if (p < 0 || p >= padded) return -2;
    if (roll_first) return p < size ? (p + shift) % size : -1;
    const int64_t token = (p + shift) % padded;
    return token < size ? token : -1;
  }
  int Region(int64_t p) const {
    if (shift == 0 || p < padded - window) return 0;
    return p < padded - shift ? 1 : 2;
  }
};

struct Case {
  Attributes attributes;
  Shape qkv_shape;
  DType dtype = DType::kFloat32;
  std::vector<float> qkv, bias, head_scale, pad_value;
  bool has_bias = false, has_head_scale = false, has_pad_value = false;
};

// The output; `largest_logit` gets the largest absolute value before bias and mask.
std::vector<double> Plain(const Case& c, double* largest_logit) {
  const Attributes& a = c.attributes;
  const int64_t batch = c.qkv_shape[0], height = c.qkv_shape[1], width = c.qkv_shape[2], channels = c.qkv_shape[3];
  const int64_t h = a.num_heads, d = a.head_size, dv = channels / h - 2 * d;
  const bool roll_first = a.pad == Pad::kAfterRoll;
  PlainAxis y{height, a.pad == Pad::kNone ? height : Up(height, a.pad_to.y), a.window.y, a.kv_window.y, a.shift.y,
              roll_first};
  PlainAxis x{width, a.pad == Pad::kNone ? width : Up(width, a.pad_to.x), a.window.x, a.kv_window.x, a.shift.x,
              roll_first};
  const bool one_y = y.padded <= y.window, one_x = x.padded <= x.window;
  if (a.shift_when_single == ShiftWhenSingle::kDropBoth && (one_y || one_x)) y.shift = x.shift = 0;
  if (a.shift_when_single == ShiftWhenSingle::kDropAxis) {
    if (one_y) y.shift = 0;
    if (one_x) x.shift = 0;
  }
  const auto at = [&](int64_t b, int64_t py, int64_t px, int64_t channel) -> double {
    const int64_t ty = y.Token(py), tx = x.Token(px);
    if (ty == -2 || tx == -2) return 0;
    if (ty == -1 || tx == -1) return c.has_pad_value ? c.pad_value[static_cast<size_t>(channel)] : 0;
    return c.qkv[static_cast<size_t>(((b * height + ty) * width + tx) * channels + channel)];
  };
  std::vector<double> output(static_cast<size_t>(batch * height * width * h * dv), 0);
  const int64_t nk = a.kv_window.y * a.kv_window.x;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t py = 0; py < y.padded; ++py) {
      for (int64_t px = 0; px < x.padded; ++px) {
        const int64_t ty = y.Token(py), tx = x.Token(px);
        if (ty < 0 || tx < 0) continue;
        const int64_t query = py % y.window * x.window + px % x.window;
        const int64_t ky0 = py / y.window * y.window - (y.keys - y.window) / 2;
        const int64_t kx0 = px / x.window * x.window - (x.keys - x.window) / 2;
        for (int64_t head = 0; head < h; ++head) {
          std::vector<double> logits(static_cast<size_t>(nk));
          double largest = -INFINITY;
          for (int64_t j = 0; j < nk; ++j) {
            const int64_t ky = ky0 + j / x.keys, kx = kx0 + j % x.keys;
            double dot = 0, qq = 0, kk = 0;
            for (int64_t i = 0; i < d; ++i) {
              const double q = at(b, py, px, head * d + i), k = at(b, ky, kx, (h + head) * d + i);
              dot += q * k;
              qq += q * q;
              kk += k * k;
            }
            if (a.qk_norm == QkNorm::kL2) {
              dot /= std::fmax(std::sqrt(qq), 1e-12) * std::fmax(std::sqrt(kk), 1e-12);
            }
            double logit = a.scale * dot * (c.has_head_scale ? c.head_scale[static_cast<size_t>(head)] : 1.0);
            *largest_logit = std::fmax(*largest_logit, std::fabs(logit));
            if (c.has_bias) {
              const int64_t nq = a.window.y * a.window.x;
              logit += c.bias[static_cast<size_t>((head * nq + query) * nk + j)];
            }
            if (a.mask == Mask::kRegion && (y.Region(py) != y.Region(ky) || x.Region(px) != x.Region(kx))) {
              logit += a.mask_value;
            }
            logits[static_cast<size_t>(j)] = logit;
            largest = std::fmax(largest, logit);
          }
          double sum = 0;
          for (double& logit : logits) sum += logit = std::exp(logit - largest);
          for (int64_t i = 0; i < dv; ++i) {
            double value = 0;
            for (int64_t j = 0; j < nk; ++j) {
              value += logits[static_cast<size_t>(j)] / sum *
                       at(b, ky0 + j / x.keys, kx0 + j % x.keys, 2 * h * d + head * dv + i);
            }
            output[static_cast<size_t>(((b * height + ty) * width + tx) * h * dv + head * dv + i)] = value;
          }
        }
      }
    }
  }
  return output;
}

// ---- element types

uint16_t ToHalf(DType dtype, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (dtype == DType::kBFloat16) return static_cast<uint16_t>(bits >> 16);
  // Test data is of order 1 or zero: normal numbers, cut to 10 bits.
  const int exponent = static_cast<int>((bits >> 23) & 0xff) - 127 + 15;
  if (exponent <= 0) return 0;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | static_cast<uint32_t>(exponent << 10) |
                               ((bits >> 13) & 0x3ffu));
}

// Half of the distance between neighbours of that type, relative to the value.
double Rounding(DType dtype) {
  return dtype == DType::kFloat32 ? 0 : dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8;
}

struct Random {
  std::mt19937 engine;
  int64_t Int(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  bool Coin() { return Int(0, 1) == 1; }
  std::vector<float> Normal(size_t count, float deviation, DType dtype) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values(count);
    for (float& value : values) {
      value = normal(engine);
      if (dtype != DType::kFloat32) {
        const uint16_t half = ToHalf(dtype, value);
        value = dtype == DType::kFloat16 ? FromFloat16(half) : FromBFloat16(half);
      }
    }
    return values;
  }
};

Case Draw(Random* random) {
  Case c;
  Attributes& a = c.attributes;
  a.num_heads = random->Int(1, 3);
  a.head_size = random->Coin() ? 8 * random->Int(1, 5) : random->Int(1, 37);
  const int64_t dv = random->Coin() ? a.head_size : random->Int(1, 70);
  a.window = {random->Int(1, 9), random->Int(1, 9)};
  const bool overlaps = random->Int(0, 3) == 0;
  a.kv_window = {a.window.y + (overlaps ? 2 * random->Int(0, 3) : 0),
                 a.window.x + (overlaps ? 2 * random->Int(0, 3) : 0)};
  a.shift = {random->Int(0, a.window.y - 1), random->Int(0, a.window.x - 1)};
  if (random->Int(0, 2) == 0) a.shift = {0, 0};
  a.mask = random->Coin() ? Mask::kRegion : Mask::kNone;
  a.mask_value = random->Coin() ? -100.0f : -3.0f;
  a.qk_norm = random->Int(0, 2) == 0 ? QkNorm::kL2 : QkNorm::kNone;
  a.shift_when_single = static_cast<ShiftWhenSingle>(random->Int(0, 2));
  a.scale = a.qk_norm == QkNorm::kL2 ? 1.0f : 1.0f / std::sqrt(static_cast<float>(a.head_size));
  a.pad = static_cast<Pad>(random->Int(0, 2));
  a.pad_to = a.window;
  int64_t height = a.window.y * random->Int(1, 3);
  int64_t width = a.window.x * random->Int(1, 3);
  if (a.pad != Pad::kNone) {
    a.pad_to = {a.window.y * random->Int(1, 2), a.window.x * random->Int(1, 2)};
    height = random->Int(1, 3 * a.window.y);
    width = random->Int(1, 3 * a.window.x);
  }
  c.dtype = static_cast<DType>(random->Int(0, 2));
  const int64_t channels = a.num_heads * (2 * a.head_size + dv);
  c.qkv_shape = {random->Int(1, 2), height, width, channels};
  c.has_bias = random->Coin();
  c.has_head_scale = random->Coin();
  c.has_pad_value = random->Coin();
  const auto count = [](std::initializer_list<int64_t> sizes) {
    size_t product = 1;
    for (const int64_t size : sizes) product *= static_cast<size_t>(size);
    return product;
  };
  c.qkv = random->Normal(count({c.qkv_shape[0], height, width, channels}), 1, c.dtype);
  c.bias = random->Normal(
      count({a.num_heads, a.window.y * a.window.x, a.kv_window.y * a.kv_window.x}), 1, c.dtype);
  c.head_scale = random->Normal(count({a.num_heads}), 3, c.dtype);
  c.pad_value = random->Normal(count({channels}), 1, c.dtype);
  return c;
}

template <class T>
std::unique_ptr<T[]> Exact(const std::vector<T>& values) {
  std::unique_ptr<T[]> copy(new T[values.size()]);
  std::copy(values.begin(), values.end(), copy.get());
  return copy;
}

struct FreeAligned {
  void operator()(void* data) const { std::free(data); }
};

// The kernel's output as float32; its items are run in three ranges, as threads would.
std::vector<float> Run(const Case& c, CpuLevel level) {
  const Plan plan(c.attributes, c.qkv_shape, level);
  const Shape shape = OutputShape(c.attributes, c.qkv_shape);
  const auto count = static_cast<size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  std::vector<uint16_t> halves;
  if (c.dtype != DType::kFloat32) {
    for (const float value : c.qkv) halves.push_back(ToHalf(c.dtype, value));
  }
  const auto qkv = Exact(c.qkv);
  const auto half = Exact(halves);
  const auto bias = Exact(c.bias);
  const auto head_scale = Exact(c.head_scale);
  const auto pad_value = Exact(c.pad_value);
  std::unique_ptr<float[]> output(new float[c.dtype == DType::kFloat32 ? count : 0]);
  std::unique_ptr<uint16_t[]> half_output(new uint16_t[c.dtype == DType::kFloat32 ? 0 : count]);
  Tensors tensors;
  tensors.dtype = c.dtype;
  tensors.qkv = c.dtype == DType::kFloat32 ? static_cast<const void*>(qkv.get()) : half.get();
  tensors.output = c.dtype == DType::kFloat32 ? static_cast<void*>(output.get()) : half_output.get();
  if (c.has_bias) tensors.bias = bias.get();
  if (c.has_head_scale) tensors.head_scale = head_scale.get();
  if (c.has_pad_value) tensors.pad_value = pad_value.get();
  for (int part = 0; part < 3; ++part) {
    const std::unique_ptr<std::byte, FreeAligned> scratch(
        static_cast<std::byte*>(std::aligned_alloc(64, plan.scratch_bytes())));
    std::memset(scratch.get(), 0xff, plan.scratch_bytes());
    plan.Run(tensors, plan.items() * part / 3, plan.items() * (part + 1) / 3, scratch.get());
  }
  std::vector<float> result(count);
  const void* from = c.dtype == DType::kFloat32 ? static_cast<const void*>(output.get()) : half_output.get();
  ToFloat32(c.dtype, from, count, result.data());
  return result;
}

std::string Describe(const Case& c, CpuLevel level) {
  const Attributes& a = c.attributes;
  char text[512];
  std::snprintf(
      text, sizeof(text),
      "level %d dtype %d qkv [%d,%d,%d,%d] h %d d %d window %dx%d kv %dx%d shift %d,%d mask %d %g norm %d single %d "
      "pad %d to %dx%d bias %d head_scale %d pad_value %d",
      static_cast<int>(level), static_cast<int>(c.dtype), static_cast<int>(c.qkv_shape[0]),
      static_cast<int>(c.qkv_shape[1]), static_cast<int>(c.qkv_shape[2]), static_cast<int>(c.qkv_shape[3]),
      static_cast<int>(a.num_heads), static_cast<int>(a.head_size), static_cast<int>(a.window.y),
      static_cast<int>(a.window.x), static_cast<int>(a.kv_window.y), static_cast<int>(a.kv_window.x),
      static_cast<int>(a.shift.y), static_cast<int>(a.shift.x), static_cast<int>(a.mask),
      static_cast<double>(a.mask_value), static_cast<int>(a.qk_norm), static_cast<int>(a.shift_when_single),
      static_cast<int>(a.pad), static_cast<int>(a.pad_to.y), static_cast<int>(a.pad_to.x), c.has_bias,
      c.has_head_scale, c.has_pad_value);
  return text;
}

double g_worst = 0;

void Compare(const Case& c, CpuLevel best) {
  Expect(Validate(c.attributes).ok(), "valid: " + Describe(c, best));
  Shapes shapes;
  shapes.qkv = c.qkv_shape;
  Expect(Check(c.attributes, shapes).ok(), "fits: " + Describe(c, best));
  // A float32 logit of size L carries an error of L·2^-24, so the tolerance grows from |L| = 10 on.
  double scale = 0;
  const std::vector<double> expected = Plain(c, &scale);
  scale = std::fmax(1, scale / 10);
  for (int level = 0; level <= static_cast<int>(best); ++level) {
    const std::vector<float> got = Run(c, static_cast<CpuLevel>(level));
    double error = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double difference = std::fabs(got[i] - expected[i]) - std::fabs(expected[i]) * Rounding(c.dtype);
      error = std::isnan(difference) ? INFINITY : std::fmax(error, difference);
    }
    g_worst = std::fmax(g_worst, error / scale);
    Expect(error <= 4e-6 * scale,
           Describe(c, static_cast<CpuLevel>(level)) + " off by " + std::to_string(error));
  }
}

// ---- fixed cases

void Shifted(Random* random, int64_t batch, int64_t side, int64_t window, int64_t keys, int64_t heads, int64_t d,
             float logits, CpuLevel best) {
  Case c;
  Attributes& a = c.attributes;
  a.num_heads = heads;
  a.head_size = d;
  a.window = a.pad_to = {window, window};
  a.kv_window = {keys, keys};
  a.shift = {window / 2, window / 2};
  a.mask = Mask::kRegion;
  a.scale = logits / std::sqrt(static_cast<float>(d));
  c.qkv_shape = {batch, side, side, heads * 3 * d};
  c.qkv = random->Normal(static_cast<size_t>(batch * side * side * heads * 3 * d), 1, DType::kFloat32);
  c.bias = random->Normal(static_cast<size_t>(heads * window * window * keys * keys), 1, DType::kFloat32);
  c.has_bias = true;
  Compare(c, best);
}

// Values below float32's normal range count as zeros inside the kernel (they would slow it down many times over);
// outside, the thread computes with them as before.
void Denormals(CpuLevel best) {
  Case c;
  Attributes& a = c.attributes;
  a.num_heads = 1;
  a.head_size = 4;
  a.window = a.kv_window = a.pad_to = {2, 2};
  c.qkv_shape = {1, 2, 2, 12};
  c.qkv.assign(48, 1e-40f);
  for (int level = 0; level <= static_cast<int>(best); ++level) {
    for (const float value : Run(c, static_cast<CpuLevel>(level))) Expect(value == 0, "a denormal is flushed");
    volatile float small = 1e-38f;
    small = small / 16;
    Expect(small > 0, "the thread's floating-point mode is restored");
  }
}

void Rejected(const Attributes& attributes, const Shape& qkv, const char* text) {
  Shapes shapes;
  shapes.qkv = qkv;
  Status status = Validate(attributes);
  if (status.ok()) status = Check(attributes, shapes);
  Expect(!status.ok() && status.message().find(text) != std::string::npos,
         std::string("says '") + text + "', said '" + status.message() + "'");
}

void Errors() {
  Attributes good;
  good.num_heads = 2;
  good.head_size = 4;
  good.window = good.kv_window = good.pad_to = {7, 7};
  const Shape qkv{1, 14, 14, 24};
  Expect(Validate(good).ok() && Check(good, {qkv, {}, {}, {}}).ok(), "the good case passes");
  Rejected(good, {1, 14, 24}, "[1, 14, 24]");
  Rejected(good, {1, 14, 14, 23}, "23 channels");
  Rejected(good, {1, 14, 14, 16}, "16 channels");
  Rejected(good, {1, 15, 14, 24}, "height 15");
  Rejected(good, {1, 14, 0, 24}, "width 0");
  Attributes bad = good;
  bad.num_heads = 0;
  Rejected(bad, qkv, "num_heads=0");
  bad = good;
  bad.window = {7, 0};
  Rejected(bad, qkv, "window=(7, 0)");
  bad = good;
  bad.shift = {7, 0};
  Rejected(bad, qkv, "shift=(7, 0)");
  bad = good;
  bad.kv_window = {8, 7};
  Rejected(bad, qkv, "kv_window=(8, 7)");
  bad = good;
  bad.pad_to = {7, 10};
  Rejected(bad, qkv, "pad_to=(7, 10)");
  bad = good;
  bad.scale = INFINITY;
  Rejected(bad, qkv, "scale=inf");
  Shapes shapes{qkv, Shape{2, 49, 48}, {}, {}};
  Expect(Check(good, shapes).message().find("[2, 49, 48]") != std::string::npos, "names the shape of bias");
  shapes = {qkv, {}, Shape{3}, {}};
  Expect(Check(good, shapes).message().find("[3]") != std::string::npos, "names the shape of head_scale");
  shapes = {qkv, {}, {}, Shape{23}};
  Expect(Check(good, shapes).message().find("[23]") != std::string::npos, "names the shape of pad_value");
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  CpuLevel best;
  const Status status = DetectCpuLevel(&best);
  if (!status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 2;
  }
  Random random{std::mt19937(20240607)};
  Errors();
  Denormals(best);
  Shifted(&random, 2, 14, 7, 7, 3, 32, 1, best);     // Swin
  Shifted(&random, 1, 16, 8, 8, 2, 32, 100, best);   // SwinV2's logits
  Shifted(&random, 1, 16, 16, 16, 1, 30, 1, best);   // HAT
  Shifted(&random, 1, 16, 16, 24, 1, 30, 1, best);   // HAT's overlapping windows
  for (int i = 0; i < cases; ++i) Compare(Draw(&random), best);
  std::printf("worst error %.2g of 4e-06, levels 0 to %d\n", g_worst, static_cast<int>(best));
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
