// CRC-32 (ISO 3309, the one of zlib, gzip and PNG), by which a damaged file of a package is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edgetx::capi {

class Crc32 {
 public:
  void Add(const uint8_t* bytes, size_t count);
  // 8 lower-case hexadecimal digits of what was added so far.
  std::string Hex() const;

 private:
  uint32_t state_ = ~uint32_t{0};
};

}  // namespace edgetx::capi
