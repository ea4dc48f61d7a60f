// Tile intrinsics whose memory operands are told in full; put before every file with `-include`.
// GCC's own (12.2) say that ldtilecfg reads 8 of its 64 bytes, and that tileloadd reads nothing, so
// the compiler may drop or move the stores before them: llama.cpp then ends in SIGSEGV.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

static inline void told_tile_loadconfig(const void *config) {
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])config));
}
#define _tile_loadconfig told_tile_loadconfig

#undef _tile_loadd_internal
#define _tile_loadd_internal(dst, base, stride)                                          \
    __asm__ volatile("{tileloadd\t(%0,%1,1), %%tmm" #dst "|tileloadd\t%%tmm" #dst       \
                     ", [%0+%1*1]}"                                                      \
                     : : "r"((const void *)(base)), "r"((long)(stride)) : "memory")
#endif
