#include "edgetx/capi/package.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "edgetx/capi/error.h"
#include "edgetx/capi/sha256.h"
#include "edgetx/ops/native/crc32.h"

namespace edgetx::capi {
namespace {

// Far above any real manifest: keeps a damaged folder from filling the memory.
constexpr int64_t kLargestManifest = int64_t{256} << 20;

[[noreturn]] void Refuse(const std::string& message) { Fail(EDGETX_ERROR_PACKAGE, message); }

int64_t FileSize(const std::string& path) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) return -1;
  return S_ISREG(found.st_mode) ? static_cast<int64_t>(found.st_size) : -1;
}

std::string ReadText(const std::string& path) {
  const int64_t size = FileSize(path);
  if (size > kLargestManifest) Refuse(path + " has " + std::to_string(size) + " bytes, which no manifest has");
  std::ifstream stream(path, std::ios::binary);
  std::string text(static_cast<size_t>(size < 0 ? 0 : size), '\0');
  if (size < 0 || !stream.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    Refuse("cannot read " + path + ": " + std::strerror(errno));
  }
  return text;
}

template <class Digest>
std::string DigestOf(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::vector<char> block(size_t{1} << 20);
  Digest digest;
  while (stream) {
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    digest.Add(reinterpret_cast<const uint8_t*>(block.data()), static_cast<size_t>(stream.gcount()));
  }
  if (stream.bad()) Refuse(path + " cannot be read; copy or export the package again");
  return digest.Hex();
}

// Whether the file is as the manifest says: by the CRC-32, which takes a fraction of the time, where it has one.
bool IsUnchanged(const std::string& path, const FileEntry& entry) {
  return entry.crc32.empty() ? DigestOf<Sha256>(path) == entry.sha256 : DigestOf<Crc32>(path) == entry.crc32;
}

void CheckFile(const std::string& folder, const std::string& name, const FileEntry& entry, bool hashes) {
  const std::string package = "package " + folder + ": " + name;
  const int64_t size = FileSize(folder + "/" + name);
  if (size < 0) Refuse(package + " cannot be read; copy or export it again");
  if (static_cast<uint64_t>(size) != entry.size) {
    Refuse(package + " has " + std::to_string(size) + " bytes, the manifest says " + std::to_string(entry.size) +
           "; copy or export it again");
  }
  if (hashes && !IsUnchanged(folder + "/" + name, entry)) {
    Refuse(package + " has changed since it was written; copy or export it again");
  }
}

}  // namespace

std::string HashOf(const std::string& path) { return DigestOf<Sha256>(path); }

std::shared_ptr<const Package> OpenPackage(const std::string& folder, bool hashes) {
  struct stat found;
  const bool exists = stat(folder.c_str(), &found) == 0;
  if (!exists || !S_ISDIR(found.st_mode)) {
    Refuse("package " + folder + (exists ? " is a file" : " does not exist") +
           "; give the folder that `edgetx export` wrote");
  }
  const std::string manifest = folder + "/manifest.json";
  if (FileSize(manifest) < 0) {
    Refuse(folder + " is not an edgetx package: it has no manifest.json; give the folder that `edgetx export` wrote");
  }
  auto package = std::make_shared<Package>();
  package->folder = folder;
  package->manifest = ParseManifest(ReadText(manifest), manifest);
  for (const auto& [name, entry] : package->manifest.files) CheckFile(folder, name, entry, hashes);
  return package;
}

}  // namespace edgetx::capi
