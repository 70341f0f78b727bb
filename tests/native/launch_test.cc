// How kernels are found and launched: arguments and errors, against fake/cuda.cc. No kernel runs here: whether they
// compute the right thing is tested on a GPU, by tests/gpu.

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "edgetx/ops/group_attention/cuda.h"
#include "edgetx/ops/window_attention/cuda.h"
#include "tests/native/fake/cases.h"

namespace {

using edgetx::DType;
using edgetx::Status;
using edgetx::cuda::Entry;
using edgetx::fake::Calls;
using edgetx::fake::Case;
using edgetx::fake::Expect;
using edgetx::fake::Fail;
using edgetx::fake::kWindowTypes;
using edgetx::fake::SetTypes;
using edgetx::fake::Shipped;
using edgetx::fake::WriteArchive;

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
    {"a tensor between two multiples of 16",
     [] {
       edgetx::window_attention::GpuTensors tensors;
       tensors.dtype = DType::kFloat16;
       tensors.qkv = Pointer(4096);
       tensors.bias = Pointer(8200);
       tensors.output = const_cast<void*>(Pointer(16384));
       const auto launch = [&] {
         return edgetx::window_attention::Launch(Swin(), {2, 14, 28, 288}, tensors, 0, nullptr).message();
       };
       Expect(launch(), "window_attention_kernel: bias starts at the address 8200, which is no multiple of 16");
       tensors.bias = nullptr;
       tensors.output = const_cast<void*>(Pointer(16386));
       Expect(launch(), "the output starts at the address 16386");
       if (Calls().find("cuLaunchKernel") != std::string::npos) Fail(Calls());
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

int main(int, char** argv) { return edgetx::fake::RunCases(argv[0], kCases, std::size(kCases)); }
