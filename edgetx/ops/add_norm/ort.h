// AddNorm and NormAdd for ONNX Runtime.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>

namespace edgetx::add_norm {

// Each of the two per element type; they live as long as the library.
std::array<const OrtCustomOp*, 6> CustomOps();

}  // namespace edgetx::add_norm
