#include "edgetx/ops/native/cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

namespace edgetx::cuda {
namespace {

Status Open(Driver* driver) {
  const char* chosen = std::getenv("EDGETX_CUDA_DRIVER");
  const std::string name = chosen != nullptr && *chosen != '\0' ? chosen : "libcuda.so.1";
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return Status::Error("there is no NVIDIA driver that can be loaded (" +
                         std::string(reason != nullptr ? reason : name.c_str()) +
                         "); edgetx's GPU kernels need an NVIDIA GPU and its driver");
  }
  std::string missing;
  const auto find = [&](auto* function, const char* symbol) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, symbol));
    if (*function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(symbol);
  };
  // The suffix is the version of the ABI: without it, 32-bit sizes of CUDA 3.
  find(&driver->Init, "cuInit");
  find(&driver->GetErrorName, "cuGetErrorName");
  find(&driver->GetErrorString, "cuGetErrorString");
  find(&driver->DriverGetVersion, "cuDriverGetVersion");
  find(&driver->CtxGetCurrent, "cuCtxGetCurrent");
  find(&driver->CtxGetDevice, "cuCtxGetDevice");
  find(&driver->DeviceGetAttribute, "cuDeviceGetAttribute");
  find(&driver->ModuleLoadData, "cuModuleLoadData");
  find(&driver->ModuleUnload, "cuModuleUnload");
  find(&driver->ModuleGetFunction, "cuModuleGetFunction");
  find(&driver->FuncSetAttribute, "cuFuncSetAttribute");
  find(&driver->LaunchKernel, "cuLaunchKernel");
  find(&driver->MemsetD8Async, "cuMemsetD8Async");
  find(&driver->MemsetD32Async, "cuMemsetD32Async");
  find(&driver->DeviceGetCount, "cuDeviceGetCount");
  find(&driver->DeviceGetName, "cuDeviceGetName");
  find(&driver->StreamCreate, "cuStreamCreate");
  find(&driver->StreamDestroy, "cuStreamDestroy_v2");
  find(&driver->DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
  find(&driver->DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");
  find(&driver->CtxSetCurrent, "cuCtxSetCurrent");
  find(&driver->CtxSynchronize, "cuCtxSynchronize");
  find(&driver->MemAlloc, "cuMemAlloc_v2");
  find(&driver->MemFree, "cuMemFree_v2");
  find(&driver->MemcpyHtoD, "cuMemcpyHtoD_v2");
  find(&driver->MemcpyDtoH, "cuMemcpyDtoH_v2");
  if (!missing.empty()) {
    return Status::Error("the NVIDIA driver (" + name + ") lacks " + missing + "; install a newer driver");
  }
  return driver->Check(driver->Init(0), "cuInit");
}

}  // namespace

Status Driver::Check(Result result, const char* name) const {
  if (result == 0) return {};
  const char* code = nullptr;
  const char* text = nullptr;
  if (GetErrorName(result, &code) != 0) code = nullptr;
  if (GetErrorString(result, &text) != 0) text = nullptr;
  return Status::Error("the NVIDIA driver's " + std::string(name) + " failed with " +
                       (code != nullptr ? code : "an unknown error") + " (" + std::to_string(result) + ")" +
                       (text != nullptr ? ": " + std::string(text) : ""));
}

Status GetDriver(const Driver** driver) {
  static Driver opened{};
  static const Status status = Open(&opened);
  *driver = &opened;
  return status;
}

}  // namespace edgetx::cuda
