// The library's only exported function: ONNX Runtime calls it when a session registers the library.

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

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

// The session's option that says for which execution provider operators are registered: cpu, as without it, or cuda.
// One at a time: ONNX Runtime does not run the body of an operator that is registered for another provider, so a
// session on CUDA would take its nodes of the others to the CPU.
constexpr char kProviderKey[] = "edgetx.provider";

Status AddCpuOps(OrtCustomOpDomain* domain) {
  if (Status status = Add(domain, edgetx::window_attention::CustomOps()); !status.ok()) return status;
  if (Status status = Add(domain, edgetx::group_attention::CustomOps()); !status.ok()) return status;
  if (Status status = Add(domain, edgetx::bias_gelu::CustomOps()); !status.ok()) return status;
  if (Status status = Add(domain, edgetx::add_norm::CustomOps()); !status.ok()) return status;
  return Add(domain, edgetx::depthwise_conv::CustomOps());
}

// As in edgetx/ops/library.py.
Status AddCudaOps([[maybe_unused]] OrtCustomOpDomain* domain) {
#ifdef EDGETX_CUDA
  if (Status status = Add(domain, edgetx::window_attention::GpuOps()); !status.ok()) return status;
  return Add(domain, edgetx::group_attention::GpuOps());
#else
  return Status::Error("this library was built without CUDA operators: they are made on Linux");
#endif
}

// Sessions hold a domain by pointer, so there is one of each, and it lives as long as the library.
template <Status (*kAdd)(OrtCustomOpDomain*)>
Status Domain(OrtCustomOpDomain** domain) {
  static std::mutex mutex;
  static OrtCustomOpDomain* shared = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (shared == nullptr) {
    OrtCustomOpDomain* raw = nullptr;
    if (Status status = FromOrt(Api().CreateCustomOpDomain("edgetx", &raw)); !status.ok()) return status;
    std::unique_ptr<OrtCustomOpDomain, void (*)(OrtCustomOpDomain*)> created(raw, Api().ReleaseCustomOpDomain);
    if (Status status = kAdd(raw); !status.ok()) return status;
    shared = created.release();
  }
  *domain = shared;
  return {};
}

Status Provider(const OrtSessionOptions* options, std::string* provider) {
  *provider = "cpu";
  int given = 0;
  Status status = FromOrt(Api().HasSessionConfigEntry(options, kProviderKey, &given));
  if (!status.ok() || given == 0) return status;
  size_t size = 0;
  status = FromOrt(Api().GetSessionConfigEntry(options, kProviderKey, nullptr, &size));
  if (!status.ok()) return status;
  std::vector<char> text(size);
  status = FromOrt(Api().GetSessionConfigEntry(options, kProviderKey, text.data(), &size));
  *provider = text.data();
  return status;
}

Status Register(OrtSessionOptions* options) {
  std::string provider;
  if (Status status = Provider(options, &provider); !status.ok()) return status;
  OrtCustomOpDomain* domain = nullptr;
  Status status;
  if (provider == "cpu") {
    status = Domain<AddCpuOps>(&domain);
  } else if (provider == "cuda") {
    status = Domain<AddCudaOps>(&domain);
  } else {
    status = Status::Error(std::string(kProviderKey) + "='" + provider + "'; accepted: cpu, cuda");
  }
  if (!status.ok()) return status;
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
