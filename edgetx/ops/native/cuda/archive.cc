#include "edgetx/ops/native/cuda/archive.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

namespace edgetx::cuda {
namespace {

constexpr char kName[] = "edgetx_kernels.bin";
constexpr char kMagic[] = "EDGETXK1";

struct Header {
  char magic[8];
  uint32_t entries;
  uint32_t entry_bytes;
};

constexpr char kRemedy[] = "; build it with `python -m edgetx.ops.aot` (in a checkout: make kernels)";

std::string Path() {
  if (const char* chosen = std::getenv("EDGETX_KERNELS"); chosen != nullptr && *chosen != '\0') return chosen;
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&Path), &info) == 0 || info.dli_fname == nullptr) return kName;
  const std::string library = info.dli_fname;
  const size_t slash = library.rfind('/');
  return (slash == std::string::npos ? "" : library.substr(0, slash + 1)) + kName;
}

bool Fits(const Entry& entry, const Need& need) {
  const auto divides = [&](int64_t size) { return size % std::max<int64_t>(entry.alignment, 1) == 0; };
  return std::strcmp(entry.kernel, need.kernel) == 0 && entry.dtype == need.dtype && entry.variant == need.variant &&
         std::max(need.head_size, need.value_size) <= entry.block_size && divides(need.head_size) &&
         divides(need.value_size);
}

// Whether a device takes the entry, and how gladly; 0 is not at all.
int Preference(const Entry& entry, uint32_t sm) {
  if (entry.is_ptx != 0) return entry.sm <= sm ? 1 : 0;
  if (entry.sm / 10 != sm / 10 || entry.sm > sm) return 0;
  return 2 + static_cast<int>(entry.sm % 10);
}

}  // namespace

uint32_t CodeOf(DType dtype) {
  return dtype == DType::kFloat32 ? 0 : dtype == DType::kFloat16 ? 1 : 2;
}

Status Archive::Get(const Archive** archive) {
  static std::unique_ptr<Archive> opened;
  static const Status status = Open(Path(), &opened);
  *archive = opened.get();
  return status;
}

Status Archive::Open(const std::string& path, std::unique_ptr<Archive>* archive) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return Status::Error("the compiled GPU kernels " + path + " cannot be opened (" + std::strerror(errno) + ")" +
                         kRemedy);
  }
  struct stat about{};
  void* data = MAP_FAILED;
  if (fstat(file, &about) == 0 && about.st_size >= static_cast<off_t>(sizeof(Header))) {
    data = mmap(nullptr, static_cast<size_t>(about.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  }
  close(file);
  if (data == MAP_FAILED) return Status::Error("the compiled GPU kernels " + path + " cannot be read" + kRemedy);
  archive->reset(new Archive);
  Archive& made = **archive;
  made.path_ = path;
  made.data_ = data;
  made.bytes_ = static_cast<size_t>(about.st_size);
  const auto* header = static_cast<const Header*>(data);
  if (std::memcmp(header->magic, kMagic, sizeof(header->magic)) != 0 || header->entry_bytes != sizeof(Entry)) {
    return Status::Error(path + " holds no GPU kernels in the form that this edgetx reads" + kRemedy);
  }
  const auto* entries = reinterpret_cast<const Entry*>(header + 1);
  const size_t most = (made.bytes_ - sizeof(Header)) / sizeof(Entry);
  bool whole = header->entries <= most;
  for (size_t i = 0; whole && i < header->entries; ++i) {
    whole = entries[i].offset <= made.bytes_ && entries[i].bytes <= made.bytes_ - entries[i].offset &&
            entries[i].kernel[sizeof(Entry::kernel) - 1] == '\0' &&
            entries[i].arguments[sizeof(Entry::arguments) - 1] == '\0';
    made.entries_.push_back(entries + i);
  }
  if (!whole) return Status::Error("the compiled GPU kernels " + path + " are cut short" + kRemedy);
  return {};
}

Archive::~Archive() {
  if (data_ != nullptr) munmap(const_cast<void*>(data_), bytes_);
}

std::vector<Tile> Archive::Tiles(const Need& need) const {
  std::vector<Tile> tiles;
  std::set<int32_t> seen;
  for (const Entry* entry : entries_) {
    const Tile tile{static_cast<uint16_t>(entry->block_queries), static_cast<uint16_t>(entry->block_keys)};
    if (Fits(*entry, need) && seen.insert(tile.number()).second) tiles.push_back(tile);
  }
  return tiles;
}

Status Archive::Find(const Need& need, Tile tile, uint32_t sm, const Entry** entry) const {
  const Entry* best = nullptr;
  std::set<std::string> devices;
  std::set<uint32_t> sizes;
  for (const Entry* each : entries_) {
    devices.insert("sm_" + std::to_string(each->sm) + (each->is_ptx != 0 ? " and later" : ""));
    if (std::strcmp(each->kernel, need.kernel) == 0) sizes.insert(each->block_size);
    if (!Fits(*each, need) || each->block_queries != tile.queries || each->block_keys != tile.keys) continue;
    const int preference = Preference(*each, sm);
    if (preference == 0) continue;
    // Fewest padded channels, then widest loads, then the closest device.
    const auto rank = [sm](const Entry& e) {
      return std::make_tuple(-static_cast<int64_t>(e.block_size), e.alignment, Preference(e, sm));
    };
    if (best == nullptr || rank(*each) > rank(*best)) best = each;
  }
  *entry = best;
  if (best != nullptr) return {};
  std::string held;
  for (const std::string& device : devices) held += (held.empty() ? "" : ", ") + device;
  return Status::Error(std::string(need.kernel) + " was not compiled for sm_" + std::to_string(sm) + ", head sizes " +
                       std::to_string(need.head_size) + " and " + std::to_string(need.value_size) + ", blocks of " +
                       std::to_string(tile.queries) + " queries and " + std::to_string(tile.keys) + " keys; " + path_ +
                       " holds head sizes up to " + std::to_string(sizes.empty() ? 0 : *sizes.rbegin()) + " for " +
                       held);
}

}  // namespace edgetx::cuda
