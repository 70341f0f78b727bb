// The library's only exported function: ONNX Runtime calls it when a session registers the library.

#include <cstdio>
#include <memory>
#include <mutex>

#include "edgetx/ops/add_norm/ort.h"
#include "edgetx/ops/bias_gelu/ort.h"
#include "edgetx/ops/group_attention/ort.h"
#include "edgetx/ops/depthwise_conv/ort.h"
#include "edgetx/ops/native/ort.h"
#include "edgetx/ops/window_attention/ort.h"

#define EDGETX_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using edgetx::Status;
using edgetx::ort::Api;
using edgetx::ort::FromOrt;

template <class Ops>
Status Add(OrtCustomOpDomain* domain, const Ops& ops) {
  for (const OrtCustomOp* op : ops) {
    if (Status status = FromOrt(Api().CustomOpDomain_Add(domain, op)); !status.ok()) return status;
  }
  return {};
}

// Sessions hold the domain by pointer, so there is one, and it lives as long as the library.
Status Domain(OrtCustomOpDomain** domain) {
  static std::mutex mutex;
  static OrtCustomOpDomain* shared = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (shared == nullptr) {
    OrtCustomOpDomain* raw = nullptr;
    if (Status status = FromOrt(Api().CreateCustomOpDomain("edgetx", &raw)); !status.ok()) return status;
    std::unique_ptr<OrtCustomOpDomain, void (*)(OrtCustomOpDomain*)> created(raw, Api().ReleaseCustomOpDomain);
    if (Status status = Add(raw, edgetx::window_attention::CustomOps()); !status.ok()) return status;
    if (Status status = Add(raw, edgetx::group_attention::CustomOps()); !status.ok()) return status;
    if (Status status = Add(raw, edgetx::bias_gelu::CustomOps()); !status.ok()) return status;
    if (Status status = Add(raw, edgetx::add_norm::CustomOps()); !status.ok()) return status;
    if (Status status = Add(raw, edgetx::depthwise_conv::CustomOps()); !status.ok()) return status;
#ifdef EDGETX_CUDA
    if (Status status = Add(raw, edgetx::window_attention::GpuOps()); !status.ok()) return status;
    if (Status status = Add(raw, edgetx::group_attention::GpuOps()); !status.ok()) return status;
#endif
    shared = created.release();
  }
  *domain = shared;
  return {};
}

Status Register(OrtSessionOptions* options) {
  OrtCustomOpDomain* domain = nullptr;
  if (Status status = Domain(&domain); !status.ok()) return status;
  return FromOrt(Api().AddCustomOpDomain(options, domain));
}

}  // namespace

EDGETX_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // No way to return a status without an API of our version: ask for the oldest one to say so.
    const OrtApi* oldest = base->GetApi(1);
    char text[128];
    std::snprintf(text, sizeof(text), "edgetx: ONNX Runtime %s is too old for this library; it needs 1.%d or newer",
                  base->GetVersionString(), ORT_API_VERSION);
    return oldest->CreateStatus(ORT_FAIL, text);
  }
  edgetx::ort::SetApi(api);
  return edgetx::ort::Guard([&] { return Register(options); });
}
