// Sessions on TensorRT: which engine is chosen, what is called, what is told when something fails. Against
// fake/nvinfer.cc and tests/native/fake/cuda.cc: no engine runs here.

#include <NvInferVersion.h>
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "edgetx.h"
#include "edgetx/capi/sha256.h"

namespace {

namespace fs = std::filesystem;

std::string g_package;

void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::_Exit(1);
}

void Expect(const std::string& given, const std::string& part) {
  if (given.find(part) == std::string::npos) Fail("expected '" + part + "' in:\n" + given);
}

std::string Hash(const std::string& text) {
  edgetx::capi::Sha256 hash;
  hash.Add(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  return hash.Hex();
}

void Write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string Profile(int least, int most) {
  return "{\"ranges\": {\"batch\": {\"min\": " + std::to_string(least) + ", \"opt\": " + std::to_string(least) +
         ", \"max\": " + std::to_string(most) + "}}, \"share\": 0.0}";
}

// What an engine's record says, to be changed by a test.
struct Record {
  std::string runtime = "tensorrt", graph = "model.onnx", engine = "TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ".3.0.26";
  std::string model = Hash(Hash("abc")).substr(0, 16);
  std::string compute = "8.6", gpu = "Fake GPU", driver = "CUDA 12.6", precision = "float32", plugin = "none";
  std::string bodies = "primitive of edgetx " EDGETX_VERSION;
  std::string created = "2026-01-01T00:00:00+00:00", tuned = "{}";
  std::string profiles = Profile(1, 4) + ", " + Profile(1, 2);
};

void AddEngine(const std::string& name, const Record& r, const std::string& plan = "an engine") {
  const fs::path folder = fs::path(g_package) / "engines" / name;
  fs::create_directories(folder);
  Write(folder / "engine.plan", plan);
  Write(folder / "engine.json",
        "{\"schema_version\": 1, \"runtime\": \"" + r.runtime + "\", \"graph\": \"" + r.graph +
            "\", \"key\": {\"model\": \"" + r.model + "\", \"engine\": \"" + r.engine + "\", \"compute\": \"" +
            r.compute + "\", \"gpu\": \"" + r.gpu + "\", \"driver\": \"" + r.driver + "\", \"precision\": \"" +
            r.precision + "\", \"bodies\": \"" + r.bodies + "\", \"plugin\": \"" + r.plugin +
            "\", \"profiles\": \"\"}, \"profiles\": [" + r.profiles + "], \"size\": 9, \"sha256\": \"" +
            Hash("an engine") + "\", \"seconds\": 1.0, \"edgetx_version\": \"" EDGETX_VERSION "\", \"created\": \"" +
            r.created + "\", \"tuned\": " + r.tuned + "}");
}

constexpr const char* kManifest = R"({"schema_version": 1, "name": "m", "architecture": "generic",
  "precision": "float32",
  "io": {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
         "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
         "symbols": {"batch": {"min": 1, "max": null, "step": 1}}},
  "files": {"model.onnx": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                           "size": 3}}})";

edgetx_status Open(edgetx_session** session, int device = 0, int threads = 0) {
  edgetx_package* package = nullptr;
  if (edgetx_package_open(g_package.c_str(), 0, &package) != EDGETX_OK) Fail(edgetx_last_error());
  edgetx_session_options options;
  edgetx_session_options_init(&options);
  options.backend = "tensorrt";
  options.device = device;
  options.threads = threads;
  const edgetx_status status = edgetx_session_open(package, &options, session);
  edgetx_package_close(package);
  return status;
}

edgetx_session* MustOpen() {
  edgetx_session* session = nullptr;
  if (Open(&session) != EDGETX_OK) Fail(edgetx_last_error());
  return session;
}

void Refused(edgetx_status expected, const std::string& part, int device = 0, int threads = 0) {
  edgetx_session* session = nullptr;
  const edgetx_status status = Open(&session, device, threads);
  if (session != nullptr) Fail("a session was made");
  Expect(edgetx_last_error(), part);
  if (status != expected) Fail(std::string("status ") + edgetx_status_name(status) + ": " + edgetx_last_error());
}

edgetx_status Run(edgetx_session* session, int64_t batch, std::vector<float>* result) {
  std::vector<float> x(static_cast<size_t>(3 * batch));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  edgetx_tensor input = {};
  input.dtype = EDGETX_FLOAT32;
  input.rank = 2;
  input.shape[0] = batch;
  input.shape[1] = 3;
  input.data = x.data();
  input.bytes = x.size() * sizeof(float);
  edgetx_tensors* outputs = nullptr;
  const edgetx_status status = edgetx_session_run(session, &input, 1, &outputs);
  if (status != EDGETX_OK) return status;
  edgetx_tensor y;
  if (edgetx_tensors_get(outputs, 0, &y) != EDGETX_OK || y.rank != 2 || y.shape[0] != batch) Fail("shape");
  const auto* from = static_cast<const float*>(y.data);
  result->assign(from, from + x.size());
  edgetx_tensors_free(outputs);
  return EDGETX_OK;
}

void Gives(edgetx_session* session, int64_t batch, float offset) {
  std::vector<float> y;
  if (Run(session, batch, &y) != EDGETX_OK) Fail(edgetx_last_error());
  for (size_t i = 0; i < y.size(); ++i) {
    if (y[i] != 2 * static_cast<float>(i) + offset) Fail("element " + std::to_string(i) + ": " + std::to_string(y[i]));
  }
}

void RunFails(const char* function, edgetx_status expected, const std::string& part) {
  AddEngine("tensorrt-1", {});
  edgetx_session* session = MustOpen();
  setenv(std::strncmp(function, "cu", 2) == 0 ? "FAKE_FAIL" : "FAKE_TRT_FAIL", function, 1);
  std::vector<float> y;
  if (Run(session, 3, &y) != expected) Fail(std::string("ran, or ") + edgetx_last_error());
  Expect(edgetx_last_error(), part);
  unsetenv("FAKE_FAIL");
  unsetenv("FAKE_TRT_FAIL");
  Gives(session, 3, 0);  // a session survives a failed run
  edgetx_session_close(session);
}

struct Case {
  const char* name;
  void (*run)();
};

const Case kCases[] = {
    {"runs, in the smallest profile that holds the sizes",
     [] {
       AddEngine("tensorrt-1", {});
       edgetx_session* session = MustOpen();
       Expect(edgetx_session_describe(session), "device cuda:0 (Fake GPU), engine tensorrt-1, plugins none");
       Gives(session, 2, 100);
       Gives(session, 4, 0);  // buffers grow
       Gives(session, 1, 100);
       std::vector<float> y;
       if (Run(session, 5, &y) != EDGETX_ERROR_ARGUMENT) Fail("ran outside its profiles");
       Expect(edgetx_last_error(), "batch 5: outside the profiles of engine tensorrt-1 (batch 1 to 4 | batch 1 to 2)");
       edgetx_session_close(session);
     }},
    {"gives everything back",
     [] {
       AddEngine("tensorrt-1", {});
       edgetx_session* session = MustOpen();
       Gives(session, 2, 100);
       edgetx_session_close(session);
       void* fake = dlopen(std::getenv("EDGETX_CUDA_DRIVER"), RTLD_NOW);
       const std::string calls = reinterpret_cast<const char* (*)()>(dlsym(fake, "FakeCalls"))();
       Expect(calls, "cuMemFree_v2\ncuMemFree_v2\ncuStreamDestroy_v2\ncuDevicePrimaryCtxRelease_v2\n");
     }},
    {"a measured engine, then the newest",
     [] {
       Record newer, tuned;
       newer.created = "2026-02-01T00:00:00+00:00";
       tuned.tuned = "{\"primitive\": 1.5}";
       AddEngine("tensorrt-1", {});
       AddEngine("tensorrt-2", newer);
       edgetx_session* session = MustOpen();
       Expect(edgetx_session_describe(session), "engine tensorrt-2");
       edgetx_session_close(session);
       AddEngine("tensorrt-3", tuned);
       session = MustOpen();
       Expect(edgetx_session_describe(session), "engine tensorrt-3");
       edgetx_session_close(session);
     }},
    {"a portable engine",
     [] {
       Record record;
       record.compute = "portable";
       AddEngine("tensorrt-1", record);
       edgetx_session_close(MustOpen());
       setenv("FAKE_SM", "75", 1);
       Refused(EDGETX_ERROR_UNAVAILABLE, "tensorrt-1: it is for compute capability 8.0 and later, here is 7.5");
     }},
    {"no engine", [] { Refused(EDGETX_ERROR_UNAVAILABLE, "(it has none at all); build one on this machine: edgetx"); }},
    {"an engine of TensorRT-RTX is none",
     [] {
       AddEngine("tensorrt_rtx-1", {});
       Refused(EDGETX_ERROR_UNAVAILABLE, "it has none at all");
     }},
    {"each part of the key",
     [] {
       std::vector<Record> records(8);
       records[0].model = "0123456789abcdef";
       records[1].engine = "TensorRT 10.2.0";
       records[2].compute = "8.7";
       records[3].gpu = "Orin";
       records[4].driver = "CUDA 11.4";
       records[5].precision = "float16";
       records[6].bodies = "primitive of edgetx 0.0.1";
       records[7].graph = "stages/head/model.onnx";
       for (size_t i = 0; i < records.size(); ++i) AddEngine("tensorrt-" + std::to_string(i), records[i]);
       for (const char* part :
            {"tensorrt-0: it was built from another model", "TensorRT 10.2.0, here is TensorRT ",
             "compute capability 8.7, here is 8.6", "the GPU Orin, here is Fake GPU", "CUDA 11.4, here is CUDA 12.6",
             "precision float16, here is float32", "edgetx 0.0.1, here is edgetx", "it is of stages/head/model.onnx"}) {
         Refused(EDGETX_ERROR_UNAVAILABLE, part);
       }
     }},
    {"damage",
     [] {
       AddEngine("tensorrt-1", {}, "an engine, changed");
       Refused(EDGETX_ERROR_UNAVAILABLE, "engine.plan has 18 bytes, 9 were written");
       AddEngine("tensorrt-1", {}, "no engine");
       Refused(EDGETX_ERROR_UNAVAILABLE, "engine.plan has changed since it was written");
       const fs::path folder = fs::path(g_package) / "engines" / "tensorrt-1";
       std::ifstream stream(folder / "engine.json", std::ios::binary);
       const std::string whole((std::istreambuf_iterator<char>(stream)), {});
       for (size_t length = 0; length < whole.size(); length += 7) {
         Write(folder / "engine.json", whole.substr(0, length));
         Refused(EDGETX_ERROR_UNAVAILABLE, "tensorrt-1: engine.json is damaged");
       }
       fs::remove(folder / "engine.plan");
       Write(folder / "engine.json", whole);
       Refused(EDGETX_ERROR_UNAVAILABLE, "engine.plan cannot be read");
     }},
    {"an engine that TensorRT refuses",
     [] {
       AddEngine("tensorrt-1", {}, "an engine");
       setenv("FAKE_TRT_FAIL", "createExecutionContext", 1);
       Refused(EDGETX_ERROR_ENGINE, "createExecutionContext was told to fail");
       setenv("FAKE_TRT_FAIL", "createInferRuntime", 1);
       Refused(EDGETX_ERROR_ENGINE, "does not start: createInferRuntime was told to fail");
     }},
    {"plugins that are not there",
     [] {
       Record record;
       record.plugin = "WindowAttention of edgetx " EDGETX_VERSION;
       AddEngine("tensorrt-1", record);
       setenv("EDGETX_PLUGIN_LIBRARY", "/nowhere.so", 1);
       Refused(EDGETX_ERROR_UNAVAILABLE, "/nowhere.so is no file");
     }},
    {"no memory on the GPU", [] { RunFails("cuMemAlloc_v2", EDGETX_ERROR_OUT_OF_MEMORY, "out of memory"); }},
    {"a failed copy", [] { RunFails("cuMemcpyHtoD_v2", EDGETX_ERROR_OUT_OF_MEMORY, "cuMemcpyHtoD failed"); }},
    {"a failed run", [] { RunFails("enqueueV3", EDGETX_ERROR_ENGINE, "failed: enqueueV3 was told to fail "); }},
    {"a refused shape",
     [] { RunFails("setInputShape", EDGETX_ERROR_ENGINE, "does not take the input 'x': setInputShape was told"); }},
    {"a size that depends on the data",
     [] {
       AddEngine("tensorrt-1", {});
       edgetx_session* session = MustOpen();
       setenv("FAKE_TRT_OPEN_SHAPE", "1", 1);
       std::vector<float> y;
       if (Run(session, 2, &y) != EDGETX_ERROR_ENGINE) Fail("ran");
       Expect(edgetx_last_error(), "the size of output 'y' depends on the data");
       edgetx_session_close(session);
     }},
    {"no such GPU",
     [] {
       AddEngine("tensorrt-1", {});
       Refused(EDGETX_ERROR_UNAVAILABLE, "there is no GPU 3; the driver finds 1", 3);
       Refused(EDGETX_ERROR_ARGUMENT, "device is -1; expected 0 or more", -1);
       Refused(EDGETX_ERROR_ARGUMENT, "threads are the backend onnxruntime's", 0, 2);
     }},
    {"no driver",
     [] {
       setenv("EDGETX_CUDA_DRIVER", "/nowhere/libcuda.so", 1);
       Refused(EDGETX_ERROR_UNAVAILABLE, "there is no NVIDIA driver that can be loaded");
     }},
    {"another TensorRT",
     [] {
       setenv("FAKE_TRT_VERSION", "10701", 1);
       Refused(EDGETX_ERROR_UNAVAILABLE, "is of version 1.7.1; this libedgetx was built for TensorRT");
     }},
    {"another library",
     [] {
       setenv("EDGETX_TENSORRT", std::getenv("EDGETX_CUDA_DRIVER"), 1);
       Refused(EDGETX_ERROR_UNAVAILABLE, "is not TensorRT: it has no createInferRuntime_INTERNAL");
     }},
};

}  // namespace

int main(int, char** argv) {
  const std::string here(argv[0]);
  const std::string folder = here.substr(0, here.rfind('/'));
  setenv("EDGETX_TENSORRT", (folder + "/libedgetx_fake_nvinfer.so").c_str(), 1);
  setenv("EDGETX_CUDA_DRIVER", (folder + "/libedgetx_fake_cuda.so").c_str(), 1);
  char package[] = "/tmp/edgetx-tensorrt-XXXXXX";
  if (mkdtemp(package) == nullptr) return 2;
  g_package = package;
  Write(g_package + "/model.onnx", "abc");
  Write(g_package + "/manifest.json", kManifest);
  int failures = 0;
  for (const Case& test : kCases) {
    fs::remove_all(fs::path(package) / "engines");
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
  fs::remove_all(package);
  std::printf("%zu passed, %d failed\n", std::size(kCases) - static_cast<size_t>(failures), failures);
  return failures != 0;
}
