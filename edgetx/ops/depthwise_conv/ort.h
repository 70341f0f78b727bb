// DepthwiseConv for ONNX Runtime.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>

namespace edgetx::depthwise_conv {

// One per element type; they live as long as the library.
std::array<const OrtCustomOp*, 3> CustomOps();

}  // namespace edgetx::depthwise_conv
