// What the tests against the stand-in driver share: an archive of pretended kernels, the calls that the driver got,
// and cases that each have a process of their own.
#pragma once

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

#include "edgetx/ops/native/cuda/archive.h"

namespace edgetx::fake {

constexpr char kWindowTypes[] = "pppppiiiiiiiiiiiiiiiiiiff";
constexpr char kGroupTypes[] = "pppppppiiiif";
constexpr char kChainTypes[] = "pppi";

inline void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::_Exit(1);
}

inline void Expect(const std::string& given, const std::string& part) {
  if (given.find(part) == std::string::npos) Fail("expected '" + part + "' in:\n" + given);
}

inline cuda::Entry MakeEntry(const char* kernel, const char* types, uint32_t sm, uint32_t queries, uint32_t keys) {
  cuda::Entry entry{};
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
inline void WriteArchive(const std::string& path, std::vector<cuda::Entry> entries) {
  std::string images;
  const uint64_t start = 16 + entries.size() * sizeof(cuda::Entry);
  for (cuda::Entry& entry : entries) {
    entry.offset = start + images.size();
    const std::string image = std::string(entry.is_ptx != 0 ? "ptx" : "cubin") + std::to_string(entry.sm) + "_" +
                              std::to_string(entry.block_queries) + '\0';
    entry.bytes = image.size();
    images += image;
  }
  std::ofstream file(path, std::ios::binary);
  const uint32_t counts[] = {static_cast<uint32_t>(entries.size()), sizeof(cuda::Entry)};
  file.write("EDGETXK1", 8).write(reinterpret_cast<const char*>(counts), sizeof(counts));
  file.write(reinterpret_cast<const char*>(entries.data()),
             static_cast<std::streamsize>(entries.size() * sizeof(cuda::Entry)));
  file << images;
}

inline std::vector<cuda::Entry> Shipped() {
  cuda::Entry ptx = MakeEntry("window_attention_kernel", kWindowTypes, 80, 64, 64);
  ptx.is_ptx = 1;
  return {MakeEntry("chain_kernel", kChainTypes, 80, 0, 0),
          MakeEntry("window_attention_kernel", kWindowTypes, 80, 64, 64),
          MakeEntry("window_attention_kernel", kWindowTypes, 86, 64, 64),
          MakeEntry("window_attention_kernel", kWindowTypes, 80, 32, 64),
          MakeEntry("group_attention_kernel", kGroupTypes, 80, 32, 64),
          ptx};
}

inline std::string Calls() {
  void* fake = dlopen(std::getenv("EDGETX_CUDA_DRIVER"), RTLD_NOW);
  return reinterpret_cast<const char* (*)()>(dlsym(fake, "FakeCalls"))();
}
inline void SetTypes(const char* kernel, const char* types) {
  void* fake = dlopen(std::getenv("EDGETX_CUDA_DRIVER"), RTLD_NOW);
  reinterpret_cast<void (*)(const char*, const char*)>(dlsym(fake, "FakeTypes"))(kernel, types);
}

// Statics of the launcher live as long as a process, so each case has one of its own.
struct Case {
  const char* name;
  std::function<void()> run;
};

// `program` is argv[0]: the stand-in lies beside it. Returns what main does.
inline int RunCases(const std::string& program, const Case* cases, size_t count) {
  const std::string folder = program.substr(0, program.rfind('/'));
  setenv("EDGETX_CUDA_DRIVER", (folder + "/libedgetx_fake_cuda.so").c_str(), 1);
  char kernels[] = "/tmp/edgetx-kernels-XXXXXX";
  close(mkstemp(kernels));
  setenv("EDGETX_KERNELS", kernels, 1);
  size_t failures = 0;
  for (size_t i = 0; i < count; ++i) {
    WriteArchive(kernels, Shipped());
    const pid_t child = fork();
    if (child == 0) {
      cases[i].run();
      std::_Exit(0);
    }
    int result = 1;
    if (child < 0 || waitpid(child, &result, 0) < 0 || result != 0) {
      std::fprintf(stderr, "FAILED: %s\n", cases[i].name);
      ++failures;
    }
  }
  unlink(kernels);
  std::printf("%zu passed, %zu failed\n", count - failures, failures);
  return failures != 0;
}

}  // namespace edgetx::fake
