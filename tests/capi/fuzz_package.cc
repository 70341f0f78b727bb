// libFuzzer: any bytes as a manifest. A package that opens is described and prepares a picture.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "edgetx.h"

namespace {

const std::string& Folder() {
  static const std::string folder = [] {
    const char* base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    std::string made = std::string(base) + "/edgetx-fuzz-XXXXXX";
    if (mkdtemp(made.data()) == nullptr) std::abort();
    std::FILE* model = std::fopen((made + "/model.onnx").c_str(), "wb");
    if (model == nullptr) std::abort();
    std::fputs("abc", model);
    std::fclose(model);
    return made;
  }();
  return folder;
}

void Use(const edgetx_package* package) {
  edgetx_tensor_spec spec;
  for (size_t i = 0; i < edgetx_package_input_count(package); ++i) (void)edgetx_package_input(package, i, &spec);
  for (size_t i = 0; i < edgetx_package_output_count(package); ++i) (void)edgetx_package_output(package, i, &spec);
  std::vector<uint8_t> rgb(size_t{3} * 5 * 7, 100);
  const edgetx_image image{rgb.data(), 5, 7, 0};
  edgetx_tensors* tensors = nullptr;
  if (edgetx_preprocess_rgb(package, &image, &tensors) == EDGETX_OK) {
    edgetx_class classes[3];
    size_t count = 0;
    (void)edgetx_top_classes(package, tensors, classes, 3, &count);
    uint32_t width = 0;
    uint32_t height = 0;
    if (edgetx_restored_size(package, 5, 7, &width, &height) == EDGETX_OK && width < 1000 && height < 1000) {
      std::vector<uint8_t> out(size_t{3} * width * height);
      (void)edgetx_restored_rgb(package, tensors, width, height, 0, out.data());
    }
  }
  edgetx_tensors_free(tensors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::FILE* manifest = std::fopen((Folder() + "/manifest.json").c_str(), "wb");
  if (manifest == nullptr) std::abort();
  std::fwrite(data, 1, size, manifest);
  std::fclose(manifest);
  edgetx_package* package = nullptr;
  if (edgetx_package_open(Folder().c_str(), EDGETX_OPEN_WITHOUT_HASHES, &package) == EDGETX_OK) Use(package);
  edgetx_package_close(package);
  return 0;
}
