// Arithmetic on numbers below float32's normal range.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace edgetx {

// While it lives, this thread takes and gives zeros for float32 numbers below 2^-126. A softmax makes such
// numbers wherever a mask or a large logit rules a key out, no sum can see them, and a multiply-add that meets
// one takes about a hundred cycles on many CPUs (measured on Intel's Cascade Lake: attention in masked windows
// took 4 to 12 times as long).
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
  ~FlushDenormals() { _mm_setcsr(before_); }
#elif defined(__aarch64__) && defined(__GNUC__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | kFlushToZero) : "memory");
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_) : "memory"); }
#else
  FlushDenormals() = default;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE__)
  static constexpr uint32_t kFlushToZero = 0x8000;
  static constexpr uint32_t kDenormalsAreZero = 0x40;
  uint32_t before_;
#elif defined(__aarch64__) && defined(__GNUC__)
  static constexpr uint64_t kFlushToZero = 1u << 24;
  uint64_t before_;
#endif
};

}  // namespace edgetx
