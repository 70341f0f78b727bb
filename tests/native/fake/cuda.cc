// A stand-in for NVIDIA's driver library, for tests alone: it writes down the calls that it gets and fails where it is
// told to. Its memory is the machine's. It computes nothing, so it can only show that arguments are passed and errors
// are reported; that kernels give right results is a matter for tests/gpu, on a GPU.
//
//   FAKE_FAIL        the function that fails, with error 2
//   FAKE_CALLS       a file that the calls are written to as well
//   FAKE_SM          the compute capability, 86 without it
//   FAKE_NO_CONTEXT  no context is current

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::string& Calls() {
  static std::string calls;
  return calls;
}

int Note(const char* function, const std::string& about = "") {
  const std::string line = std::string(function) + (about.empty() ? "" : " " + about) + "\n";
  Calls() += line;
  if (const char* path = std::getenv("FAKE_CALLS"); path != nullptr) {
    if (std::FILE* file = std::fopen(path, "a"); file != nullptr) {
      std::fputs(line.c_str(), file);
      std::fclose(file);
    }
  }
  const char* failing = std::getenv("FAKE_FAIL");
  return failing != nullptr && std::strcmp(failing, function) == 0 ? 2 : 0;
}

std::string Value(char type, const void* at) {
  if (type == 'i') {
    int32_t value = 0;
    std::memcpy(&value, at, sizeof(value));
    return std::to_string(value);
  }
  if (type == 'f') {
    float value = 0;
    std::memcpy(&value, at, sizeof(value));
    return std::to_string(value);
  }
  uintptr_t value = 0;
  std::memcpy(&value, at, sizeof(value));
  return "@" + std::to_string(value);
}

std::map<std::string, std::string> g_types;

}  // namespace

EXPORT const char* FakeCalls() { return Calls().c_str(); }
// The types of a kernel's arguments, which the real driver reads from the image.
EXPORT void FakeTypes(const char* kernel, const char* types) { g_types[kernel] = types; }

EXPORT int cuInit(unsigned) { return Note("cuInit"); }
EXPORT int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_OUT_OF_MEMORY";
  return 0;
}
EXPORT int cuGetErrorString(int, const char** text) {
  *text = "out of memory";
  return 0;
}
EXPORT int cuDriverGetVersion(int* version) {
  *version = 12060;
  return 0;
}
EXPORT int cuCtxGetCurrent(void** context) {
  *context = std::getenv("FAKE_NO_CONTEXT") != nullptr ? nullptr : reinterpret_cast<void*>(64);
  return 0;
}
EXPORT int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  const char* sm = std::getenv("FAKE_SM");
  const int capability = sm != nullptr ? std::atoi(sm) : 86;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 99 * 1024;
  return 0;
}
EXPORT int cuModuleLoadData(void** module, const void* image) {
  *module = reinterpret_cast<void*>(128);
  return Note("cuModuleLoadData", static_cast<const char*>(image));
}
EXPORT int cuModuleUnload(void*) { return Note("cuModuleUnload"); }
EXPORT int cuModuleGetFunction(void** function, void*, const char* name) {
  *function = const_cast<char*>(name);
  return Note("cuModuleGetFunction", name);
}
EXPORT int cuFuncSetAttribute(void*, int attribute, int value) {
  return Note("cuFuncSetAttribute", std::to_string(attribute) + " " + std::to_string(value));
}
EXPORT int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void* stream, void** arguments, void**) {
  std::string about = std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + " " +
                      std::to_string(bx * by * bz) + " " + std::to_string(shared) + " " + Value('p', &stream) + ":";
  const std::string& types = g_types[static_cast<const char*>(function)];
  for (size_t i = 0; i < types.size(); ++i) about += " " + Value(types[i], arguments[i]);
  return Note("cuLaunchKernel", about);
}
EXPORT int cuMemsetD8Async(unsigned long long at, unsigned char value, size_t count, void*) {
  return Note("cuMemsetD8Async", std::to_string(at) + " " + std::to_string(value) + " " + std::to_string(count));
}
EXPORT int cuMemsetD32Async(unsigned long long at, unsigned value, size_t count, void*) {
  return Note("cuMemsetD32Async", std::to_string(at) + " " + std::to_string(value) + " " + std::to_string(count));
}
EXPORT int cuDeviceGetCount(int* count) {
  *count = std::getenv("FAKE_NO_GPU") != nullptr ? 0 : 1;
  return Note("cuDeviceGetCount");
}
EXPORT int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "Fake GPU", static_cast<size_t>(size));
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = reinterpret_cast<void*>(64);
  return Note("cuDevicePrimaryCtxRetain");
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return Note("cuDevicePrimaryCtxRelease_v2"); }
EXPORT int cuCtxSetCurrent(void*) { return 0; }
EXPORT int cuCtxSynchronize() { return Note("cuCtxSynchronize"); }
EXPORT int cuStreamCreate(void** stream, unsigned) {
  *stream = std::malloc(1);
  return Note("cuStreamCreate");
}
EXPORT int cuStreamDestroy_v2(void* stream) {
  std::free(stream);
  return Note("cuStreamDestroy_v2");
}
EXPORT int cuMemAlloc_v2(unsigned long long* at, size_t bytes) {
  if (const int failed = Note("cuMemAlloc_v2")) return failed;
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *at = reinterpret_cast<uintptr_t>(memory);
  return 0;
}
EXPORT int cuMemFree_v2(unsigned long long at) {
  std::free(reinterpret_cast<void*>(at));
  return Note("cuMemFree_v2");
}
EXPORT int cuMemcpyHtoD_v2(unsigned long long to, const void* from, size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return Note("cuMemcpyHtoD_v2");
}
EXPORT int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t bytes) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return Note("cuMemcpyDtoH_v2");
}
