// What a group attention is, apart from its tensors, and the one native checker of both. README.md beside this file
// defines the operator, attributes.py is the same in Python.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgetx/ops/native/attention.h"
#include "edgetx/ops/native/status.h"

namespace edgetx::group_attention {

using attention::Activation;

struct Attributes {
  int64_t num_heads = 0;
  float scale = 1.0f;
  Activation activation = Activation::kSoftmax;
};

using Shape = std::vector<int64_t>;

struct Shapes {
  Shape q;
  Shape k;
  Shape v;
  Shape groups;
  Shape inverse;
};

// Sets the attribute that is given by a word.
Status SetActivation(const std::string& word, Attributes* attributes);

// Whether every attribute is in its range.
Status Validate(const Attributes& attributes);

// Whether tensors of these shapes fit valid attributes.
Status Check(const Attributes& attributes, const Shapes& shapes);

}  // namespace edgetx::group_attention
