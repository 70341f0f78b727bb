// The functions of edgetx.h: arguments are checked here, and nothing that is thrown leaves.

#include <algorithm>
#include <cstring>
#include <new>

#include "edgetx.h"
#include "edgetx/capi/engine.h"
#include "edgetx/capi/error.h"
#include "edgetx/capi/package.h"
#include "edgetx/capi/processor.h"

struct edgetx_package {
  std::shared_ptr<const edgetx::capi::Package> package;
};

struct edgetx_session {
  std::shared_ptr<const edgetx::capi::Package> package;
  std::unique_ptr<edgetx::capi::Engine> engine;
};

struct edgetx_tensors {
  edgetx::capi::Tensors tensors;
};

namespace {

using namespace edgetx::capi;  // NOLINT(google-build-using-namespace)

// Of fixed size, so that an out-of-memory failure can be told too.
thread_local char last_error[1024] = "";

edgetx_status Remember(edgetx_status status, const char* message) noexcept {
  const size_t length = std::min(std::strlen(message), sizeof(last_error) - 1);
  std::memcpy(last_error, message, length);
  last_error[length] = '\0';
  return status;
}

template <class Body>
edgetx_status Guard(Body body) noexcept {
  try {
    body();
    return EDGETX_OK;
  } catch (const Error& error) {
    return Remember(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Remember(EDGETX_ERROR_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Remember(EDGETX_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Remember(EDGETX_ERROR_INTERNAL, "an unknown failure");
  }
}

[[noreturn]] void Refuse(const std::string& message) { Fail(EDGETX_ERROR_ARGUMENT, message); }

void NotNull(const void* pointer, const char* name) {
  if (pointer == nullptr) Refuse(std::string(name) + " is a null pointer");
}

void Describe(const Manifest& manifest, const TensorSpec& spec, edgetx_tensor_spec* to) {
  edgetx_tensor_spec filled = {};
  filled.name = spec.name.c_str();
  filled.dtype = spec.dtype;
  filled.rank = static_cast<uint32_t>(spec.shape.size());
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    const Dim& dim = spec.shape[i];
    if (dim.size != 0) {
      filled.dims[i] = {dim.size, nullptr, dim.size, dim.size, 1};
    } else {
      const SymbolRange& range = manifest.Range(dim);
      filled.dims[i] = {0, dim.symbol.c_str(), range.min, range.max, range.step};
    }
  }
  *to = filled;
}

const TensorSpec& At(const std::vector<TensorSpec>& specs, size_t index, const char* what) {
  if (index >= specs.size()) {
    Refuse(std::string(what) + " " + std::to_string(index) + " was asked for; the package has " +
           std::to_string(specs.size()));
  }
  return specs[index];
}

std::string ShowShape(const int64_t* shape, uint32_t rank) {
  std::string text = "[";
  for (uint32_t i = 0; i < rank && i < EDGETX_MAX_RANK; ++i) text += (i != 0 ? "," : "") + std::to_string(shape[i]);
  return text + (rank > EDGETX_MAX_RANK ? ",...]" : "]");
}

// The sizes that symbols were given so far; a handful, so that a list is the quickest.
using Sizes = std::vector<std::pair<const std::string*, int64_t>>;

void CheckDim(const Manifest& manifest, const TensorSpec& spec, size_t axis, const edgetx_tensor& tensor, Sizes* sizes) {
  const Dim& dim = spec.shape[axis];
  const int64_t size = tensor.shape[axis];
  const auto refuse = [&](const std::string& why) {
    Refuse("input '" + spec.name + "' has shape " + ShowShape(tensor.shape, tensor.rank) + "; the package takes " +
           Show(spec) + ": " + why);
  };
  if (dim.size != 0) {
    if (size != dim.size) refuse("dimension " + std::to_string(axis) + " is " + std::to_string(dim.size));
    return;
  }
  const SymbolRange& range = manifest.Range(dim);
  if (size < range.min || (range.max != 0 && size > range.max) || size % range.step != 0) {
    refuse(dim.symbol + " is " + std::to_string(range.min) + " to " +
           (range.max != 0 ? std::to_string(range.max) : "any size") +
           (range.step != 1 ? ", a multiple of " + std::to_string(range.step) : ""));
  }
  for (const auto& [symbol, given] : *sizes) {
    if (*symbol == dim.symbol && given != size) refuse(dim.symbol + " is " + std::to_string(given) + " elsewhere");
  }
  sizes->emplace_back(&dim.symbol, size);
}

void CheckInput(const Manifest& manifest, const TensorSpec& spec, const edgetx_tensor& tensor, Sizes* sizes) {
  if (tensor.dtype != spec.dtype) {
    Refuse("input '" + spec.name + "' is " + DtypeName(tensor.dtype) + "; expected " + DtypeName(spec.dtype));
  }
  if (tensor.rank != spec.shape.size()) {
    Refuse("input '" + spec.name + "' has " + std::to_string(tensor.rank) + " dimensions; the package takes " +
           Show(spec));
  }
  size_t bytes = DtypeBytes(spec.dtype);
  for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
    CheckDim(manifest, spec, axis, tensor, sizes);
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(tensor.shape[axis]), &bytes)) {
      Refuse("input '" + spec.name + "' has shape " + ShowShape(tensor.shape, tensor.rank) + ", which no memory holds");
    }
  }
  if (tensor.bytes != bytes) {
    Refuse("input '" + spec.name + "' has " + std::to_string(tensor.bytes) + " bytes; its shape " +
           ShowShape(tensor.shape, tensor.rank) + " needs " + std::to_string(bytes));
  }
  if (bytes != 0) NotNull(tensor.data, "the data of an input");
}

void Run(edgetx_session* session, const edgetx_tensor* inputs, size_t count, edgetx_tensors** outputs) {
  const Manifest& manifest = session->package->manifest;
  if (count != manifest.inputs.size()) {
    std::string names;
    for (const TensorSpec& spec : manifest.inputs) names += (names.empty() ? "" : "; ") + Show(spec);
    Refuse(std::to_string(count) + " inputs were given; the package takes " + names);
  }
  std::vector<const edgetx_tensor*> ordered(count, nullptr);
  for (size_t i = 0; i < count; ++i) {
    size_t at = i;
    if (inputs[i].name != nullptr) {
      const auto found = std::find_if(manifest.inputs.begin(), manifest.inputs.end(),
                                      [&](const TensorSpec& spec) { return spec.name == inputs[i].name; });
      if (found == manifest.inputs.end()) Refuse(std::string("the package has no input '") + inputs[i].name + "'");
      at = static_cast<size_t>(found - manifest.inputs.begin());
    }
    if (ordered[at] != nullptr) Refuse("input '" + manifest.inputs[at].name + "' was given twice");
    ordered[at] = &inputs[i];
  }
  Sizes sizes;
  for (size_t i = 0; i < count; ++i) CheckInput(manifest, manifest.inputs[i], *ordered[i], &sizes);
  auto result = std::make_unique<edgetx_tensors>();
  result->tensors = session->engine->Run(ordered.data());
  *outputs = result.release();
}

edgetx_tensor View(const Tensor& tensor) {
  edgetx_tensor view = {};
  view.name = tensor.name.c_str();
  view.dtype = tensor.dtype;
  view.rank = static_cast<uint32_t>(tensor.shape.size());
  std::copy(tensor.shape.begin(), tensor.shape.end(), view.shape);
  view.data = tensor.data;
  view.bytes = tensor.bytes;
  return view;
}

constexpr const char* kOnnxRuntime = "onnxruntime";
constexpr const char* kTensorRt = "tensorrt";

void CheckNumbers(const edgetx_session_options& options, const std::string& backend) {
  if (options.threads < 0) Refuse("threads is " + std::to_string(options.threads) + "; expected 0 or more");
  if (options.device < 0) Refuse("device is " + std::to_string(options.device) + "; expected 0 or more");
  if (options.threads != 0 && backend == kTensorRt) Refuse("threads are the backend onnxruntime's; expected 0");
  if (options.device != 0 && backend == kOnnxRuntime) {
    Refuse("the backend onnxruntime runs on the CPU and takes no device; expected 0, or the backend tensorrt");
  }
}

std::unique_ptr<Engine> OpenEngine(const std::string& backend, std::shared_ptr<const Package> package,
                                   const EngineOptions& options) {
  if (backend == kOnnxRuntime) return OpenOnnxRuntime(std::move(package), options);
  if (backend != kTensorRt) Refuse("unknown backend '" + backend + "'; accepted: onnxruntime, tensorrt");
#if defined(EDGETX_TENSORRT)
  return OpenTensorRt(std::move(package), options);
#else
  Fail(EDGETX_ERROR_UNAVAILABLE, "this libedgetx was built where TensorRT's headers were not found; build it again "
                                 "with TENSORRT_ROOT");
#endif
}

const char* Or(const edgetx_package* package, const std::string Manifest::* member) {
  return package == nullptr ? "" : (package->package->manifest.*member).c_str();
}

}  // namespace

extern "C" {

uint32_t edgetx_abi_version(void) { return EDGETX_ABI_VERSION; }

const char* edgetx_version(void) { return EDGETX_VERSION; }

const char* edgetx_status_name(edgetx_status status) {
  switch (status) {
    case EDGETX_OK: return "ok";
    case EDGETX_ERROR_ARGUMENT: return "argument";
    case EDGETX_ERROR_PACKAGE: return "package";
    case EDGETX_ERROR_UNAVAILABLE: return "unavailable";
    case EDGETX_ERROR_ENGINE: return "engine";
    case EDGETX_ERROR_OUT_OF_MEMORY: return "out of memory";
    case EDGETX_ERROR_INTERNAL: return "internal";
  }
  return "unknown";
}

const char* edgetx_last_error(void) { return last_error; }

edgetx_status edgetx_package_open(const char* folder, uint32_t flags, edgetx_package** package) {
  return Guard([&] {
    NotNull(folder, "folder");
    NotNull(package, "package");
    if ((flags & ~EDGETX_OPEN_WITHOUT_HASHES) != 0) Refuse("unknown flags " + std::to_string(flags));
    auto opened = std::make_unique<edgetx_package>();
    opened->package = OpenPackage(folder, (flags & EDGETX_OPEN_WITHOUT_HASHES) == 0);
    *package = opened.release();
  });
}

void edgetx_package_close(edgetx_package* package) { delete package; }

const char* edgetx_package_name(const edgetx_package* package) { return Or(package, &Manifest::name); }
const char* edgetx_package_architecture(const edgetx_package* package) { return Or(package, &Manifest::architecture); }
const char* edgetx_package_precision(const edgetx_package* package) { return Or(package, &Manifest::precision); }

const char* edgetx_package_processor(const edgetx_package* package) {
  return package == nullptr ? "" : package->package->manifest.processor.kind.c_str();
}

size_t edgetx_package_input_count(const edgetx_package* package) {
  return package == nullptr ? 0 : package->package->manifest.inputs.size();
}

size_t edgetx_package_output_count(const edgetx_package* package) {
  return package == nullptr ? 0 : package->package->manifest.outputs.size();
}

edgetx_status edgetx_package_input(const edgetx_package* package, size_t index, edgetx_tensor_spec* spec) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(spec, "spec");
    const Manifest& manifest = package->package->manifest;
    Describe(manifest, At(manifest.inputs, index, "input"), spec);
  });
}

edgetx_status edgetx_package_output(const edgetx_package* package, size_t index, edgetx_tensor_spec* spec) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(spec, "spec");
    const Manifest& manifest = package->package->manifest;
    Describe(manifest, At(manifest.outputs, index, "output"), spec);
  });
}

void edgetx_session_options_init(edgetx_session_options* options) {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof(edgetx_session_options);
}

edgetx_status edgetx_session_open(const edgetx_package* package, const edgetx_session_options* options,
                                  edgetx_session** session) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(session, "session");
    EngineOptions wanted;
    std::string backend = kOnnxRuntime;
    if (options != nullptr) {
      if (options->struct_size != sizeof(edgetx_session_options)) {
        Refuse("options.struct_size is " + std::to_string(options->struct_size) + "; expected " +
               std::to_string(sizeof(edgetx_session_options)) + ": call edgetx_session_options_init first");
      }
      backend = options->backend != nullptr ? options->backend : backend;
      CheckNumbers(*options, backend);
      if (options->library != nullptr) wanted.library = options->library;
      wanted.operators = options->operators;
      wanted.threads = options->threads;
      wanted.device = options->device;
    }
    auto opened = std::make_unique<edgetx_session>();
    opened->package = package->package;
    opened->engine = OpenEngine(backend, package->package, wanted);
    *session = opened.release();
  });
}

void edgetx_session_close(edgetx_session* session) { delete session; }

const char* edgetx_session_describe(const edgetx_session* session) {
  return session == nullptr ? "" : session->engine->Describe().c_str();
}

edgetx_status edgetx_session_run(edgetx_session* session, const edgetx_tensor* inputs, size_t count,
                                 edgetx_tensors** outputs) {
  return Guard([&] {
    NotNull(session, "session");
    NotNull(inputs, "inputs");
    NotNull(outputs, "outputs");
    Run(session, inputs, count, outputs);
  });
}

edgetx_status edgetx_session_run_tensors(edgetx_session* session, const edgetx_tensors* inputs,
                                         edgetx_tensors** outputs) {
  return Guard([&] {
    NotNull(session, "session");
    NotNull(inputs, "inputs");
    NotNull(outputs, "outputs");
    std::vector<edgetx_tensor> views;
    for (const Tensor& tensor : inputs->tensors) views.push_back(View(tensor));
    Run(session, views.data(), views.size(), outputs);
  });
}

size_t edgetx_tensors_count(const edgetx_tensors* tensors) { return tensors == nullptr ? 0 : tensors->tensors.size(); }

edgetx_status edgetx_tensors_get(const edgetx_tensors* tensors, size_t index, edgetx_tensor* tensor) {
  return Guard([&] {
    NotNull(tensors, "tensors");
    NotNull(tensor, "tensor");
    if (index >= tensors->tensors.size()) {
      Refuse("tensor " + std::to_string(index) + " was asked for; there are " +
             std::to_string(tensors->tensors.size()));
    }
    *tensor = View(tensors->tensors[index]);
  });
}

void edgetx_tensors_free(edgetx_tensors* tensors) { delete tensors; }

edgetx_status edgetx_preprocess_rgb(const edgetx_package* package, const edgetx_image* image, edgetx_tensors** inputs) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(image, "image");
    NotNull(inputs, "inputs");
    auto result = std::make_unique<edgetx_tensors>();
    result->tensors = Preprocess(package->package->manifest, *image);
    *inputs = result.release();
  });
}

edgetx_status edgetx_top_classes(const edgetx_package* package, const edgetx_tensors* outputs, edgetx_class* classes,
                                 size_t capacity, size_t* count) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(outputs, "outputs");
    NotNull(count, "count");
    if (capacity != 0) NotNull(classes, "classes");
    const std::vector<edgetx_class> found = TopClasses(package->package->manifest, outputs->tensors, capacity);
    std::copy(found.begin(), found.end(), classes);
    *count = found.size();
  });
}

edgetx_status edgetx_restored_size(const edgetx_package* package, uint32_t width, uint32_t height,
                                   uint32_t* restored_width, uint32_t* restored_height) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(restored_width, "restored_width");
    NotNull(restored_height, "restored_height");
    RestoredSize(package->package->manifest, width, height, restored_width, restored_height);
  });
}

edgetx_status edgetx_restored_rgb(const edgetx_package* package, const edgetx_tensors* outputs, uint32_t width,
                                  uint32_t height, size_t stride, uint8_t* rgb) {
  return Guard([&] {
    NotNull(package, "package");
    NotNull(outputs, "outputs");
    NotNull(rgb, "rgb");
    RestoredRgb(package->package->manifest, outputs->tensors, width, height, stride, rgb);
  });
}

}  // extern "C"
