#include "edgetx/ops/native/cuda/launch.h"

#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

namespace edgetx::cuda {
namespace {

// A driver without opt-in gives every block so much.
constexpr uint32_t kSharedBytes = 48 * 1024;

struct Loaded {
  Module module = nullptr;
  Function function = nullptr;
};

// Modules live as long as the process: their contexts may be gone before we are.
std::mutex g_mutex;
std::map<std::pair<Context, const Entry*>, Loaded>& Modules() {
  static auto* modules = new std::map<std::pair<Context, const Entry*>, Loaded>;
  return *modules;
}

Status Load(const Driver& driver, const Archive& archive, const Entry& entry, Device device, Loaded* loaded) {
  if (entry.shared_bytes > kSharedBytes) {
    int most = 0;
    Status status = driver.Check(driver.DeviceGetAttribute(&most, kMostSharedBytes, device), "cuDeviceGetAttribute");
    if (!status.ok()) return status;
    if (entry.shared_bytes > static_cast<uint32_t>(most)) {
      return Status::Error(std::string(entry.kernel) + " needs " + std::to_string(entry.shared_bytes) +
                           " bytes of shared memory, this GPU has " + std::to_string(most) + " for a block");
    }
  }
  Loaded made;
  Status status = driver.Check(driver.ModuleLoadData(&made.module, archive.Image(entry)), "cuModuleLoadData");
  if (!status.ok()) {
    int version = 0;
    const bool known = driver.DriverGetVersion(&version) == 0;
    return Status::Error(status.message() + "; the kernel " + entry.kernel + " is " +
                         (entry.is_ptx != 0 ? "PTX" : "a cubin") + " for sm_" + std::to_string(entry.sm) +
                         (known ? ", the driver is of CUDA " + std::to_string(version / 1000) + "." +
                                      std::to_string(version % 1000 / 10)
                                : ""));
  }
  status = driver.Check(driver.ModuleGetFunction(&made.function, made.module, entry.kernel), "cuModuleGetFunction");
  if (status.ok() && entry.shared_bytes > kSharedBytes) {
    status = driver.Check(
        driver.FuncSetAttribute(made.function, kFunctionSharedBytes, static_cast<int>(entry.shared_bytes)),
        "cuFuncSetAttribute");
  }
  if (!status.ok()) {
    // The first failure is the one that matters.
    (void)driver.ModuleUnload(made.module);
    return status;
  }
  *loaded = made;
  return {};
}

Status CurrentDevice(const Driver& driver, Context* context, Device* device, uint32_t* sm) {
  Status status = driver.Check(driver.CtxGetCurrent(context), "cuCtxGetCurrent");
  if (!status.ok()) return status;
  if (*context == nullptr) return Status::Error("there is no current CUDA context in the calling thread");
  status = driver.Check(driver.CtxGetDevice(device), "cuCtxGetDevice");
  if (!status.ok()) return status;
  int major = 0;
  int minor = 0;
  status = driver.Check(driver.DeviceGetAttribute(&major, kComputeMajor, *device), "cuDeviceGetAttribute");
  if (!status.ok()) return status;
  status = driver.Check(driver.DeviceGetAttribute(&minor, kComputeMinor, *device), "cuDeviceGetAttribute");
  *sm = static_cast<uint32_t>(major * 10 + minor);
  return status;
}

DevicePointer ToDevice(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

}  // namespace

void Arguments::Add(const char* name, const void* pointer) {
  Put('p', &pointer, sizeof(pointer));
  names_.back() = name;
}

Status Arguments::CheckAlignment() const {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == nullptr || values_[i] % kAlignment == 0) continue;
    return Status::Error(std::string(names_[i]) + " starts at the address " + std::to_string(values_[i]) +
                         ", which is no multiple of " + std::to_string(kAlignment) +
                         "; the kernels load 16 bytes at once: give a tensor that starts where its memory was "
                         "allocated, or copy it");
  }
  return {};
}

void Arguments::Put(char type, const void* value, size_t bytes) {
  types_ += type;
  values_.push_back(0);
  names_.push_back(nullptr);
  std::memcpy(&values_.back(), value, bytes);
}

std::vector<void*> Arguments::Pointers() {
  std::vector<void*> pointers;
  for (uint64_t& value : values_) pointers.push_back(&value);
  return pointers;
}

Status Launch(const Need& need, Tile tile, int64_t programs, Arguments arguments, Stream stream) {
  if (programs == 0) return {};
  if (programs > std::numeric_limits<int32_t>::max()) {
    return Status::Error(std::string(need.kernel) + " would need " + std::to_string(programs) +
                         " blocks, a launch takes 2147483647; give it a smaller batch");
  }
  if (Status status = arguments.CheckAlignment(); !status.ok()) {
    return Status::Error(std::string(need.kernel) + ": " + status.message());
  }
  const Archive* archive = nullptr;
  if (Status status = Archive::Get(&archive); !status.ok()) return status;
  const Driver* driver = nullptr;
  if (Status status = GetDriver(&driver); !status.ok()) return status;
  Context context = nullptr;
  Device device = 0;
  uint32_t sm = 0;
  if (Status status = CurrentDevice(*driver, &context, &device, &sm); !status.ok()) return status;
  const Entry* entry = nullptr;
  if (Status status = archive->Find(need, tile, sm, &entry); !status.ok()) return status;
  if (arguments.types() != entry->arguments) {
    return Status::Error(std::string(need.kernel) + " in " + archive->path() + " takes arguments " + entry->arguments +
                         ", this library gives " + arguments.types() +
                         "; build both from one edgetx (in a checkout: make kernels)");
  }
  Loaded loaded;
  {
    const std::lock_guard<std::mutex> lock(g_mutex);
    auto& modules = Modules();
    const auto key = std::make_pair(context, entry);
    const auto found = modules.find(key);
    if (found != modules.end()) {
      loaded = found->second;
    } else {
      if (Status status = Load(*driver, *archive, *entry, device, &loaded); !status.ok()) return status;
      modules.emplace(key, loaded);
    }
  }
  // Triton's own last two arguments: scratch memory, which no shipped kernel uses (aot.py sees to that).
  arguments.Add("global scratch", nullptr);
  arguments.Add("profile scratch", nullptr);
  std::vector<void*> pointers = arguments.Pointers();
  return driver->Check(driver->LaunchKernel(loaded.function, static_cast<unsigned>(programs), 1, 1, entry->warps * 32,
                                            1, 1, entry->shared_bytes, stream, pointers.data(), nullptr),
                       "cuLaunchKernel");
}

Status Fill8(void* at, uint8_t value, size_t count, Stream stream) {
  if (count == 0) return {};
  const Driver* driver = nullptr;
  if (Status status = GetDriver(&driver); !status.ok()) return status;
  return driver->Check(driver->MemsetD8Async(ToDevice(at), value, count, stream), "cuMemsetD8Async");
}

Status Fill32(void* at, uint32_t value, size_t count, Stream stream) {
  if (count == 0) return {};
  const Driver* driver = nullptr;
  if (Status status = GetDriver(&driver); !status.ok()) return status;
  return driver->Check(driver->MemsetD32Async(ToDevice(at), value, count, stream), "cuMemsetD32Async");
}

Status ChooseTile(const Need& need, int32_t number, int64_t queries, int64_t keys, Tile* tile) {
  const Archive* archive = nullptr;
  if (Status status = Archive::Get(&archive); !status.ok()) return status;
  const std::vector<Tile> tiles = archive->Tiles(need);
  if (tiles.empty()) {
    return Status::Error(std::string(need.kernel) + " was not compiled for head sizes " +
                         std::to_string(need.head_size) + " and " + std::to_string(need.value_size) + " in " +
                         archive->path());
  }
  std::string held;
  for (const Tile& each : tiles) {
    if (each.number() == number) {
      *tile = each;
      return {};
    }
    held += (held.empty() ? "" : ", ") + std::to_string(each.queries) + "x" + std::to_string(each.keys);
  }
  if (number != 0) {
    return Status::Error(std::string(need.kernel) + " has no blocks of " + std::to_string(number >> 16) +
                         " queries and " + std::to_string(number & 0xffff) + " keys; compiled are " + held);
  }
  // Most queries at once where one block holds all keys; fewer where the loop over keys holds registers.
  *tile = tiles.front();
  for (const Tile& each : tiles) {
    const bool more = each.queries > tile->queries;
    if (keys <= each.keys && queries > tile->queries && more) *tile = each;
    if (keys > each.keys && each.queries < tile->queries) *tile = each;
  }
  return {};
}

}  // namespace edgetx::cuda
