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
  // Goes on from a value.
  void Resume(uint32_t value) { state_ = ~value; }

 private:
  uint32_t state_ = ~uint32_t{0};
};

}  // namespace edgetx

#if defined(__x86_64__) && defined(__GNUC__)
// zlib's crc32() for Python, several times as fast as the tables that zlib falls back to.
extern "C" __attribute__((visibility("default"))) uint32_t edgetx_crc32(uint32_t value, const void* bytes,
                                                                         size_t count);
#endif
