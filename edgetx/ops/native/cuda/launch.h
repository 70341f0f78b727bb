// Launching a compiled kernel on the device of the current context.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgetx/ops/native/cuda/archive.h"
#include "edgetx/ops/native/cuda/driver.h"
#include "edgetx/ops/native/status.h"

namespace edgetx::cuda {

// Where tensors start: the kernels were compiled to load 16 bytes at once, and an address between would read beside.
constexpr uint64_t kAlignment = 16;

// Arguments in the kernel's order, and their types in the words of `Entry::arguments`.
class Arguments {
 public:
  // The address of a tensor, which `name` tells of.
  void Add(const char* name, const void* pointer);
  void Add(int32_t value) { Put('i', &value, sizeof(value)); }
  void Add(float value) { Put('f', &value, sizeof(value)); }
  const std::string& types() const { return types_; }
  // Fails if a tensor does not start at a multiple of kAlignment.
  Status CheckAlignment() const;
  // For the driver; valid until the next Add.
  std::vector<void*> Pointers();

 private:
  void Put(char type, const void* value, size_t bytes);
  std::string types_;
  std::vector<uint64_t> values_;
  std::vector<const char*> names_;  // null where the argument is no tensor
};

// Picks the archive's entry for the current context's device, loads it once per context, and launches
// `programs` blocks. `tile` may be {0, 0}: the kernel has none.
Status Launch(const Need& need, Tile tile, int64_t programs, Arguments arguments, Stream stream);

// `count` bytes, or 32-bit words, of one value.
Status Fill8(void* at, uint8_t value, size_t count, Stream stream);
Status Fill32(void* at, uint32_t value, size_t count, Stream stream);

// The tile for a window of so many queries and keys: the wished one, or for number 0 the rule's.
Status ChooseTile(const Need& need, int32_t number, int64_t queries, int64_t keys, Tile* tile);

}  // namespace edgetx::cuda
