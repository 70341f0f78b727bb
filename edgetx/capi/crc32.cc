#include "edgetx/capi/crc32.h"

#include <array>

namespace edgetx::capi {
namespace {

constexpr uint32_t kPolynomial = 0xedb88320;  // bit-reversed
constexpr size_t kStep = 8;

// kTables[k][b]: what the byte b leaves behind when k more bytes, all zero, have followed it.
using Tables = std::array<std::array<uint32_t, 256>, kStep>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t state = byte;
    for (int bit = 0; bit < 8; ++bit) state = state >> 1 ^ (state & 1 ? kPolynomial : 0);
    tables[0][byte] = state;
  }
  for (size_t k = 1; k < kStep; ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

void Crc32::Add(const uint8_t* bytes, size_t count) {
  uint32_t state = state_;
  // Eight bytes a step: their lookups wait for each other in no way, those of a byte a step do ("slicing by 8").
  for (; count >= kStep; bytes += kStep, count -= kStep) {
    state ^= uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
    state = kTables[7][state & 0xff] ^ kTables[6][state >> 8 & 0xff] ^ kTables[5][state >> 16 & 0xff] ^
            kTables[4][state >> 24] ^ kTables[3][bytes[4]] ^ kTables[2][bytes[5]] ^ kTables[1][bytes[6]] ^
            kTables[0][bytes[7]];
  }
  for (; count > 0; ++bytes, --count) state = state >> 8 ^ kTables[0][(state ^ *bytes) & 0xff];
  state_ = state;
}

std::string Crc32::Hex() const {
  std::string text;
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[~state_ >> shift & 15];
  return text;
}

}  // namespace edgetx::capi
