// How kernels are found and launched: arguments and errors, against fake/cuda.cc. No kernel runs here: whether they
// compute the right thing is tested on a GPU, by tests/gpu.

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "edgetx/ops/group_attention/cuda.h"
#include "edgetx/ops/window_attention/cuda.h"

namespace {

using edgetx::DType;
using edgetx::Status;
using edgetx::cuda::Entry;

constexpr char kWindowTypes[] = "pppppiiiiiiiiiiiiiiiiiiff";

void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::_Exit(1);
}

void Expect(const std::string& given, const std::string& part) {
  if (given.find(part) == std::string::npos) Fail("expected '" + part + "' in:\n" + given);
}

Entry MakeEntry(const char* kernel, const char* types, uint32_t sm, uint32_t queries, uint32_t keys) {
  Entry entry{};
  std::strcpy(entry.kernel, kernel);
  std::strcpy(entry.arguments, types);
  entry.sm = sm;
  entry.dtype = std::strcmp(kernel, "chain_kernel") == 0 ? 3 : 1;
  entry.block_queries = queries;
  entry.block_keys = keys;
  entry.block_size = queries != 0 ? 32 : 0;
  entry.alignment = 8;
  entry.warps = 4;
  entry.shared_bytes = 60000;
  return entry;
}

// Images are their own descriptions, which the stand-in writes down.
void WriteArchive(const std::string& path, std::vector<Entry> entries) {
  std::string images;
  const uint64_t start = 16 + entries.size() * sizeof(Entry);
  for (Entry& entry : entries) {
    entry.offset = start + images.size();
    const std::string image = std::string(entry.is_ptx != 0 ? "ptx" : "cubin") + std::to_string(entry.sm) + "_" +
                              std::to_string(entry.block_queries) + '\0';
    entry.bytes = image.size();
    images += image;
  }
  std::ofstream file(path, std::ios::binary);
  const uint32_t counts[] = {static_cast<uint32_t>(entries.size()), sizeof(Entry)};
  file.write("EDGETXK1", 8).write(reinterpret_cast<const char*>(counts), sizeof(counts));
  file.write(reinterpret_cast<const char*>(entries.data()), static_cast<std::streamsize>(entries.size() * sizeof(Entry)));
  file << images;
}

std::vector<Entry> Shipped() {
  Entry ptx = MakeEntry("window_attention_kernel", kWindowTypes, 80, 64, 64);
  ptx.is_ptx = 1;
  return {MakeEntry("chain_kernel", "pppi", 80, 0, 0),
          MakeEntry("window_attention_kernel", kWindowTypes, 80, 64, 64),
          MakeEntry("window_attention_kernel", kWindowTypes, 86, 64, 64),
          MakeEntry("window_attention_kernel", kWindowTypes, 80, 32, 64),
          MakeEntry("group_attention_kernel", "pppppppiiiif", 80, 32, 64),
          ptx};
}

std::string Calls() {
  void* fake = dlopen(std::getenv("EDGETX_CUDA_DRIVER"), RTLD_NOW);
  return reinterpret_cast<const char* (*)()>(dlsym(fake, "FakeCalls"))();
}
void SetTypes(const char* kernel, const char* types) {
  void* fake = dlopen(std::getenv("EDGETX_CUDA_DRIVER"), RTLD_NOW);
  reinterpret_cast<void (*)(const char*, const char*)>(dlsym(fake, "FakeTypes"))(kernel, types);
}

edgetx::window_attention::Attributes Swin() {
  edgetx::window_attention::Attributes a;
  a.num_heads = 3;
  a.head_size = 32;
  a.window = a.kv_window = a.pad_to = {7, 7};
  a.shift = {3, 3};
  a.mask = edgetx::window_attention::Mask::kRegion;
  a.scale = 0.5f;
  return a;
}

const void* Pointer(uintptr_t address) { return reinterpret_cast<const void*>(address); }

Status LaunchWindow(edgetx::window_attention::Attributes a = Swin(), int32_t tile = 0) {
  edgetx::window_attention::GpuTensors tensors;
  tensors.dtype = DType::kFloat16;
  tensors.qkv = Pointer(4096);
  tensors.bias = Pointer(8192);
  tensors.output = const_cast<void*>(Pointer(16384));
  return edgetx::window_attention::Launch(a, {2, 14, 28, a.num_heads * 96}, tensors, tile, nullptr);
}

void Succeed(const Status& status) {
  if (!status.ok()) Fail(status.message());
}

// Statics of the launcher live as long as a process, so each case has one of its own.
struct Case {
  const char* name;
  std::function<void()> run;
};

const Case kCases[] = {
    {"a window's arguments",
     [] {
       SetTypes("window_attention_kernel", kWindowTypes);
       Succeed(LaunchWindow());
       // 2 maps of 2 x 4 windows and 3 heads, 49 queries in one block
       Expect(Calls(), "cuLaunchKernel 48,1,1 128 60000 @0: @4096 @8192 @0 @0 @16384 "
                       "14 28 14 28 14 28 3 3 3 3 3 32 32 7 7 7 7 9 0.500000 -100.000000");
       Expect(Calls(), "cuFuncSetAttribute 8 60000");
     }},
    {"the roll of a map smaller than its shift, and what a single window drops",
     [] {
       SetTypes("window_attention_kernel", kWindowTypes);
       auto a = Swin();
       a.pad = edgetx::window_attention::Pad::kAfterRoll;
       a.shift = {6, 6};
       a.shift_when_single = edgetx::window_attention::ShiftWhenSingle::kDropAxis;
       edgetx::window_attention::GpuTensors tensors;
       tensors.dtype = DType::kFloat16;
       tensors.qkv = Pointer(4096);
       tensors.output = const_cast<void*>(Pointer(16384));
       Succeed(edgetx::window_attention::Launch(a, {1, 5, 8, 288}, tensors, 0, nullptr));
       // One window down, so no shift there; to the right 8 of 14, rolled by 6.
       Expect(Calls(), "5 8 7 14 5 8 0 6 0 6 3 32 32 7 7 7 7 8 ");
     }},
    {"a wished tile", [] { Succeed(LaunchWindow(Swin(), (32 << 16) | 64)); Expect(Calls(), "cubin80_32"); }},
    {"a tile that was not compiled",
     [] { Expect(LaunchWindow(Swin(), (16 << 16) | 16).message(), "compiled are 64x64, 32x64"); }},
    {"many keys get the tile that loops",
     [] {
       auto a = Swin();
       a.window = a.kv_window = a.pad_to = {14, 14};
       Succeed(LaunchWindow(a));
       Expect(Calls(), "cubin80_32");
     }},
    {"the capability's own cubin", [] { Succeed(LaunchWindow()); Expect(Calls(), "cuModuleLoadData cubin86_64"); }},
    {"a cubin of a smaller minor version",
     [] { setenv("FAKE_SM", "89", 1); Succeed(LaunchWindow()); Expect(Calls(), "cubin86_64"); }},
    {"PTX where there is no cubin",
     [] { setenv("FAKE_SM", "103", 1); Succeed(LaunchWindow()); Expect(Calls(), "ptx80_64"); }},
    {"neither",
     [] {
       setenv("FAKE_SM", "75", 1);
       Expect(LaunchWindow().message(), "was not compiled for sm_75, head sizes 32 and 32");
       Expect(LaunchWindow().message(), "for sm_80, sm_80 and later, sm_86");
     }},
    {"a head size that was not compiled",
     [] {
       auto a = Swin();
       a.head_size = 128;
       Expect(LaunchWindow(a).message(), "was not compiled for head sizes 128 and -160");
     }},
    {"modules are loaded once",
     [] {
       Succeed(LaunchWindow());
       Succeed(LaunchWindow());
       const std::string calls = Calls();
       if (calls.find("cuModuleLoadData") != calls.rfind("cuModuleLoadData")) Fail(calls);
     }},
    {"a launch that fails",
     [] {
       setenv("FAKE_FAIL", "cuLaunchKernel", 1);
       Expect(LaunchWindow().message(),
              "the NVIDIA driver's cuLaunchKernel failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
     }},
    {"an image that the driver refuses",
     [] {
       setenv("FAKE_FAIL", "cuModuleLoadData", 1);
       Expect(LaunchWindow().message(), "is a cubin for sm_86, the driver is of CUDA 12.6");
     }},
    {"a function that fails, once loaded, unloads",
     [] {
       setenv("FAKE_FAIL", "cuModuleGetFunction", 1);
       Expect(LaunchWindow().message(), "cuModuleGetFunction failed");
       Expect(Calls(), "cuModuleUnload");
     }},
    {"no context",
     [] {
       setenv("FAKE_NO_CONTEXT", "1", 1);
       Expect(LaunchWindow().message(), "no current CUDA context");
     }},
    {"no driver",
     [] {
       setenv("EDGETX_CUDA_DRIVER", "/none/libcuda.so.1", 1);
       Expect(LaunchWindow().message(), "there is no NVIDIA driver that can be loaded (/none/libcuda.so.1");
     }},
    {"a driver that cannot start",
     [] { setenv("FAKE_FAIL", "cuInit", 1); Expect(LaunchWindow().message(), "cuInit failed with"); }},
    {"kernels of another edgetx",
     [] {
       std::vector<Entry> entries = Shipped();
       std::strcpy(entries[2].arguments, "ppp");
       WriteArchive(std::getenv("EDGETX_KERNELS"), entries);
       Expect(LaunchWindow().message(), "takes arguments ppp, this library gives pppppiiiiiiiiiiiiiiiiiiff");
     }},
    {"no kernels",
     [] {
       setenv("EDGETX_KERNELS", "/none/kernels.bin", 1);
       Expect(LaunchWindow().message(), "/none/kernels.bin cannot be opened (No such file or directory); build it with");
     }},
    {"kernels cut short",
     [] {
       if (truncate(std::getenv("EDGETX_KERNELS"), 700) != 0) Fail("truncate");
       Expect(LaunchWindow().message(), "are cut short");
     }},
    {"another file",
     [] {
       std::ofstream(std::getenv("EDGETX_KERNELS")) << "something else, and long enough";
       Expect(LaunchWindow().message(), "holds no GPU kernels in the form that this edgetx reads");
     }},
    {"groups",
     [] {
       SetTypes("chain_kernel", "pppi");
       SetTypes("group_attention_kernel", "pppppppiiiif");
       edgetx::group_attention::Attributes a;
       a.num_heads = 8;
       a.scale = 0.25f;
       edgetx::group_attention::GpuTensors t;
       t.dtype = DType::kFloat16;
       t.q = Pointer(4096);
       t.k = Pointer(8192);
       t.v = Pointer(12288);
       t.groups = Pointer(16384);
       t.inverse = Pointer(20480);
       t.output = const_cast<void*>(Pointer(24576));
       t.workspace = const_cast<void*>(Pointer(32768));
       const edgetx::group_attention::Shapes shapes{{1000, 128}, {1000, 128}, {1000, 128}, {15, 69}, {1000}};
       Succeed(edgetx::group_attention::Launch(a, shapes, t, 0, nullptr));
       const std::string calls = Calls();
       Expect(calls, "cuMemsetD8Async 24576 0 256000\n");
       // 15 * 69 * 4 bytes, rounded up to 16, then the tokens
       Expect(calls, "cuMemsetD32Async 32768 4294967295 2036\n");
       Expect(calls, "cuLaunchKernel 4,1,1 128 60000 @0: @20480 @32768 @36912 1000\n");
       // 69 slots in blocks of 32, 8 heads
       Expect(calls, "cuLaunchKernel 360,1,1 128 60000 @0: @4096 @8192 @12288 @16384 @32768 @36912 @24576 "
                     "69 8 16 16 0.250000\n");
     }},
};

}  // namespace

int main(int, char** argv) {
  const std::string folder = std::string(argv[0]).substr(0, std::string(argv[0]).rfind('/'));
  setenv("EDGETX_CUDA_DRIVER", (folder + "/libedgetx_fake_cuda.so").c_str(), 1);
  char kernels[] = "/tmp/edgetx-kernels-XXXXXX";
  close(mkstemp(kernels));
  setenv("EDGETX_KERNELS", kernels, 1);
  int failures = 0;
  for (const Case& test : kCases) {
    WriteArchive(kernels, Shipped());
    const pid_t child = fork();
    if (child == 0) {
      test.run();
      std::_Exit(0);
    }
    int result = 1;
    if (child < 0 || waitpid(child, &result, 0) < 0 || result != 0) {
      std::fprintf(stderr, "FAILED: %s\n", test.name);
      ++failures;
    }
  }
  unlink(kernels);
  std::printf("%zu passed, %d failed\n", std::size(kCases) - static_cast<size_t>(failures), failures);
  return failures != 0;
}
