// What TensorRT's registry looks for when it loads the library; see IPluginRegistry::loadLibrary.

#include "edgetx/ops/group_attention/trt.h"
#include "edgetx/ops/native/trt/log.h"
#include "edgetx/ops/window_attention/trt.h"

#define EDGETX_EXPORT extern "C" __attribute__((visibility("default")))

EDGETX_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&edgetx::window_attention::TrtCreator(),
                                                                &edgetx::group_attention::TrtCreator()};
  count = 2;
  return creators;
}

EDGETX_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { edgetx::trt::SetLoggerFinder(finder); }

// The edgetx that the library is part of, and the TensorRT whose headers it was built with.
EDGETX_EXPORT const char* edgetx_plugin_version() { return EDGETX_VERSION; }
EDGETX_EXPORT int32_t edgetx_plugin_tensorrt() { return NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR; }
