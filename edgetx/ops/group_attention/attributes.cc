#include "edgetx/ops/group_attention/attributes.h"

#include <cmath>

#include "edgetx/ops/native/rows.h"

namespace edgetx::group_attention {
namespace {

// Keeps every product of sizes far from overflow.
constexpr int64_t kLargest = int64_t{1} << 20;

Status Error(const std::string& message) { return Status::Error("GroupAttention: " + message); }

Status CheckShape(const char* name, const Shape& given, const Shape& expected, const Shape& q) {
  if (given == expected) return {};
  return Error(std::string(name) + " has shape " + Text(given) + "; expected " + Text(expected) +
               ", since q has shape " + Text(q));
}

Status CheckRank(const char* name, const Shape& given, size_t rank, const char* form) {
  if (given.size() == rank) return {};
  return Error(std::string(name) + " has shape " + Text(given) + "; expected " + form);
}

Status CheckChannels(const char* name, int64_t channels, int64_t heads, const char* size) {
  if (channels >= 1 && channels % heads == 0) return {};
  return Error(std::string(name) + " has " + std::to_string(channels) + " channels with num_heads=" +
               std::to_string(heads) + "; expected " + std::to_string(heads) + "·" + size + " for some " + size +
               " >= 1");
}

}  // namespace

Status SetActivation(const std::string& word, Attributes* attributes) {
  if (word == "softmax") {
    attributes->activation = Activation::kSoftmax;
  } else if (word == "relu2") {
    attributes->activation = Activation::kRelu2;
  } else {
    return Error("activation='" + word + "'; accepted: softmax, relu2");
  }
  return {};
}

Status Validate(const Attributes& a) {
  if (a.num_heads < 1 || a.num_heads > kLargest) {
    return Error("num_heads=" + std::to_string(a.num_heads) + "; expected 1 to " + std::to_string(kLargest));
  }
  if (!std::isfinite(a.scale) || a.scale <= 0) {
    return Error("scale=" + std::to_string(a.scale) + "; expected a positive, finite float32 number");
  }
  return {};
}

Status Check(const Attributes& a, const Shapes& shapes) {
  const auto& [q, k, v, groups, inverse] = shapes;
  if (Status status = CheckRank("q", q, 2, "[T, h·d]"); !status.ok()) return status;
  if (Status status = CheckRank("v", v, 2, "[T, h·dv]"); !status.ok()) return status;
  if (Status status = CheckRank("groups", groups, 2, "[G, S]"); !status.ok()) return status;
  if (Status status = CheckChannels("q", q[1], a.num_heads, "d"); !status.ok()) return status;
  if (Status status = CheckChannels("v", v[1], a.num_heads, "dv"); !status.ok()) return status;
  if (Status status = CheckShape("k", k, q, q); !status.ok()) return status;
  if (Status status = CheckShape("v", v, {q[0], v[1]}, q); !status.ok()) return status;
  if (Status status = CheckShape("inverse", inverse, {q[0]}, q); !status.ok()) return status;
  if (groups[1] < 1) {
    return Error("groups has shape " + Text(groups) + "; expected at least one slot per group");
  }
  return {};
}

}  // namespace edgetx::group_attention
