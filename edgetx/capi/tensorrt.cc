// TensorRT as an engine: its library and NVIDIA's driver are opened when a session is.
//
// Runs engines that `edgetx build --runtime tensorrt` left in the package, as runtimes/nvidia/session.py does. Only
// what TensorRT 10.3 has is called. Written against TensorRT's documentation: no GPU was at hand that runs it.

#include <NvInferRuntime.h>

#include <fstream>
#include <iterator>
#include <new>

#include "edgetx/capi/engine.h"
#include "edgetx/capi/error.h"
#include "edgetx/capi/library.h"
#include "edgetx/capi/plans.h"
#include "edgetx/ops/native/cuda/driver.h"

namespace edgetx::capi {
namespace {

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      last_ = message;
    } catch (...) {  // no memory for the text
    }
  }
  std::string Last() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text = last_.empty() ? "it gave no reason" : last_;
    last_.clear();
    for (char& c : text) {
      if (c == '\n' || c == '\r') c = ' ';
    }
    return text;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

// Loaded once and never unloaded, nor is the logger, to which TensorRT's threads may write.
struct TensorRt {
  void* (*create)(void* logger, int32_t version) = nullptr;
  std::string version;
  Logger* logger = nullptr;
};

TensorRt Load(const std::string& name, void* library) {
  const auto version_of = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
  TensorRt loaded;
  loaded.create = reinterpret_cast<void* (*)(void*, int32_t)>(dlsym(library, "createInferRuntime_INTERNAL"));
  if (version_of == nullptr || loaded.create == nullptr) {
    Fail(EDGETX_ERROR_UNAVAILABLE, name + " is not TensorRT: it has no createInferRuntime_INTERNAL");
  }
  const int32_t version = version_of();
  loaded.version = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                   std::to_string(version % 100);
  // The classes of another major version are laid out differently; TensorRT-RTX calls itself 1.
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    Fail(EDGETX_ERROR_UNAVAILABLE, name + " is of version " + loaded.version + "; this libedgetx was built for TensorRT " +
                                       std::to_string(NV_TENSORRT_MAJOR) +
                                       " (TensorRT-RTX, whose versions begin with 1, only serves the Python runtime)");
  }
  loaded.logger = new Logger;
  return loaded;
}

const TensorRt& Get(const std::string& asked) {
  static Libraries<TensorRt> libraries;
  const std::string usual = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  return libraries.Get(asked, "EDGETX_TENSORRT", {usual, "libnvinfer.so"}, Load, "TensorRT",
                       "install TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
                           " (JetPack brings it), or name libnvinfer.so in the option `library` or the variable "
                           "EDGETX_TENSORRT");
}

nvinfer1::DataType TypeOf(edgetx_dtype dtype) {
  switch (dtype) {
    case EDGETX_FLOAT32: return nvinfer1::DataType::kFLOAT;
    case EDGETX_FLOAT16: return nvinfer1::DataType::kHALF;
    case EDGETX_BFLOAT16: return nvinfer1::DataType::kBF16;
    case EDGETX_INT8: return nvinfer1::DataType::kINT8;
    case EDGETX_UINT8: return nvinfer1::DataType::kUINT8;
    case EDGETX_INT32: return nvinfer1::DataType::kINT32;
    case EDGETX_INT64: return nvinfer1::DataType::kINT64;
    case EDGETX_BOOL: return nvinfer1::DataType::kBOOL;
    case EDGETX_FLOAT64: break;
  }
  Fail(EDGETX_ERROR_UNAVAILABLE, "TensorRT has no float64; open the package with the backend onnxruntime");
}

// The primary context of one GPU, a stream and buffers that grow.
class Device {
 public:
  explicit Device(int index) {
    const Status status = cuda::GetDriver(&driver_);
    if (!status.ok()) Fail(EDGETX_ERROR_UNAVAILABLE, status.message());
    int count = 0;
    Must(driver_->DeviceGetCount(&count), "cuDeviceGetCount");
    if (index >= count) {
      Fail(EDGETX_ERROR_UNAVAILABLE,
           "there is no GPU " + std::to_string(index) + "; the driver finds " + std::to_string(count));
    }
    char name[256] = "";
    int driver = 0;
    Must(driver_->DeviceGetName(name, sizeof(name), index), "cuDeviceGetName");
    Must(driver_->DeviceGetAttribute(&machine.major, cuda::kComputeMajor, index), "cuDeviceGetAttribute");
    Must(driver_->DeviceGetAttribute(&machine.minor, cuda::kComputeMinor, index), "cuDeviceGetAttribute");
    Must(driver_->DriverGetVersion(&driver), "cuDriverGetVersion");
    machine.gpu = name;
    machine.driver = "CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
    index_ = index;
    Must(driver_->DevicePrimaryCtxRetain(&context_, index), "cuDevicePrimaryCtxRetain");
  }
  ~Device() {
    {
      const Current current(*this);
      for (const auto& [name, buffer] : buffers_) driver_->MemFree(buffer.first);
      if (stream != nullptr) driver_->StreamDestroy(stream);
    }
    driver_->DevicePrimaryCtxRelease(index_);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Makes the context this thread's while it lives; where that fails, so do the calls that need it.
  class Current {
   public:
    explicit Current(const Device& device) : driver_(device.driver_) {
      driver_->CtxGetCurrent(&before_);
      driver_->CtxSetCurrent(device.context_);
    }
    ~Current() { driver_->CtxSetCurrent(before_); }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const cuda::Driver* driver_;
    cuda::Context before_ = nullptr;
  };

  // Not one that ignores the default stream: copies, which go through that, stay in order with what is queued here.
  void MakeStream() { Must(driver_->StreamCreate(&stream, 0), "cuStreamCreate"); }

  cuda::DevicePointer Reserve(const std::string& name, size_t bytes) {
    auto& [address, size] = buffers_[name];
    if (size < bytes || size == 0) {
      if (size != 0) Must(driver_->MemFree(address), "cuMemFree");
      size = 0;
      Must(driver_->MemAlloc(&address, bytes == 0 ? 1 : bytes), "cuMemAlloc");
      size = bytes == 0 ? 1 : bytes;
    }
    return address;
  }
  void Upload(cuda::DevicePointer to, const void* from, size_t bytes) {
    if (bytes != 0) Must(driver_->MemcpyHtoD(to, from, bytes), "cuMemcpyHtoD");
  }
  void Download(void* to, cuda::DevicePointer from, size_t bytes) {
    if (bytes != 0) Must(driver_->MemcpyDtoH(to, from, bytes), "cuMemcpyDtoH");
  }
  void Wait() { Must(driver_->CtxSynchronize(), "cuCtxSynchronize"); }

  Machine machine;
  cuda::Stream stream = nullptr;

 private:
  void Must(cuda::Result result, const char* name) const {
    if (result == 0) return;
    const Status status = driver_->Check(result, name);
    Fail(result == cuda::kOutOfMemory ? EDGETX_ERROR_OUT_OF_MEMORY : EDGETX_ERROR_ENGINE, status.message());
  }

  const cuda::Driver* driver_ = nullptr;
  int index_ = 0;
  cuda::Context context_ = nullptr;
  std::map<std::string, std::pair<cuda::DevicePointer, size_t>> buffers_;
};

class TensorRtEngine : public Engine {
 public:
  TensorRtEngine(std::shared_ptr<const Package> package, const EngineOptions& options)
      : package_(std::move(package)), trt_(Get(options.library)), device_(options.device) {
    device_.machine.tensorrt = trt_.version;
    plan_ = FindPlan(*package_, device_.machine);
    try {
      Open(options);
    } catch (...) {
      Close();
      throw;
    }
  }

  ~TensorRtEngine() override { Close(); }

  // One at a time; others wait.
  Tensors Run(const edgetx_tensor* const* inputs) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Device::Current current(device_);
    const Manifest& manifest = package_->manifest;
    std::map<std::string, int64_t> sizes;
    for (size_t i = 0; i < manifest.inputs.size(); ++i) {
      const auto& shape = manifest.inputs[i].shape;
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis].size == 0) sizes[shape[axis].symbol] = inputs[i]->shape[axis];
      }
    }
    const auto profile = static_cast<int32_t>(ChooseProfile(plan_, sizes));
    if (profile != profile_) {
      if (!context_->setOptimizationProfileAsync(profile, stream())) Refuse("cannot choose a profile");
      profile_ = profile;
    }
    for (size_t i = 0; i < manifest.inputs.size(); ++i) {
      const char* name = manifest.inputs[i].name.c_str();
      const cuda::DevicePointer address = device_.Reserve(manifest.inputs[i].name, inputs[i]->bytes);
      device_.Upload(address, inputs[i]->data, inputs[i]->bytes);
      nvinfer1::Dims dims{};
      dims.nbDims = static_cast<int32_t>(inputs[i]->rank);
      for (int32_t axis = 0; axis < dims.nbDims; ++axis) dims.d[axis] = inputs[i]->shape[axis];
      if (!context_->setInputShape(name, dims) || !context_->setTensorAddress(name, reinterpret_cast<void*>(address))) {
        Refuse(std::string("does not take the input '") + name + "'");
      }
    }
    Tensors outputs;
    std::vector<cuda::DevicePointer> addresses;
    for (const TensorSpec& spec : manifest.outputs) {
      outputs.push_back(MakeOutput(spec));
      addresses.push_back(device_.Reserve(spec.name, outputs.back().bytes));
      if (!context_->setTensorAddress(spec.name.c_str(), reinterpret_cast<void*>(addresses.back()))) {
        Refuse("does not give the output '" + spec.name + "'");
      }
    }
    if (!context_->enqueueV3(stream())) Refuse("failed");
    for (size_t i = 0; i < outputs.size(); ++i) device_.Download(outputs[i].data, addresses[i], outputs[i].bytes);
    device_.Wait();
    return outputs;
  }

  const std::string& Describe() const override { return description_; }

 private:
  void Open(const EngineOptions& options) {
    const Device::Current current(device_);
    device_.MakeStream();
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(trt_.create(trt_.logger, NV_TENSORRT_VERSION)));
    if (runtime_ == nullptr) Refuse("does not start");
    const std::string plugins = plan_.plugins ? LoadPlugins(options) : "none";
    std::ifstream stream(plan_.path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(stream)), {});
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_ == nullptr) Refuse("does not load " + plan_.path);
    for (const TensorSpec& spec : package_->manifest.inputs) CheckTensor(spec, nvinfer1::TensorIOMode::kINPUT);
    for (const TensorSpec& spec : package_->manifest.outputs) CheckTensor(spec, nvinfer1::TensorIOMode::kOUTPUT);
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) Refuse("cannot prepare " + plan_.path);
    description_ = "TensorRT " + trt_.version + ", device cuda:" + std::to_string(options.device) + " (" +
                   device_.machine.gpu + "), engine " + plan_.name + ", plugins " + plugins;
  }

  void Close() {
    const Device::Current current(device_);
    context_.reset();
    engine_.reset();
    runtime_.reset();
  }

  [[noreturn]] void Refuse(const std::string& what) const {
    Fail(EDGETX_ERROR_ENGINE, "TensorRT " + trt_.version + " " + what + ": " + trt_.logger->Last());
  }

  cudaStream_t stream() const { return reinterpret_cast<cudaStream_t>(device_.stream); }

  std::string LoadPlugins(const EngineOptions& options) {
    std::string reason;
    const std::string found = FindOperators(options.operators, "EDGETX_PLUGIN_LIBRARY", "libedgetx_trt.so", &reason);
    if (found.empty()) {
      Fail(EDGETX_ERROR_UNAVAILABLE,
           "engine " + plan_.name + " needs edgetx's plugins (" + reason + "): name libedgetx_trt.so in the option "
           "`operators` or the variable EDGETX_PLUGIN_LIBRARY");
    }
    nvinfer1::IPluginRegistry& registry = runtime_->getPluginRegistry();
    // There already where another session, or the program itself, loaded them.
    const bool loaded = registry.getCreator("WindowAttention", "1", "edgetx") != nullptr &&
                        registry.getCreator("GroupAttention", "1", "edgetx") != nullptr;
    if (!loaded && registry.loadLibrary(found.c_str()) == nullptr) Refuse("does not take " + found);
    return "edgetx";
  }

  void CheckTensor(const TensorSpec& spec, nvinfer1::TensorIOMode mode) const {
    const char* name = spec.name.c_str();
    if (engine_->getTensorIOMode(name) == mode && engine_->getTensorDataType(name) == TypeOf(spec.dtype)) return;
    Fail(EDGETX_ERROR_ENGINE, "engine " + plan_.name + " has no " +
                                  (mode == nvinfer1::TensorIOMode::kINPUT ? "input" : "output") + " " + Show(spec) +
                                  "; build it again: edgetx build " + package_->folder +
                                  " --runtime tensorrt --force");
  }

  Tensor MakeOutput(const TensorSpec& spec) const {
    const nvinfer1::Dims dims = context_->getTensorShape(spec.name.c_str());
    Tensor tensor;
    tensor.name = spec.name;
    tensor.dtype = spec.dtype;
    tensor.bytes = DtypeBytes(spec.dtype);
    if (dims.nbDims < 0 || dims.nbDims > EDGETX_MAX_RANK) Refuse("knows no shape of the output '" + spec.name + "'");
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
      if (dims.d[axis] < 0) {
        Fail(EDGETX_ERROR_ENGINE, "the size of output '" + spec.name + "' depends on the data, which sessions of "
                                  "TensorRT do not take; open the package with the backend onnxruntime");
      }
      tensor.shape.push_back(dims.d[axis]);
      if (__builtin_mul_overflow(tensor.bytes, static_cast<size_t>(dims.d[axis]), &tensor.bytes)) throw std::bad_alloc();
    }
    tensor.data = std::malloc(tensor.bytes == 0 ? 1 : tensor.bytes);
    if (tensor.data == nullptr) throw std::bad_alloc();
    tensor.owner = std::shared_ptr<void>(tensor.data, std::free);
    return tensor;
  }

  std::shared_ptr<const Package> package_;
  const TensorRt& trt_;
  Device device_;
  Plan plan_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  int32_t profile_ = 0;
  std::mutex mutex_;
  std::string description_;
};

}  // namespace

std::unique_ptr<Engine> OpenTensorRt(std::shared_ptr<const Package> package, const EngineOptions& options) {
  return std::make_unique<TensorRtEngine>(std::move(package), options);
}

}  // namespace edgetx::capi
