// WindowAttention for ONNX Runtime.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>

namespace edgetx::window_attention {

// One operator per element type, all of them named WindowAttention; they live as long as the library.
std::array<const OrtCustomOp*, 3> CustomOps();
#ifdef EDGETX_CUDA
// The same for the CUDA provider.
std::array<const OrtCustomOp*, 3> GpuOps();
#endif

}  // namespace edgetx::window_attention
