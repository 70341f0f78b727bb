// GroupAttention's kernel against a plain implementation in double precision, on random groups and owners, at every
// instruction set of this machine and every element type. Every buffer is exactly as large as it must be, and
// working memory and output start as NaN, so that sanitizers see what reaches too far and the comparison sees
// what is not written.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "edgetx/ops/group_attention/kernel.h"
#include "edgetx/ops/native/cpu.h"
#include "edgetx/ops/native/dtype.h"

namespace {

using namespace edgetx;                   // NOLINT
using namespace edgetx::group_attention;  // NOLINT

int g_passed = 0;
int g_failed = 0;
double g_worst = 0;

void Expect(bool condition, const std::string& what) {
  ++(condition ? g_passed : g_failed);
  if (!condition) std::printf("FAILED: %s\n", what.c_str());
}

struct Case {
  Attributes attributes;
  int64_t tokens = 0, groups = 0, slots = 0, d = 0, dv = 0;
  DType dtype = DType::kFloat32;
  std::vector<float> q, k, v;
  std::vector<int32_t> listed, inverse;

  Shapes ShapesOf() const {
    const int64_t h = attributes.num_heads;
    return {{tokens, h * d}, {tokens, h * d}, {tokens, h * dv}, {groups, slots}, {tokens}};
  }
};

// ---- the plain implementation

std::vector<double> Plain(const Case& c) {
  const int64_t h = c.attributes.num_heads;
  std::vector<double> output(static_cast<size_t>(c.tokens * h * c.dv), 0);
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int32_t slot = c.inverse[static_cast<size_t>(t)];
    if (slot < 0 || c.listed[static_cast<size_t>(slot)] < 0) continue;
    const int64_t query = c.listed[static_cast<size_t>(slot)];
    const int64_t first = slot / c.slots * c.slots;
    for (int64_t head = 0; head < h; ++head) {
      std::vector<double> weights;
      std::vector<int64_t> keys;
      double largest = -INFINITY;
      for (int64_t s = 0; s < c.slots; ++s) {
        const int64_t key = c.listed[static_cast<size_t>(first + s)];
        if (key < 0) continue;
        double logit = 0;
        for (int64_t i = 0; i < c.d; ++i) {
          logit += static_cast<double>(c.q[static_cast<size_t>((query * h + head) * c.d + i)]) *
                   c.k[static_cast<size_t>((key * h + head) * c.d + i)];
        }
        keys.push_back(key);
        weights.push_back(logit * c.attributes.scale);
        largest = std::fmax(largest, weights.back());
      }
      double sum = 0;
      for (double& weight : weights) {
        if (c.attributes.activation == Activation::kSoftmax) {
          sum += weight = std::exp(weight - largest);
        } else {
          weight = weight > 0 ? weight * weight : 0;
        }
      }
      if (c.attributes.activation == Activation::kRelu2) sum = 1;
      for (int64_t i = 0; i < c.dv; ++i) {
        double value = 0;
        for (size_t j = 0; j < keys.size(); ++j) {
          value += weights[j] / sum * c.v[static_cast<size_t>((keys[j] * h + head) * c.dv + i)];
        }
        output[static_cast<size_t>((t * h + head) * c.dv + i)] = value;
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
  std::vector<float> Normal(int64_t count, DType dtype) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> values(static_cast<size_t>(count));
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

void Fill(Random* random, Case* c) {
  const int64_t h = c->attributes.num_heads;
  c->q = random->Normal(c->tokens * h * c->d, c->dtype);
  c->k = random->Normal(c->tokens * h * c->d, c->dtype);
  c->v = random->Normal(c->tokens * h * c->dv, c->dtype);
}

Case Draw(Random* random) {
  Case c;
  c.attributes.num_heads = random->Int(1, 3);
  c.d = random->Coin() ? 8 * random->Int(1, 5) : random->Int(1, 37);
  c.dv = random->Coin() ? c.d : random->Int(1, 70);
  c.tokens = random->Int(0, 5) == 0 ? random->Int(0, 2) : random->Int(3, 90);
  c.groups = random->Int(0, 6);
  c.slots = random->Coin() ? random->Int(1, 20) : random->Int(20, 150);
  c.dtype = static_cast<DType>(random->Int(0, 2));
  const double d = static_cast<double>(c.d);
  c.attributes.scale = static_cast<float>(1 / std::sqrt(d));
  if (random->Coin()) {
    c.attributes.activation = Activation::kRelu2;
    c.attributes.scale = static_cast<float>(1 / std::sqrt(d * static_cast<double>(c.slots)));
  }
  const int64_t filled = random->Int(0, 10);  // of ten slots
  for (int64_t i = 0; i < c.groups * c.slots; ++i) {
    const bool empty = c.tokens == 0 || random->Int(0, 9) >= filled;
    c.listed.push_back(empty ? -1 : static_cast<int32_t>(random->Int(0, c.tokens - 1)));
  }
  for (int64_t t = 0; t < c.tokens; ++t) {
    c.inverse.push_back(static_cast<int32_t>(random->Int(-1, c.groups * c.slots - 1)));
  }
  Fill(random, &c);
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

// A tensor's elements, as large as they must be.
struct Buffer {
  Buffer(DType dtype, const std::vector<float>& values)
      : wide(new float[dtype == DType::kFloat32 ? values.size() : 0]),
        half(new uint16_t[dtype == DType::kFloat32 ? 0 : values.size()]),
        data(dtype == DType::kFloat32 ? static_cast<void*>(wide.get()) : half.get()) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::kFloat32) {
        wide[i] = values[i];
      } else {
        half[i] = ToHalf(dtype, values[i]);
      }
    }
  }
  std::unique_ptr<float[]> wide;
  std::unique_ptr<uint16_t[]> half;
  void* data;
};

// The kernel's output as float32; its items are run in three ranges, as threads would.
std::vector<float> Run(const Case& c, CpuLevel level) {
  const Buffer q(c.dtype, c.q), k(c.dtype, c.k), v(c.dtype, c.v);
  const auto listed = Exact(c.listed);
  const auto inverse = Exact(c.inverse);
  const Buffer output(c.dtype, std::vector<float>(c.v.size(), std::numeric_limits<float>::infinity()));
  Tensors tensors;
  tensors.dtype = c.dtype;
  tensors.q = q.data;
  tensors.k = k.data;
  tensors.v = v.data;
  tensors.groups = listed.get();
  tensors.inverse = inverse.get();
  tensors.output = output.data;
  const Shapes shapes = c.ShapesOf();
  Expect(Validate(c.attributes).ok() && Check(c.attributes, shapes).ok() && CheckIndices(shapes, tensors).ok(),
         "a drawn case is valid");
  const Plan plan(c.attributes, shapes, tensors, level);
  plan.Clear();
  for (int part = 0; part < 3; ++part) {
    const size_t bytes = std::max<size_t>(plan.scratch_bytes(), 64);
    const std::unique_ptr<std::byte, FreeAligned> scratch(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
    std::memset(scratch.get(), 0xff, bytes);
    plan.Run(plan.items() * part / 3, plan.items() * (part + 1) / 3, scratch.get());
  }
  std::vector<float> result(c.v.size());
  if (!result.empty()) ToFloat32(c.dtype, output.data, result.size(), result.data());
  return result;
}

void Compare(const Case& c, CpuLevel best) {
  const std::vector<double> expected = Plain(c);
  // relu2 is not normalised: its sums may be larger than 1, and so may their errors.
  double scale = 1;
  for (const double value : expected) scale = std::fmax(scale, std::fabs(value));
  for (int level = 0; level <= static_cast<int>(best); ++level) {
    const std::vector<float> got = Run(c, static_cast<CpuLevel>(level));
    double error = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double difference = std::fabs(got[i] - expected[i]) - std::fabs(expected[i]) * Rounding(c.dtype);
      error = std::isfinite(difference) ? std::fmax(error, difference) : INFINITY;
    }
    g_worst = std::fmax(g_worst, error / scale);
    char text[256];
    std::snprintf(text, sizeof(text),
                  "level %d dtype %d tokens %d groups %d slots %d h %d d %d dv %d activation %d scale %g off by %g",
                  level, static_cast<int>(c.dtype), static_cast<int>(c.tokens), static_cast<int>(c.groups),
                  static_cast<int>(c.slots), static_cast<int>(c.attributes.num_heads), static_cast<int>(c.d),
                  static_cast<int>(c.dv), static_cast<int>(c.attributes.activation),
                  static_cast<double>(c.attributes.scale), error);
    Expect(error <= 4e-6 * scale, text);
  }
}

// ---- fixed cases

// Consecutive groups of `slots` tokens; the last one may be short.
void Consecutive(Random* random, int64_t tokens, int64_t slots, int64_t heads, int64_t d, int64_t dv,
                 Activation activation, float scale, CpuLevel best) {
  Case c;
  c.attributes = {heads, scale, activation};
  c.tokens = tokens;
  c.slots = slots;
  c.groups = (tokens + slots - 1) / slots;
  c.d = d;
  c.dv = dv;
  c.listed.assign(static_cast<size_t>(c.groups * slots), -1);
  for (int64_t t = 0; t < tokens; ++t) {
    c.listed[static_cast<size_t>(t)] = static_cast<int32_t>(t);
    c.inverse.push_back(static_cast<int32_t>(t));
  }
  Fill(random, &c);
  Compare(c, best);
}

void Rejected(const Attributes& attributes, const Shapes& shapes, const char* text) {
  Status status = Validate(attributes);
  if (status.ok()) status = Check(attributes, shapes);
  Expect(!status.ok() && status.message().find(text) != std::string::npos,
         std::string("says '") + text + "', said '" + status.message() + "'");
}

void RejectedIndex(const Shapes& shapes, std::vector<int32_t> groups, std::vector<int32_t> inverse,
                   const char* text) {
  Tensors tensors;
  tensors.groups = groups.data();
  tensors.inverse = inverse.data();
  const Status status = CheckIndices(shapes, tensors);
  Expect(!status.ok() && status.message().find(text) != std::string::npos,
         std::string("says '") + text + "', said '" + status.message() + "'");
}

void Errors() {
  const Attributes good{2, 1.0f, Activation::kSoftmax};
  const Shapes fits{{3, 8}, {3, 8}, {3, 6}, {2, 2}, {3}};
  Expect(Validate(good).ok() && Check(good, fits).ok(), "the good case passes");
  Rejected({0, 1.0f, Activation::kSoftmax}, fits, "num_heads=0");
  Rejected({2, 0.0f, Activation::kSoftmax}, fits, "scale=0");
  Rejected({2, INFINITY, Activation::kSoftmax}, fits, "scale=inf");
  Rejected({2, NAN, Activation::kSoftmax}, fits, "scale=");
  Rejected(good, {{3, 8, 1}, {3, 8}, {3, 6}, {2, 2}, {3}}, "q has shape [3, 8, 1]");
  Rejected(good, {{3, 7}, {3, 7}, {3, 6}, {2, 2}, {3}}, "q has 7 channels");
  Rejected(good, {{3, 0}, {3, 0}, {3, 6}, {2, 2}, {3}}, "q has 0 channels");
  Rejected(good, {{3, 8}, {8}, {3, 6}, {2, 2}, {3}}, "k has shape [8]");
  Rejected(good, {{3, 8}, {3, 8}, {3}, {2, 2}, {3}}, "v has shape [3]");
  Rejected(good, {{3, 8}, {3, 8}, {4, 6}, {2, 2}, {3}}, "v has shape [4, 6]; expected [3, 6]");
  Rejected(good, {{3, 8}, {3, 8}, {3, 6}, {4}, {3}}, "groups has shape [4]");
  Rejected(good, {{3, 8}, {3, 8}, {3, 6}, {2, 0}, {3}}, "at least one slot");
  Rejected(good, {{3, 8}, {3, 8}, {3, 6}, {2, 2}, {4}}, "inverse has shape [4]; expected [3]");
  Rejected(good, {{3, 8}, {3, 8}, {3, 6}, {2, 2}, {}}, "inverse has shape []");
  RejectedIndex(fits, {0, 1, 3, -1}, {0, 1, 2}, "groups holds 3; expected -1 or an index into the tokens, 0 to 2");
  RejectedIndex(fits, {0, 1, -2, -1}, {0, 1, 2}, "groups holds -2");
  RejectedIndex(fits, {0, 1, 2, -1}, {0, 1, 4}, "inverse holds 4; expected -1 or an index into the slots, 0 to 3");
  RejectedIndex(fits, {0, 1, 2, -1}, {0, 1, std::numeric_limits<int32_t>::min()}, "inverse holds -2147483648");
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
  Random random{std::mt19937(20240608)};
  Errors();
  Consecutive(&random, 300, 69, 8, 16, 16, Activation::kSoftmax, 0.25f, best);        // FlatFormer
  Consecutive(&random, 100, 36, 8, 24, 24, Activation::kSoftmax, 0.2f, best);         // DSVT
  Consecutive(&random, 600, 600, 1, 10, 10, Activation::kSoftmax, 0.3f, best);        // several chunks of a group
  Consecutive(&random, 300, 256, 1, 128, 200, Activation::kRelu2, 1.0f / 256, best);  // MossFormer
  Consecutive(&random, 1, 1, 1, 1, 1, Activation::kRelu2, 1, best);
  for (int i = 0; i < cases; ++i) Compare(Draw(&random), best);
  std::printf("worst error %.2g of 4e-06, levels 0 to %d\n", g_worst, static_cast<int>(best));
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
