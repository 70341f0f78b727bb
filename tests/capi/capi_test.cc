// The C library without an engine, for the sanitizers: damaged manifests, null pointers, resizing at odd sizes.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "edgetx.h"
#include "edgetx/capi/resize.h"
#include "edgetx/capi/sha256.h"
#include "edgetx/ops/native/crc32.h"

namespace {

int g_passed = 0;
int g_failed = 0;

void Expect(bool holds, const std::string& what) {
  (holds ? g_passed : g_failed)++;
  if (!holds) std::printf("FAILED %s: %s\n", what.c_str(), edgetx_last_error());
}

template <class Digest = edgetx::capi::Sha256>
std::string Hash(const std::string& text, size_t step) {
  Digest hash;
  for (size_t at = 0; at < text.size(); at += step) {
    hash.Add(reinterpret_cast<const uint8_t*>(text.data()) + at, std::min(step, text.size() - at));
  }
  return hash.Hex();
}

// The examples of FIPS 180-2, appendix B.
void Hashes() {
  for (const size_t step : {size_t{1}, size_t{3}, size_t{64}, size_t{100000}}) {
    Expect(Hash("abc", step) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "hash of abc");
    Expect(Hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", step) ==
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
           "hash of 56 bytes");
    Expect(Hash(std::string(1000000, 'a'), step) ==
               "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
           "hash of a million a");
  }
}

// The check value of the catalogue of CRCs (CRC-32/ISO-HDLC); the others as gzip writes them.
void Checksums() {
  using edgetx::Crc32;
  for (const size_t step : {size_t{1}, size_t{3}, size_t{64}, size_t{100000}}) {
    Expect(Hash<Crc32>("", step) == "00000000", "CRC-32 of nothing");
    Expect(Hash<Crc32>("123456789", step) == "cbf43926", "CRC-32 of 123456789");
    Expect(Hash<Crc32>(std::string(1000000, 'a'), step) == "dc25bfbc", "CRC-32 of a million a");
  }
  // Every length around the blocks that are folded, begun at every place in one, against the definition bit by bit.
  std::string text;
  for (uint32_t number = 1; text.size() < 300; number = number * 1664525 + 1013904223) {
    text += static_cast<char>(number >> 24);
  }
  for (size_t count = 0; count <= text.size(); ++count) {
    uint32_t state = ~uint32_t{0};
    for (size_t i = 0; i < 8 * count; ++i) {
      const uint32_t bit = static_cast<uint8_t>(text[i / 8]) >> i % 8 & 1;
      state = state >> 1 ^ ((state ^ bit) & 1 ? 0xedb88320 : 0);
    }
    Crc32 whole, parts;
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    whole.Add(bytes, count);
    parts.Add(bytes, count % 67);
    parts.Add(bytes + count % 67, count - count % 67);
    Expect(whole.Value() == ~state && parts.Value() == ~state, "CRC-32 of " + std::to_string(count) + " bytes");
  }
}

// A picture of one colour stays it, at every size and with every filter.
void Sizes() {
  using edgetx::capi::Picture;
  for (const char* filter : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}) {
    for (const int64_t from : {1, 2, 5, 16, 61}) {
      for (const int64_t to : {1, 2, 7, 16, 90}) {
        Picture picture{from, to, std::vector<uint8_t>(static_cast<size_t>(from * to) * 3, 200)};
        const Picture resized = edgetx::capi::Resize(picture, to, from, filter);
        Expect(resized.rgb == std::vector<uint8_t>(static_cast<size_t>(to * from) * 3, 200), filter);
        const Picture cropped = edgetx::capi::Crop(picture, from - 3, -2, 9, to + 4);
        Expect(cropped.rgb.size() == static_cast<size_t>(9 * (to + 4)) * 3, "crop");
      }
    }
  }
}

void Write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

constexpr const char* kManifest = R"({"schema_version": 1, "name": "m", "architecture": "generic",
  "io": {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}],
         "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
         "symbols": {"batch": {"min": 1, "max": null, "step": 1}}},
  "processor": {"kind": "image-classification", "size": [8, 8], "labels": ["a", "b", "c"]},
  "files": {"model.onnx": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                           "size": 3}}})";

// Every prefix of a manifest, and every manifest with one byte replaced, is refused or taken, never a crash.
void Manifests(const std::string& folder) {
  const std::string manifest = kManifest;
  Write(folder + "/model.onnx", "abc");
  Write(folder + "/manifest.json", manifest);
  edgetx_package* package = nullptr;
  Expect(edgetx_package_open(folder.c_str(), 0, &package) == EDGETX_OK, "the whole manifest");
  edgetx_package_close(package);
  for (size_t length = 0; length < manifest.size(); ++length) {
    Write(folder + "/manifest.json", manifest.substr(0, length));
    package = nullptr;
    Expect(edgetx_package_open(folder.c_str(), 0, &package) == EDGETX_ERROR_PACKAGE && package == nullptr,
           "a manifest of " + std::to_string(length) + " bytes");
  }
  for (size_t at = 0; at < manifest.size(); ++at) {
    for (const char byte : {'\0', '"', '9', '-', '\xff'}) {
      std::string changed = manifest;
      changed[at] = byte;
      Write(folder + "/manifest.json", changed);
      package = nullptr;
      const edgetx_status status = edgetx_package_open(folder.c_str(), 0, &package);
      Expect(status == EDGETX_OK ? package != nullptr : status == EDGETX_ERROR_PACKAGE, "a changed manifest");
      edgetx_package_close(package);
    }
  }
  Write(folder + "/manifest.json", std::string(200000, '['));
  Expect(edgetx_package_open(folder.c_str(), 0, &package) == EDGETX_ERROR_PACKAGE, "deep nesting");
  const std::string deep = "{\"schema_version\": " + std::string(100000, '[') + std::string(100000, ']') + "}";
  Write(folder + "/manifest.json", deep);
  Expect(edgetx_package_open(folder.c_str(), 0, &package) == EDGETX_ERROR_PACKAGE, "deep nesting, closed");
  Write(folder + "/manifest.json", manifest);
}

void Pictures(const std::string& folder) {
  edgetx_package* package = nullptr;
  Expect(edgetx_package_open(folder.c_str(), 0, &package) == EDGETX_OK, "open");
  for (const uint32_t width : {1u, 3u, 8u, 61u}) {
    for (const uint32_t height : {1u, 8u, 40u}) {
      // Exactly the size in use, so that AddressSanitizer sees each byte read past it.
      std::vector<uint8_t> rgb(size_t{3} * width * height, 9);
      const edgetx_image image{rgb.data(), width, height, 0};
      edgetx_tensors* inputs = nullptr;
      Expect(edgetx_preprocess_rgb(package, &image, &inputs) == EDGETX_OK, "preprocess");
      edgetx_tensor tensor;
      Expect(edgetx_tensors_get(inputs, 0, &tensor) == EDGETX_OK && tensor.shape[3] == 8, "tensor");
      edgetx_class classes[2];
      size_t count = 0;
      // Not logits: [1, 3, 8, 8].
      Expect(edgetx_top_classes(package, inputs, classes, 2, &count) == EDGETX_ERROR_ARGUMENT, "classes");
      edgetx_tensors_free(inputs);
    }
  }
  Expect(edgetx_session_open(package, nullptr, nullptr) == EDGETX_ERROR_ARGUMENT, "null session");
  edgetx_package_close(package);
}

}  // namespace

int main() {
  char folder[] = "/tmp/edgetx-capi-XXXXXX";
  if (mkdtemp(folder) == nullptr) return 2;
  Hashes();
  Checksums();
  Sizes();
  Manifests(folder);
  Pictures(folder);
  unlink((std::string(folder) + "/manifest.json").c_str());
  unlink((std::string(folder) + "/model.onnx").c_str());
  rmdir(folder);
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
