// What every ONNX Runtime shim needs. Only ONNX Runtime's C interface is used, so nothing here throws for it,
// and no exception of ours crosses it: entry points go through `Guard`.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "edgetx/ops/native/dtype.h"
#include "edgetx/ops/native/status.h"

namespace edgetx::ort {

// ONNX Runtime's functions, from registration on.
const OrtApi& Api();
void SetApi(const OrtApi* api);

// Null for success, as ONNX Runtime expects; the caller owns the result.
OrtStatus* ToOrt(const Status& status);
// Takes `status` over.
Status FromOrt(OrtStatus* status);

// Runs `body`, which returns a Status, at the border to ONNX Runtime.
template <class Body>
OrtStatus* Guard(Body&& body) noexcept {
  try {
    return ToOrt(body());
  } catch (const std::bad_alloc&) {
    return Api().CreateStatus(ORT_FAIL, "edgetx: out of memory");
  } catch (const std::exception& error) {
    return Api().CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return Api().CreateStatus(ORT_FAIL, "edgetx: unknown error");
  }
}

// Attributes of a node. Each fails if the attribute is missing or of another type.
Status Read(const OrtKernelInfo* info, const char* name, int64_t* value);
Status Read(const OrtKernelInfo* info, const char* name, float* value);
Status Read(const OrtKernelInfo* info, const char* name, std::string* value);
Status Read(const OrtKernelInfo* info, const char* name, std::vector<int64_t>* value);

ONNXTensorElementDataType ToOnnx(DType dtype);

// An input tensor; nothing if the node leaves it out. `data` belongs to ONNX Runtime.
struct Tensor {
  const void* data = nullptr;
  std::vector<int64_t> shape;
};
Status Input(const OrtKernelContext* context, size_t index, std::optional<Tensor>* tensor);

// Allocates output `index`.
Status Output(OrtKernelContext* context, size_t index, const std::vector<int64_t>& shape, void** data);

class ParallelBody {
 public:
  virtual ~ParallelBody() = default;
  virtual Status Run(size_t index) = 0;
};
// Calls `body->Run(index)` for 0 <= index < count on ONNX Runtime's threads. The first failure is returned,
// the first exception thrown again; calls that have not started by then are left out.
Status ParallelFor(const OrtKernelContext* context, size_t count, ParallelBody* body);

}  // namespace edgetx::ort
