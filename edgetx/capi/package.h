// A package's folder, read and checked.
#pragma once

#include <memory>
#include <string>

#include "edgetx/capi/manifest.h"

namespace edgetx::capi {

struct Package {
  std::string folder;
  Manifest manifest;

  std::string ModelPath() const { return folder + "/model.onnx"; }
};

// Throws Error: no such folder, no manifest or an invalid one, a file that is missing, of another size or, with
// `hashes`, of another CRC-32 (SHA-256 where the manifest has none).
std::shared_ptr<const Package> OpenPackage(const std::string& folder, bool hashes);

// SHA-256 of a file, in hexadecimal. Throws Error.
std::string HashOf(const std::string& path);

}  // namespace edgetx::capi
