// The few functions of NVIDIA's driver API that launching needs. The library is opened at run time, so that nothing
// here needs CUDA to build, and a machine without a driver says so in words.
//
// Declarations follow the documented ABI of the CUDA driver API (CUDA 11.0 and later); names as there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "edgetx/ops/native/status.h"

// The driver's own handles, which CUDA's and TensorRT's headers declare too.
struct CUctx_st;
struct CUfunc_st;
struct CUmod_st;
struct CUstream_st;

namespace edgetx::cuda {

using Result = int;  // CUresult; 0 is success
using Device = int;  // CUdevice
using DevicePointer = unsigned long long;  // CUdeviceptr
using Context = CUctx_st*;
using Module = CUmod_st*;
using Function = CUfunc_st*;
using Stream = CUstream_st*;

struct Driver {
  Result (*Init)(unsigned flags);
  Result (*GetErrorName)(Result, const char** name);
  Result (*GetErrorString)(Result, const char** text);
  Result (*DriverGetVersion)(int* version);
  Result (*CtxGetCurrent)(Context*);
  Result (*CtxGetDevice)(Device*);
  Result (*DeviceGetAttribute)(int* value, int attribute, Device);
  Result (*ModuleLoadData)(Module*, const void* image);
  Result (*ModuleUnload)(Module);
  Result (*ModuleGetFunction)(Function*, Module, const char* name);
  Result (*FuncSetAttribute)(Function, int attribute, int value);
  Result (*LaunchKernel)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream, void** arguments,
                         void** extra);
  Result (*MemsetD8Async)(DevicePointer, unsigned char value, size_t count, Stream);
  Result (*MemsetD32Async)(DevicePointer, unsigned value, size_t count, Stream);
  // For programs that have no other way to a GPU and its memory: the C library, the tests.
  Result (*DeviceGetCount)(int*);
  Result (*DeviceGetName)(char* name, int size, Device);
  Result (*StreamCreate)(Stream*, unsigned flags);
  Result (*StreamDestroy)(Stream);
  Result (*DevicePrimaryCtxRetain)(Context*, Device);
  Result (*DevicePrimaryCtxRelease)(Device);
  Result (*CtxSetCurrent)(Context);
  Result (*CtxSynchronize)();
  Result (*MemAlloc)(DevicePointer*, size_t);
  Result (*MemFree)(DevicePointer);
  Result (*MemcpyHtoD)(DevicePointer, const void*, size_t);
  Result (*MemcpyDtoH)(void*, DevicePointer, size_t);

  // What a call of `name` returned, in words.
  Status Check(Result result, const char* name) const;
};

constexpr Result kOutOfMemory = 2;

// Attributes of a device and of a function, by their numbers in cuda.h.
constexpr int kComputeMajor = 75;
constexpr int kComputeMinor = 76;
constexpr int kMostSharedBytes = 97;        // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
constexpr int kFunctionSharedBytes = 8;     // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

// Opens the driver and initialises it, once; EDGETX_CUDA_DRIVER names another library than libcuda.so.1.
Status GetDriver(const Driver** driver);

}  // namespace edgetx::cuda
