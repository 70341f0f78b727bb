// The plugin library, driven as TensorRT drives it, up to the launch: against fake/cuda.cc, so that no kernel runs.
// That kernels give right results is tested on a GPU, by tests/gpu with plugin_enqueue.cc.

#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "tests/native/fake/cases.h"
#include "tests/native/plugin_driver.h"

namespace {

using edgetx::Status;
using edgetx::fake::Calls;
using edgetx::fake::Case;
using edgetx::fake::Expect;
using edgetx::fake::Fail;
using edgetx::driven::Fields;
using edgetx::driven::Input;
using edgetx::driven::Plugin;
using edgetx::driven::Type;

constexpr int32_t kSmallTile = (32 << 16) | 64;
constexpr int32_t kLargeTile = (64 << 16) | 64;

std::string g_library;

void Succeed(const Status& status) {
  if (!status.ok()) Fail(status.message());
}

Fields Swin(const std::string& mask = "region") {
  Fields fields;
  fields.Ints("num_heads", {3});
  fields.Ints("head_size", {32});
  for (const char* name : {"window", "kv_window", "pad_to"}) fields.Ints(name, {7, 7});
  fields.Ints("shift", {3, 3});
  fields.Text("mask", mask);
  fields.Floats("mask_value", {-100.0f});
  fields.Text("qk_norm", "none");
  fields.Text("shift_when_single", "keep");
  fields.Floats("scale", {0.5f});
  fields.Text("pad", "none");
  return fields;
}

std::vector<Input> Maps(int64_t batch, Type type = Type::kHALF) {
  return {{type, {batch, 14, 28, 288}}, {type, {3, 49, 49}}};
}

void* Pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

Status EnqueueWindows(Plugin* plugin, const std::vector<Input>& inputs, int32_t tactic, uintptr_t qkv = 4096) {
  edgetx::fake::SetTypes("window_attention_kernel", edgetx::fake::kWindowTypes);
  const void* data[] = {Pointer(qkv), Pointer(8192)};
  return plugin->Enqueue(inputs, data, Pointer(16384), nullptr, tactic, reinterpret_cast<cudaStream_t>(Pointer(77)));
}

Status BuildWindows(Plugin* plugin, const Fields& fields = Swin(), const std::vector<Input>& most = Maps(4)) {
  if (Status status = plugin->Open(g_library, "WindowAttention"); !status.ok()) return status;
  return plugin->Build(fields, most);
}

const Case kCases[] = {
    {"a window's way to the launch, at a smaller batch than it was built for",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       std::vector<int64_t> shape;
       Succeed(plugin.OutputShape(Swin(), Maps(2), &shape));
       if (shape != std::vector<int64_t>{2, 14, 28, 96}) Fail("the output's shape");
       if (plugin.tactics() != std::vector<int32_t>{kLargeTile, kSmallTile}) Fail("the tactics");
       Succeed(EnqueueWindows(&plugin, Maps(2), 0));
       // 2 maps of 2 x 4 windows and 3 heads, 49 queries in one block, on the engine's stream
       Expect(Calls(), "cuModuleLoadData cubin86_64");
       Expect(Calls(), "cuLaunchKernel 48,1,1 128 60000 @77: @4096 @8192 @0 @0 @16384 "
                       "14 28 14 28 14 28 3 3 3 3 3 32 32 7 7 7 7 9 0.500000 -100.000000");
     }},
    {"the tactic that the builder chose",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       Succeed(EnqueueWindows(&plugin, Maps(4), kSmallTile));
       // 2 blocks of 32 queries
       Expect(Calls(), "cuModuleLoadData cubin80_32");
       Expect(Calls(), "cuLaunchKernel 192,1,1 ");
     }},
    {"a tactic of another archive",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       Expect(EnqueueWindows(&plugin, Maps(4), (16 << 16) | 16).message(),
              "enqueue failed: edgetx: window_attention_kernel has no blocks of 16 queries and 16 keys");
     }},
    {"a shape that does not fit",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       Expect(EnqueueWindows(&plugin, {{Type::kHALF, {1, 13, 28, 288}}, {Type::kHALF, {3, 49, 49}}}, 0).message(),
              "onShapeChange failed: edgetx: WindowAttention");
     }},
    {"a tensor between two multiples of 16",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       Expect(EnqueueWindows(&plugin, Maps(1), 0, 4104).message(), "qkv starts at the address 4104");
     }},
    {"types that do not go together",
     [] {
       Plugin plugin;
       Expect(BuildWindows(&plugin, Swin(), {{Type::kHALF, {1, 14, 28, 288}}, {Type::kFLOAT, {3, 49, 49}}}).message(),
              "does not take the type of tensor 1");
     }},
    {"an attribute that is none",
     [] {
       Plugin plugin;
       Expect(BuildWindows(&plugin, Swin("some")).message(), "createPlugin failed: edgetx: ");
     }},
    {"a dtype whose kernels the archive lacks",
     [] {
       Plugin plugin;
       Succeed(BuildWindows(&plugin, Swin(), Maps(1, Type::kBF16)));
       if (!plugin.tactics().empty()) Fail("tactics without kernels");
       Expect(EnqueueWindows(&plugin, Maps(1, Type::kBF16), 0).message(), "was not compiled for head sizes 32 and 32");
     }},
    {"a launch that fails",
     [] {
       setenv("FAKE_FAIL", "cuLaunchKernel", 1);
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       Expect(EnqueueWindows(&plugin, Maps(1), 0).message(),
              "cuLaunchKernel failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
     }},
    {"no driver",
     [] {
       setenv("EDGETX_CUDA_DRIVER", "/none/libcuda.so.1", 1);
       Plugin plugin;
       Succeed(BuildWindows(&plugin));
       edgetx::driven::Input input{Type::kHALF, {1, 14, 28, 288}};
       const void* data[] = {Pointer(4096)};
       Expect(plugin.Enqueue({input}, data, Pointer(16384), nullptr, 0, nullptr).message(),
              "there is no NVIDIA driver that can be loaded");
     }},
    {"groups, and the workspace that the builder is told of",
     [] {
       edgetx::fake::SetTypes("chain_kernel", edgetx::fake::kChainTypes);
       edgetx::fake::SetTypes("group_attention_kernel", edgetx::fake::kGroupTypes);
       Fields fields;
       fields.Ints("num_heads", {8});
       fields.Floats("scale", {0.25f});
       fields.Text("activation", "softmax");
       const std::vector<Input> inputs = {{Type::kHALF, {1000, 128}},
                                          {Type::kHALF, {1000, 128}},
                                          {Type::kHALF, {1000, 128}},
                                          {Type::kINT32, {15, 69}},
                                          {Type::kINT32, {1000}}};
       Plugin plugin;
       Succeed(plugin.Open(g_library, "GroupAttention"));
       Succeed(plugin.Build(fields, inputs));
       // 15 * 69 * 4 bytes, rounded up to 16, then the tokens
       if (plugin.workspace() != 4144 + 4000) Fail("a workspace of " + std::to_string(plugin.workspace()));
       const void* data[] = {Pointer(4096), Pointer(8192), Pointer(12288), Pointer(16384), Pointer(20480)};
       Succeed(plugin.Enqueue(inputs, data, Pointer(24576), Pointer(32768), kSmallTile, nullptr));
       Expect(Calls(), "cuMemsetD32Async 32768 4294967295 2036\n");
       Expect(Calls(), "cuLaunchKernel 4,1,1 128 60000 @0: @20480 @32768 @36912 1000\n");
       Expect(Calls(), "cuLaunchKernel 360,1,1 128 60000 @0: @4096 @8192 @12288 @16384 @32768 @36912 @24576 "
                       "69 8 16 16 0.250000\n");
     }},
};

}  // namespace

int main(int count, char** argv) {
  if (count != 2) {
    std::fprintf(stderr, "usage: plugin_test LIBRARY\n");
    return 2;
  }
  g_library = argv[1];
  return edgetx::fake::RunCases(argv[0], kCases, std::size(kCases));
}
