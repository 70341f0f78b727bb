#include "edgetx/ops/native/ort.h"

#include <atomic>
#include <memory>
#include <mutex>

namespace edgetx::ort {
namespace {

const OrtApi* g_api = nullptr;

struct ReleaseShape {
  void operator()(OrtTensorTypeAndShapeInfo* info) const { Api().ReleaseTensorTypeAndShapeInfo(info); }
};

Status Missing(const char* name, const Status& status) {
  return Status::Error("attribute " + std::string(name) + " cannot be read: " + status.message());
}

struct Loop {
  ParallelBody* body;
  std::atomic<bool> failed{false};
  std::mutex mutex;
  Status status;
  std::exception_ptr exception;

  // ONNX Runtime's threads must not see an exception: the caller gets it back.
  static void Run(void* self, size_t index) noexcept {
    auto& loop = *static_cast<Loop*>(self);
    if (loop.failed.load(std::memory_order_relaxed)) return;
    Status status;
    std::exception_ptr exception;
    try {
      status = loop.body->Run(index);
      if (status.ok()) return;
    } catch (...) {
      exception = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(loop.mutex);
    if (loop.failed.exchange(true)) return;
    loop.status = std::move(status);
    loop.exception = std::move(exception);
  }
};

}  // namespace

const OrtApi& Api() { return *g_api; }
void SetApi(const OrtApi* api) { g_api = api; }

OrtStatus* ToOrt(const Status& status) {
  return status.ok() ? nullptr : Api().CreateStatus(ORT_INVALID_ARGUMENT, status.message().c_str());
}

Status FromOrt(OrtStatus* status) {
  if (status == nullptr) return {};
  const std::unique_ptr<OrtStatus, void (*)(OrtStatus*)> owner(status, Api().ReleaseStatus);
  return Status::Error(Api().GetErrorMessage(status));
}

Status Read(const OrtKernelInfo* info, const char* name, int64_t* value) {
  Status status = FromOrt(Api().KernelInfoGetAttribute_int64(info, name, value));
  return status.ok() ? status : Missing(name, status);
}

Status Read(const OrtKernelInfo* info, const char* name, float* value) {
  Status status = FromOrt(Api().KernelInfoGetAttribute_float(info, name, value));
  return status.ok() ? status : Missing(name, status);
}

Status Read(const OrtKernelInfo* info, const char* name, std::string* value) {
  size_t size = 0;  // with the terminating zero
  Status status = FromOrt(Api().KernelInfoGetAttribute_string(info, name, nullptr, &size));
  if (!status.ok()) return Missing(name, status);
  std::string text(size, '\0');
  status = FromOrt(Api().KernelInfoGetAttribute_string(info, name, text.data(), &size));
  if (!status.ok()) return Missing(name, status);
  text.resize(size > 0 ? size - 1 : 0);
  *value = std::move(text);
  return {};
}

Status Read(const OrtKernelInfo* info, const char* name, std::vector<int64_t>* value) {
  size_t size = 0;
  Status status = FromOrt(Api().KernelInfoGetAttributeArray_int64(info, name, nullptr, &size));
  if (!status.ok()) return Missing(name, status);
  value->resize(size);
  status = FromOrt(Api().KernelInfoGetAttributeArray_int64(info, name, value->data(), &size));
  return status.ok() ? status : Missing(name, status);
}

ONNXTensorElementDataType ToOnnx(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

Status Input(const OrtKernelContext* context, size_t index, std::optional<Tensor>* tensor) {
  size_t count = 0;
  if (Status status = FromOrt(Api().KernelContext_GetInputCount(context, &count)); !status.ok()) return status;
  tensor->reset();
  if (index >= count) return {};
  const OrtValue* value = nullptr;
  if (Status status = FromOrt(Api().KernelContext_GetInput(context, index, &value)); !status.ok()) return status;
  if (value == nullptr) return {};
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  if (Status status = FromOrt(Api().GetTensorTypeAndShape(value, &raw)); !status.ok()) return status;
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, ReleaseShape> info(raw);
  size_t rank = 0;
  if (Status status = FromOrt(Api().GetDimensionsCount(info.get(), &rank)); !status.ok()) return status;
  Tensor result;
  result.shape.resize(rank);
  if (Status status = FromOrt(Api().GetDimensions(info.get(), result.shape.data(), rank)); !status.ok()) {
    return status;
  }
  void* data = nullptr;
  if (Status status = FromOrt(Api().GetTensorMutableData(const_cast<OrtValue*>(value), &data)); !status.ok()) {
    return status;
  }
  result.data = data;
  *tensor = std::move(result);
  return {};
}

Status Output(OrtKernelContext* context, size_t index, const std::vector<int64_t>& shape, void** data) {
  OrtValue* value = nullptr;
  Status status = FromOrt(Api().KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  if (!status.ok()) return status;
  return FromOrt(Api().GetTensorMutableData(value, data));
}

Status ParallelFor(const OrtKernelContext* context, size_t count, ParallelBody* body) {
  if (count == 1) return body->Run(0);
  Loop loop{body, {}, {}, {}, {}};
  Status status = FromOrt(Api().KernelContext_ParallelFor(context, &Loop::Run, count, count, &loop));
  if (!status.ok()) return status;
  if (loop.exception) std::rethrow_exception(loop.exception);
  return std::move(loop.status);
}

}  // namespace edgetx::ort
