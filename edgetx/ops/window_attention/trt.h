// WindowAttention as a TensorRT plugin.
#pragma once

#include <NvInferRuntime.h>

namespace edgetx::window_attention {

nvinfer1::IPluginCreatorInterface& TrtCreator();

}  // namespace edgetx::window_attention
