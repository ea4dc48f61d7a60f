// The vocabulary in AVX-512 (F, BW, DQ, VL, VNNI, and BF16 where the unit has it). Meanings: simd_scalar.h.
#pragma once
#include <immintrin.h>

#include "half.h"

namespace edge {
namespace {

using F = __m512;
using I = __m512i;
using B = __m512i;

inline F set(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F larger(F a, F b) { return _mm512_max_ps(a, b); }
inline F smaller(F a, F b) { return _mm512_min_ps(a, b); }
inline F size(F a) { return _mm512_abs_ps(a); }
inline F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F power_of_two(F n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float top(F a) { return _mm512_reduce_max_ps(a); }

inline F load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_f16(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline int32_t four_bytes(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}
#ifdef __AVX512BF16__
inline void store_bf16(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
}
inline F dot2(F c, const uint16_t* w, const uint16_t* x) {
  return _mm512_dpbf16_ps(c, (__m512bh)_mm512_loadu_si512(w),
                          (__m512bh)_mm512_set1_epi32(four_bytes(x)));
}
#else
inline void store_bf16(uint16_t* p, F a) {
  const I bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const I rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 none = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const I kept = _mm512_mask_mov_epi32(rounded, none, _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
inline F dot2(F c, const uint16_t* w, const uint16_t* x) {
  const I pairs = _mm512_loadu_si512(w), upper = _mm512_set1_epi32(int32_t(0xffff0000u));
  const F even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
  return fma(odd, set(from_bf16(x[1])), fma(even, set(from_bf16(x[0])), c));
}
#endif

inline I set_i(int32_t x) { return _mm512_set1_epi32(x); }
inline F to_f(I a) { return _mm512_cvtepi32_ps(a); }
inline int32_t sum_i(I a) { return _mm512_reduce_add_epi32(a); }
inline I store_i8(int8_t* p, F a) {
  const I whole = _mm512_cvtps_epi32(a);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(whole));
  return whole;
}

inline B load_b(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline B low4(B a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline B high4(B a) { return low4(_mm512_srli_epi16(a, 4)); }
template <int LEFT, int MASK> inline B with_bits(B a, B h) {
  if constexpr (LEFT > 0) h = _mm512_slli_epi16(h, LEFT);
  if constexpr (LEFT < 0) h = _mm512_srli_epi16(h, -LEFT);
  return _mm512_ternarylogic_epi32(a, h, _mm512_set1_epi8(MASK), 0xf8);  // a | (h & mask)
}
inline I dot4(I c, B w, const int8_t* x) {
  return _mm512_dpbusd_epi32(c, w, _mm512_set1_epi32(four_bytes(x)));
}
inline I dot8_start(int32_t sum_of_x) { return set_i(-128 * sum_of_x); }
inline I dot8(I c, B w, const int8_t* x) { return dot4(c, w, x); }

}  // namespace
}  // namespace edge
