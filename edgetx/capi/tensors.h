// A list of tensors that owns their data.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edgetx.h"

namespace edgetx::capi {

struct Tensor {
  std::string name;
  edgetx_dtype dtype = EDGETX_FLOAT32;
  std::vector<int64_t> shape;
  void* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<void> owner;  // keeps `data`
};

using Tensors = std::vector<Tensor>;

// float32, uninitialised where the caller fills all of it.
Tensor MakeFloats(const std::string& name, std::vector<int64_t> shape);

}  // namespace edgetx::capi
