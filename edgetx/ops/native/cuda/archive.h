// The kernels that `python -m edgetx.ops.aot` compiled ahead of time, in one file; aot.py writes it and defines its
// form. The file is mapped, not read: a process touches only the kernels that it launches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edgetx/ops/native/dtype.h"
#include "edgetx/ops/native/status.h"

namespace edgetx::cuda {

// Rows of a block of queries and of a block of keys. A tile's number is how TensorRT calls it as a tactic.
struct Tile {
  uint16_t queries = 0;
  uint16_t keys = 0;
  int32_t number() const { return (queries << 16) | keys; }
};

// One compiled kernel, as the file has it, little-endian.
struct Entry {
  char kernel[32];     // the kernel's name, zero-terminated
  char arguments[64];  // types of its arguments in order: p pointer, i int32, f float32; zero-terminated
  uint32_t sm;         // 86 for compute capability 8.6
  uint32_t is_ptx;     // 0: a cubin for this capability; 1: PTX for it and later ones, zero-terminated
  uint32_t dtype;      // 0 float32, 1 float16, 2 bfloat16, 3 none
  uint32_t block_queries;
  uint32_t block_keys;
  uint32_t block_size;  // the largest head size
  uint32_t alignment;   // what head sizes are a multiple of
  uint32_t variant;     // the kernel's own: l2 norm, activation
  uint32_t warps;
  uint32_t shared_bytes;
  uint32_t registers;
  uint32_t spilled_bytes;
  uint64_t offset;  // of the image, from the start of the file
  uint64_t bytes;
};
static_assert(sizeof(Entry) == 160, "aot.py writes entries of 160 bytes");

// What a call needs of a kernel.
struct Need {
  const char* kernel = nullptr;
  uint32_t dtype = 3;
  int64_t head_size = 0;
  int64_t value_size = 0;
  uint32_t variant = 0;
};
uint32_t CodeOf(DType dtype);

class Archive {
 public:
  // The archive beside this library, or the one that EDGETX_KERNELS names; opened once.
  static Status Get(const Archive** archive);
  static Status Open(const std::string& path, std::unique_ptr<Archive>* archive);
  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  // The tiles that any device has for this need, in the archive's order: the first is for small windows.
  std::vector<Tile> Tiles(const Need& need) const;
  // The entry that fits best: the capability's cubin, one of a smaller minor version, or PTX; for the tightest
  // block of channels. Fails with what the archive holds.
  Status Find(const Need& need, Tile tile, uint32_t sm, const Entry** entry) const;
  const void* Image(const Entry& entry) const { return static_cast<const char*>(data_) + entry.offset; }
  const std::string& path() const { return path_; }

 private:
  Archive() = default;
  std::string path_;
  const void* data_ = nullptr;
  size_t bytes_ = 0;
  std::vector<const Entry*> entries_;
};

}  // namespace edgetx::cuda
