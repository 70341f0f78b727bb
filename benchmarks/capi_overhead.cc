// capi_overhead PKG ONNXRUNTIME RUNS ROUNDS: edgetx_session_run against a bare call of ONNX Runtime's C API on the same
// model, one thread, rounds alternating. Prints the medians in nanoseconds: ours, bare.
#include <dlfcn.h>
#include <edgetx.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s: %s\n", what, edgetx_last_error());
  std::exit(1);
}

const OrtApi* g_api = nullptr;
void Must(OrtStatus* status) { Check(status == nullptr, status != nullptr ? g_api->GetErrorMessage(status) : ""); }

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t Median(std::vector<int64_t> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  Check(argc == 5, "usage: capi_overhead PKG ONNXRUNTIME RUNS ROUNDS");
  const int runs = std::atoi(argv[3]);
  const int rounds = std::atoi(argv[4]);
  edgetx_package* package = nullptr;
  edgetx_session* session = nullptr;
  edgetx_session_options options;
  edgetx_session_options_init(&options);
  options.library = argv[2];
  options.threads = 1;
  Check(edgetx_package_open(argv[1], 0, &package) == EDGETX_OK, "package");
  Check(edgetx_session_open(package, &options, &session) == EDGETX_OK, "session");
  edgetx_tensor_spec spec;
  edgetx_tensor_spec output;
  Check(edgetx_package_input(package, 0, &spec) == EDGETX_OK, "input");
  Check(edgetx_package_output(package, 0, &output) == EDGETX_OK, "output");
  edgetx_tensor tensor = {};
  tensor.dtype = spec.dtype;
  tensor.rank = spec.rank;
  size_t count = 1;
  for (uint32_t i = 0; i < spec.rank; ++i) {
    tensor.shape[i] = spec.dims[i].size != 0 ? spec.dims[i].size : spec.dims[i].min;
    count *= static_cast<size_t>(tensor.shape[i]);
  }
  std::vector<float> data(count, 0.5f);
  tensor.data = data.data();
  tensor.bytes = count * sizeof(float);

  void* library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
  Check(library != nullptr, "dlopen");
  g_api = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"))()->GetApi(ORT_API_VERSION);
  OrtEnv* env = nullptr;
  OrtSessionOptions* settings = nullptr;
  OrtSession* bare = nullptr;
  OrtMemoryInfo* memory = nullptr;
  Must(g_api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bare", &env));
  Must(g_api->CreateSessionOptions(&settings));
  Must(g_api->SetIntraOpNumThreads(settings, 1));
  Must(g_api->CreateSession(env, (std::string(argv[1]) + "/model.onnx").c_str(), settings, &bare));
  Must(g_api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));

  std::vector<int64_t> ours;
  std::vector<int64_t> theirs;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < runs; ++i) {
      const int64_t start = Now();
      edgetx_tensors* outputs = nullptr;
      Check(edgetx_session_run(session, &tensor, 1, &outputs) == EDGETX_OK, "run");
      edgetx_tensor result;
      Check(edgetx_tensors_get(outputs, 0, &result) == EDGETX_OK, "get");
      edgetx_tensors_free(outputs);
      ours.push_back(Now() - start);
    }
    for (int i = 0; i < runs; ++i) {
      const int64_t start = Now();
      OrtValue* value = nullptr;
      OrtValue* result = nullptr;
      Must(g_api->CreateTensorWithDataAsOrtValue(memory, data.data(), tensor.bytes, tensor.shape, tensor.rank,
                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
      const char* names[] = {spec.name};
      const char* outputs[] = {output.name};
      Must(g_api->Run(bare, nullptr, names, &value, 1, outputs, 1, &result));
      void* pointer = nullptr;
      Must(g_api->GetTensorMutableData(result, &pointer));
      g_api->ReleaseValue(result);
      g_api->ReleaseValue(value);
      theirs.push_back(Now() - start);
    }
  }
  std::printf("%lld %lld\n", static_cast<long long>(Median(ours)), static_cast<long long>(Median(theirs)));
  edgetx_session_close(session);
  edgetx_package_close(package);
  return 0;
}
