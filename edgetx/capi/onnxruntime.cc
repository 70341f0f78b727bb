// ONNX Runtime as an engine, loaded when a session is opened: this library does not link to it.

#include <onnxruntime_c_api.h>

#include <cstdlib>

#include "edgetx/capi/engine.h"
#include "edgetx/capi/error.h"
#include "edgetx/capi/library.h"

namespace edgetx::capi {
namespace {

// Before 1.27 ONNX Runtime takes one function body for all overloads of an operator.
constexpr int kBodiesSince = 27;

struct Runtime {
  const OrtApi* api = nullptr;
  OrtEnv* env = nullptr;
  std::string version;
  int minor = 0;
};

void Check(const OrtApi* api, OrtStatus* status, const std::string& doing) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  const OrtErrorCode code = api->GetErrorCode(status);
  api->ReleaseStatus(status);
  for (char& c : message) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  Fail(code == ORT_INVALID_ARGUMENT ? EDGETX_ERROR_ARGUMENT : EDGETX_ERROR_ENGINE, doing + ": " + message);
}

Runtime Load(const std::string& name, void* library) {
  const auto base_of = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  if (base_of == nullptr) Fail(EDGETX_ERROR_UNAVAILABLE, name + " is not ONNX Runtime: it has no OrtGetApiBase");
  Runtime runtime;
  const OrtApiBase* base = base_of();
  runtime.version = base->GetVersionString();
  runtime.api = base->GetApi(ORT_API_VERSION);
  if (runtime.api == nullptr) {
    Fail(EDGETX_ERROR_UNAVAILABLE, name + " is ONNX Runtime " + runtime.version + "; expected 1." +
                                       std::to_string(ORT_API_VERSION) + " or newer");
  }
  const size_t dot = runtime.version.find('.');
  runtime.minor = dot == std::string::npos ? 0 : std::atoi(runtime.version.c_str() + dot + 1);
  Check(runtime.api, runtime.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "edgetx", &runtime.env), "starting " + name);
  return runtime;
}

const Runtime& Get(const std::string& asked) {
  static Libraries<Runtime> libraries;
  return libraries.Get(asked, "EDGETX_ONNXRUNTIME", {"libonnxruntime.so.1", "libonnxruntime.so"}, Load, "ONNX Runtime",
                       "install libonnxruntime, or name the file in the option `library` or the variable "
                       "EDGETX_ONNXRUNTIME (the Python package onnxruntime has it in its folder capi)");
}

edgetx_dtype DtypeOf(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return EDGETX_FLOAT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return EDGETX_FLOAT16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return EDGETX_BFLOAT16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return EDGETX_FLOAT64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return EDGETX_INT8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return EDGETX_UINT8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return EDGETX_INT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return EDGETX_INT64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return EDGETX_BOOL;
    default: Fail(EDGETX_ERROR_ENGINE, "the model gave a tensor of an element type that packages do not have");
  }
}

ONNXTensorElementDataType TypeOf(edgetx_dtype dtype) {
  switch (dtype) {
    case EDGETX_FLOAT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case EDGETX_FLOAT16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case EDGETX_BFLOAT16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case EDGETX_FLOAT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case EDGETX_INT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case EDGETX_UINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case EDGETX_INT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case EDGETX_INT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case EDGETX_BOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// Releases what ONNX Runtime handed out, also where something throws on the way.
template <class T>
using Held = std::unique_ptr<T, void (*)(T*)>;

class OnnxRuntime : public Engine {
 public:
  OnnxRuntime(std::shared_ptr<const Package> package, const EngineOptions& options)
      : package_(std::move(package)),
        runtime_(Get(options.library)),
        api_(runtime_.api),
        session_(nullptr, api_->ReleaseSession),
        memory_(nullptr, api_->ReleaseMemoryInfo) {
    const Manifest& manifest = package_->manifest;
    Held<OrtSessionOptions> settings(nullptr, api_->ReleaseSessionOptions);
    OrtSessionOptions* made = nullptr;
    Must(api_->CreateSessionOptions(&made), "making options");
    settings.reset(made);
    if (options.threads > 0) Must(api_->SetIntraOpNumThreads(made, options.threads), "setting threads");
    Must(api_->SetSessionGraphOptimizationLevel(made, ORT_ENABLE_ALL), "setting the optimization level");
    // As the Python runtime: see runtimes/ort/session.py for the reasons.
    Must(api_->AddSessionConfigEntry(made, "session.intra_op.allow_spinning", "1"), "setting spinning");
    Must(api_->AddSessionConfigEntry(made, "session.force_spinning_stop", "1"), "setting spinning");
    if (manifest.processor.kind == "image-restoration") {
      Must(api_->DisableMemPattern(made), "setting memory patterns");
    }
    const std::string kernels = manifest.has_operators ? Register(made, options) : "standard ONNX operators";
    OrtSession* session = nullptr;
    Must(api_->CreateSession(runtime_.env, package_->ModelPath().c_str(), made, &session),
         "ONNX Runtime " + runtime_.version + " cannot load " + package_->ModelPath());
    session_.reset(session);
    OrtMemoryInfo* memory = nullptr;
    Must(api_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "describing memory");
    memory_.reset(memory);
    for (const TensorSpec& spec : manifest.inputs) input_names_.push_back(spec.name.c_str());
    for (const TensorSpec& spec : manifest.outputs) output_names_.push_back(spec.name.c_str());
    description_ = "ONNX Runtime " + runtime_.version + ", device cpu, threads " +
                   (options.threads > 0 ? std::to_string(options.threads) : "chosen by ONNX Runtime") +
                   ", kernels " + kernels;
  }

  Tensors Run(const edgetx_tensor* const* inputs) override {
    std::vector<Held<OrtValue>> held;
    std::vector<const OrtValue*> given;
    held.reserve(input_names_.size());
    given.reserve(input_names_.size());
    for (size_t i = 0; i < input_names_.size(); ++i) {
      OrtValue* value = nullptr;
      Must(api_->CreateTensorWithDataAsOrtValue(memory_.get(), inputs[i]->data, inputs[i]->bytes, inputs[i]->shape,
                                                inputs[i]->rank, TypeOf(inputs[i]->dtype), &value),
           "input");
      held.emplace_back(value, api_->ReleaseValue);
      given.push_back(value);
    }
    std::vector<OrtValue*> values(output_names_.size(), nullptr);
    OrtStatus* status = api_->Run(session_.get(), nullptr, input_names_.data(), given.data(), given.size(),
                                  output_names_.data(), output_names_.size(), values.data());
    Tensors tensors(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != nullptr) tensors[i].owner = std::shared_ptr<void>(values[i], Releaser{api_});
    }
    Must(status, "ONNX Runtime failed");
    for (size_t i = 0; i < values.size(); ++i) Describe(values[i], output_names_[i], &tensors[i]);
    return tensors;
  }

  const std::string& Describe() const override { return description_; }

 private:
  struct Releaser {
    const OrtApi* api;
    void operator()(void* value) const { api->ReleaseValue(static_cast<OrtValue*>(value)); }
  };

  void Must(OrtStatus* status, const std::string& doing) const { Check(api_, status, doing); }
  // The text of the common case is only made where it is needed: a run takes microseconds.
  void Must(OrtStatus* status, const char* doing) const {
    if (status != nullptr) Check(api_, status, doing);
  }

  std::string Register(OrtSessionOptions* settings, const EngineOptions& options) {
    const Manifest& manifest = package_->manifest;
    std::string reason;
    const std::string operators = FindOperators(options.operators, "EDGETX_OPS_LIBRARY", "libedgetx_ort.so", &reason);
    if (!operators.empty()) {
      Must(api_->RegisterCustomOpsLibrary_V2(settings, operators.c_str()), "loading " + operators);
      return "edgetx";
    }
    if (manifest.bodies == "none" || runtime_.minor < kBodiesSince) {
      Fail(EDGETX_ERROR_UNAVAILABLE,
           "package " + manifest.name + " needs edgetx's operator library (" + reason + "; ONNX Runtime " +
               runtime_.version + " cannot run the package without it): name it in the option `operators` or the "
               "variable EDGETX_OPS_LIBRARY");
    }
    return manifest.bodies + " ONNX bodies (" + reason + ")";
  }

  void Describe(const OrtValue* value, const char* name, Tensor* tensor) const {
    OrtTensorTypeAndShapeInfo* made = nullptr;
    Must(api_->GetTensorTypeAndShape(value, &made), "output");
    const Held<OrtTensorTypeAndShapeInfo> info(made, api_->ReleaseTensorTypeAndShapeInfo);
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    size_t count = 0;
    Must(api_->GetTensorElementType(made, &type), "output");
    Must(api_->GetDimensionsCount(made, &rank), "output");
    Must(api_->GetTensorShapeElementCount(made, &count), "output");
    if (rank > EDGETX_MAX_RANK) Fail(EDGETX_ERROR_ENGINE, std::string("output '") + name + "' has too many dimensions");
    tensor->name = name;
    tensor->dtype = DtypeOf(type);
    tensor->shape.resize(rank);
    Must(api_->GetDimensions(made, tensor->shape.data(), rank), "output");
    tensor->bytes = count * DtypeBytes(tensor->dtype);
    Must(api_->GetTensorMutableData(const_cast<OrtValue*>(value), &tensor->data), "output");
  }

  std::shared_ptr<const Package> package_;
  const Runtime& runtime_;
  const OrtApi* api_;
  Held<OrtSession> session_;
  Held<OrtMemoryInfo> memory_;
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
  std::string description_;
};

}  // namespace

std::unique_ptr<Engine> OpenOnnxRuntime(std::shared_ptr<const Package> package, const EngineOptions& options) {
  return std::make_unique<OnnxRuntime>(std::move(package), options);
}

}  // namespace edgetx::capi
