// The instruction sets that a source with Highway is compiled for; to be included before Highway. cpu.h chooses.
#pragma once

#if defined(__x86_64__)
// Left: SSE2, AVX2 and AVX3 (AVX-512 F, BW, CD, DQ, VL).
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_ZEN4 | HWY_AVX3_SPR)
#define HWY_DISABLE_PCLMUL_AES
#else
#define HWY_COMPILE_ONLY_STATIC
#endif
