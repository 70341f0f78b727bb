// SHA-256 (FIPS 180-4), for the hashes of a package's files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace edgetx::capi {

class Sha256 {
 public:
  void Add(const uint8_t* bytes, size_t count);
  // Lower-case hexadecimal; nothing may be added afterwards.
  std::string Hex();

 private:
  void Block(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  size_t held_ = 0;
  uint64_t total_ = 0;
};

}  // namespace edgetx::capi
