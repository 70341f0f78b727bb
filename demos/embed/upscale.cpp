// upscale PKG PICTURE.ppm RESTORED.ppm: a picture through a restoration package. C++17.
#include <edgetx.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ppm.h"

namespace {

// A handle that frees itself.
template <class T, void (*Free)(T*)>
struct Freed {
  void operator()(T* handle) const { Free(handle); }
};
using Package = std::unique_ptr<edgetx_package, Freed<edgetx_package, edgetx_package_close>>;
using Session = std::unique_ptr<edgetx_session, Freed<edgetx_session, edgetx_session_close>>;
using Tensors = std::unique_ptr<edgetx_tensors, Freed<edgetx_tensors, edgetx_tensors_free>>;

void Check(edgetx_status status) {
  if (status != EDGETX_OK) throw std::runtime_error(edgetx_last_error());
}

void Upscale(const char* folder, const char* from, const char* to) {
  edgetx_image image{};
  const std::unique_ptr<uint8_t, void (*)(void*)> pixels(ppm_read(from, &image.width, &image.height), std::free);
  if (!pixels) throw std::runtime_error("no picture");
  image.rgb = pixels.get();

  edgetx_package* opened = nullptr;
  Check(edgetx_package_open(folder, 0, &opened));
  const Package package(opened);
  edgetx_session* started = nullptr;
  Check(edgetx_session_open(package.get(), nullptr, &started));
  const Session session(started);
  std::printf("%s on %s\n", edgetx_package_name(package.get()), edgetx_session_describe(session.get()));

  edgetx_tensors* prepared = nullptr;
  Check(edgetx_preprocess_rgb(package.get(), &image, &prepared));
  const Tensors inputs(prepared);
  edgetx_tensors* answered = nullptr;
  Check(edgetx_session_run_tensors(session.get(), inputs.get(), &answered));
  const Tensors outputs(answered);

  uint32_t width = 0;
  uint32_t height = 0;
  Check(edgetx_restored_size(package.get(), image.width, image.height, &width, &height));
  std::vector<uint8_t> restored(size_t{3} * width * height);
  Check(edgetx_restored_rgb(package.get(), outputs.get(), width, height, 0, restored.data()));
  if (ppm_write(to, restored.data(), width, height) != 0) throw std::runtime_error("not written");
  std::printf("%ux%u -> %ux%u\n", image.width, image.height, width, height);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: upscale PKG PICTURE.ppm RESTORED.ppm\n");
    return 2;
  }
  try {
    Upscale(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
