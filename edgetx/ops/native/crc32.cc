#include "edgetx/ops/native/crc32.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define EDGETX_FOLDS
#include <immintrin.h>
#endif

namespace edgetx {
namespace {

constexpr uint32_t kPolynomial = 0xedb88320;  // bit-reversed
constexpr size_t kStep = 8;

// kTables[k][b]: what the byte b leaves behind when k more bytes, all zero, have followed it.
using Tables = std::array<std::array<uint32_t, 256>, kStep>;

constexpr uint32_t AfterZeros(uint32_t state, int bits) {
  for (int bit = 0; bit < bits; ++bit) state = state >> 1 ^ (state & 1 ? kPolynomial : 0);
  return state;
}

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) tables[0][byte] = AfterZeros(byte, 8);
  for (size_t k = 1; k < kStep; ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

uint32_t ByTables(uint32_t state, const uint8_t* bytes, size_t count) {
  // Eight bytes a step: their lookups wait for each other in no way, those of a byte a step do ("slicing by 8").
  for (; count >= kStep; bytes += kStep, count -= kStep) {
    state ^= uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
    state = kTables[7][state & 0xff] ^ kTables[6][state >> 8 & 0xff] ^ kTables[5][state >> 16 & 0xff] ^
            kTables[4][state >> 24] ^ kTables[3][bytes[4]] ^ kTables[2][bytes[5]] ^ kTables[1][bytes[6]] ^
            kTables[0][bytes[7]];
  }
  for (; count > 0; ++bytes, --count) state = state >> 8 ^ kTables[0][(state ^ *bytes) & 0xff];
  return state;
}

#ifdef EDGETX_FOLDS
// Carry-less products move 16 bytes to where they have the same remainder, 64 bytes further on or 16 ("Fast CRC
// Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009), until the last 16 are left.
constexpr size_t kLanes = 4, kLane = 16, kBlock = kLanes * kLane;

// x^bits modulo the polynomial, bit-reversed as the message is, times x: a product of reversed numbers lacks one.
constexpr long long Power(int bits) {
  return static_cast<long long>(AfterZeros(uint32_t{1} << 31, bits)) << 1;
}

__attribute__((target("pclmul,sse2"))) inline __m128i Load(const uint8_t* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

__attribute__((target("pclmul,sse2"))) inline __m128i Moved(__m128i lane, __m128i powers) {
  return _mm_xor_si128(_mm_clmulepi64_si128(lane, powers, 0x00), _mm_clmulepi64_si128(lane, powers, 0x11));
}

__attribute__((target("pclmul,sse2"))) uint32_t ByFolding(uint32_t state, const uint8_t* bytes, size_t count) {
  // The first half of a lane is 64 bits further from the end than the second.
  const __m128i by_block = _mm_set_epi64x(Power(8 * kBlock - 32), Power(8 * kBlock + 32));
  const __m128i by_lane = _mm_set_epi64x(Power(8 * kLane - 32), Power(8 * kLane + 32));
  __m128i lanes[kLanes];
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = Load(bytes + i * kLane);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(state)));
  for (bytes += kBlock, count -= kBlock; count >= kBlock; bytes += kBlock, count -= kBlock) {
    for (size_t i = 0; i < kLanes; ++i) {
      lanes[i] = _mm_xor_si128(Moved(lanes[i], by_block), Load(bytes + i * kLane));
    }
  }
  __m128i last = lanes[0];
  for (size_t i = 1; i < kLanes; ++i) last = _mm_xor_si128(Moved(last, by_lane), lanes[i]);
  alignas(kLane) uint8_t rest[kLane];
  _mm_store_si128(reinterpret_cast<__m128i*>(rest), last);
  return ByTables(ByTables(0, rest, kLane), bytes, count);
}
#endif

uint32_t After(uint32_t state, const uint8_t* bytes, size_t count) {
#ifdef EDGETX_FOLDS
  static const bool folds = __builtin_cpu_supports("pclmul");
  if (folds && count >= kBlock) return ByFolding(state, bytes, count);
#endif
  return ByTables(state, bytes, count);
}

}  // namespace

void Crc32::Add(const uint8_t* bytes, size_t count) { state_ = After(state_, bytes, count); }

std::string Crc32::Hex() const {
  std::string text;
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[Value() >> shift & 15];
  return text;
}

}  // namespace edgetx

extern "C" int edgetx_crc32_of_file(const char* path, uint32_t* value) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return errno;
  std::setvbuf(file, nullptr, _IONBF, 0);
  // Smaller than the caches, so that what was read is still there when it is added.
  std::vector<uint8_t> block(size_t{1} << 18);
  edgetx::Crc32 crc;
  errno = 0;
  while (const size_t count = std::fread(block.data(), 1, block.size(), file)) crc.Add(block.data(), count);
  const int error = std::ferror(file) ? (errno ? errno : EIO) : 0;
  std::fclose(file);
  *value = crc.Value();
  return error;
}
