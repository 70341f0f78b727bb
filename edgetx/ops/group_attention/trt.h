// GroupAttention as a TensorRT plugin.
#pragma once

#include <NvInferRuntime.h>

namespace edgetx::group_attention {

nvinfer1::IPluginCreatorInterface& TrtCreator();

}  // namespace edgetx::group_attention
