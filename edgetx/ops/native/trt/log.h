// TensorRT's log, which is the only way a plugin has to say what went wrong.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <new>
#include <string>

#include "edgetx/ops/native/status.h"

namespace edgetx::trt {

void SetLoggerFinder(nvinfer1::ILoggerFinder* finder);
// To TensorRT's log, or to stderr where TensorRT gave none.
void LogError(const std::string& message) noexcept;

// Runs `body`, which returns a Status, at the border to TensorRT: 0, or -1 after the reason was logged.
template <class Body>
int32_t Guard(const Body& body) noexcept {
  try {
    const Status status = body();
    if (status.ok()) return 0;
    LogError(status.message());
  } catch (const std::bad_alloc&) {
    LogError("out of memory");
  } catch (const std::exception& error) {
    LogError(error.what());
  }
  return -1;
}

}  // namespace edgetx::trt
