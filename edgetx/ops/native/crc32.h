// CRC-32 (ISO 3309, the one of zlib, gzip and PNG), by which a damaged file of a package is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edgetx {

class Crc32 {
 public:
  void Add(const uint8_t* bytes, size_t count);
  // Of what was added so far.
  uint32_t Value() const { return ~state_; }
  // The same as 8 lower-case hexadecimal digits.
  std::string Hex() const;

 private:
  uint32_t state_ = ~uint32_t{0};
};

}  // namespace edgetx

// For Python, which would let other threads run, and wait for them, at every block: the CRC-32 of a file.
// Returns 0 or an errno.
extern "C" __attribute__((visibility("default"))) int edgetx_crc32_of_file(const char* path, uint32_t* value);
