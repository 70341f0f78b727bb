// A stand-in for TensorRT's library, for tensorrt_test.cc alone: its engines give y = 2 x + 100 · profile, on what
// fake/cuda.cc calls a GPU. It shows that sessions make the right calls in the right order and report what fails;
// that TensorRT itself runs a package is a matter for tests/gpu, on a GPU.

#include "tests/capi/fake/nvinfer_defaults.h"

#include <cstring>
#include <map>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fake {
namespace {

ILogger* g_logger = nullptr;

// FAKE_TRT_FAIL names the function that fails.
bool Fails(const char* function) {
  const char* failing = std::getenv("FAKE_TRT_FAIL");
  if (failing == nullptr || std::strcmp(failing, function) != 0) return false;
  g_logger->log(ILogger::Severity::kERROR, (std::string(function) + " was told to fail\n").c_str());
  return true;
}

bool Is(const char* name, const char* expected) { return std::strcmp(name, expected) == 0; }

struct ContextImpl : NoContext {
  bool setOptimizationProfileAsync(int32_t index, cudaStream_t) noexcept override {
    profile = index;
    return !Fails("setOptimizationProfileAsync");
  }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    shape = dims;
    return Is(name, "x") && !Fails("setInputShape");
  }
  Dims getTensorShape(const char* name) const noexcept override {
    Dims dims = shape;
    if (std::getenv("FAKE_TRT_OPEN_SHAPE") != nullptr) dims.d[0] = -1;
    return Is(name, "y") ? dims : Dims{};
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    addresses[name] = static_cast<float*>(data);
    return !Fails("setTensorAddress");
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (stream == nullptr || Fails("enqueueV3")) return false;
    int64_t count = 1;
    for (int32_t axis = 0; axis < shape.nbDims; ++axis) count *= shape.d[axis];
    for (int64_t i = 0; i < count; ++i) {
      addresses["y"][i] = 2 * addresses["x"][i] + 100 * static_cast<float>(profile);
    }
    return true;
  }

  Dims shape{};
  int32_t profile = 0;
  std::map<std::string, float*> addresses;
};

class Context : public IExecutionContext {
 public:
  Context() { mImpl = &impl_; }

 private:
  ContextImpl impl_;
};

struct EngineImpl : NoEngine {
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override {
    return Fails("createExecutionContext") ? nullptr : new Context;
  }
  DataType getTensorDataType(const char*) const noexcept override { return DataType::kFLOAT; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return Is(name, "x") ? TensorIOMode::kINPUT : Is(name, "y") ? TensorIOMode::kOUTPUT : TensorIOMode::kNONE;
  }
};

class Engine : public ICudaEngine {
 public:
  Engine() { mImpl = &impl_; }

 private:
  EngineImpl impl_;
};

struct RuntimeImpl : NoRuntime {
  ICudaEngine* deserializeCudaEngine(const void* blob, size_t size) noexcept override {
    if (std::string(static_cast<const char*>(blob), size) == "an engine") return new Engine;
    g_logger->log(ILogger::Severity::kERROR, "magic tag does not match");
    return nullptr;
  }
};

class Runtime : public IRuntime {
 public:
  Runtime() { mImpl = &impl_; }

 private:
  RuntimeImpl impl_;
};

}  // namespace
}  // namespace fake

EXPORT int32_t getInferLibVersion() noexcept {
  const char* version = std::getenv("FAKE_TRT_VERSION");
  return version != nullptr ? std::atoi(version) : NV_TENSORRT_MAJOR * 10000 + 300;
}

EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  fake::g_logger = static_cast<nvinfer1::ILogger*>(logger);
  if (version != NV_TENSORRT_VERSION || fake::Fails("createInferRuntime")) return nullptr;
  return static_cast<nvinfer1::IRuntime*>(new fake::Runtime);
}
