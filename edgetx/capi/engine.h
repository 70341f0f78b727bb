// An opened model, whatever runs it.
#pragma once

#include <memory>
#include <string>

#include "edgetx/capi/package.h"
#include "edgetx/capi/tensors.h"

namespace edgetx::capi {

class Engine {
 public:
  virtual ~Engine() = default;
  // `inputs` are in the package's order and fit its specs. Several threads may run at once.
  virtual Tensors Run(const edgetx_tensor* const* inputs) = 0;
  virtual const std::string& Describe() const = 0;
};

struct EngineOptions {
  std::string library;           // "": search
  const char* operators = nullptr;  // null: search; "": none
  int threads = 0;
  int device = 0;                   // of the GPUs
};

// Throws Error: EDGETX_ERROR_UNAVAILABLE where the library is not there, EDGETX_ERROR_ENGINE where it refuses the model.
std::unique_ptr<Engine> OpenOnnxRuntime(std::shared_ptr<const Package> package, const EngineOptions& options);
// Only where TensorRT's headers were found. EDGETX_ERROR_UNAVAILABLE also for a driver or an engine that is not there.
std::unique_ptr<Engine> OpenTensorRt(std::shared_ptr<const Package> package, const EngineOptions& options);

}  // namespace edgetx::capi
