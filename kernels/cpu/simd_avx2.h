// The vocabulary in AVX2, FMA and F16C: two registers for each word. Meanings: simd_scalar.h.
#pragma once
#include <immintrin.h>

#include "half.h"

namespace edge {
namespace {

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct B { __m256i a, b; };

inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F larger(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F smaller(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F size(F x) {
  const __m256 rest = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, rest), _mm256_and_ps(x.b, rest)};
}
inline F nearest(F x) {
  constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, how), _mm256_round_ps(x.b, how)};
}
inline __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline F power_of_two(F n) { return {power_of_two(n.a), power_of_two(n.b)}; }
inline float sum(F x) {
  const __m256 s = _mm256_add_ps(x.a, x.b);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline float top(F x) {
  const __m256 s = _mm256_max_ps(x.a, x.b);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline F load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_half(p)), _mm256_cvtph_ps(load_half(p + 8))};
}
inline void store_f16(uint16_t* p, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_bf16(uint16_t* p, F x) {
  float wide[16];
  store(wide, x);
  for (int i = 0; i < 16; ++i) p[i] = to_bf16(wide[i]);
}
inline __m256 dot2(__m256 c, const uint16_t* w, __m256 even, __m256 odd) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  const __m256i upper = _mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000u)));
  c = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), even, c);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(upper), odd, c);
}
inline F dot2(F c, const uint16_t* w, const uint16_t* x) {
  const __m256 even = _mm256_set1_ps(from_bf16(x[0])), odd = _mm256_set1_ps(from_bf16(x[1]));
  return {dot2(c.a, w, even, odd), dot2(c.b, w + 16, even, odd)};
}

inline I set_i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F to_f(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline int32_t sum_i(I x) {
  const __m256i s = _mm256_add_epi32(x.a, x.b);
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_hadd_epi32(t, t);
  return _mm_cvtsi128_si32(_mm_hadd_epi32(t, t));
}
inline I store_i8(int8_t* p, F x) {
  const I whole = {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole.a, whole.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  return whole;
}

inline B load_b(const uint8_t* p) {
  const __m256i* at = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline B low4(B x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline B high4(B x) { return low4({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
template <int LEFT, int MASK> inline __m256i with_bits(__m256i a, __m256i h) {
  if constexpr (LEFT > 0) h = _mm256_slli_epi16(h, LEFT);
  if constexpr (LEFT < 0) h = _mm256_srli_epi16(h, -LEFT);
  return _mm256_or_si256(a, _mm256_and_si256(h, _mm256_set1_epi8(MASK)));
}
template <int LEFT, int MASK> inline B with_bits(B x, B h) {
  return {with_bits<LEFT, MASK>(x.a, h.a), with_bits<LEFT, MASK>(x.b, h.b)};
}
inline __m256i four_bytes(const int8_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
inline __m256i add_pairs(__m256i c, __m256i words) {
  return _mm256_add_epi32(c, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}
inline I dot4(I c, B w, const int8_t* x) {  // 63 * 127 * 2 fits 16 bits
  const __m256i four = four_bytes(x);
  return {add_pairs(c.a, _mm256_maddubs_epi16(w.a, four)), add_pairs(c.b, _mm256_maddubs_epi16(w.b, four))};
}
inline I dot8_start(int32_t) { return set_i(0); }
inline __m256i dot8(__m256i c, __m256i w, __m256i four) {  // |w| * (x with w's sign): 128 * 127 * 2 fits
  const __m256i is = _mm256_xor_si256(w, _mm256_set1_epi8(int8_t(0x80)));
  return add_pairs(c, _mm256_maddubs_epi16(_mm256_abs_epi8(is), _mm256_sign_epi8(four, is)));
}
inline I dot8(I c, B w, const int8_t* x) {
  const __m256i four = four_bytes(x);
  return {dot8(c.a, w.a, four), dot8(c.b, w.b, four)};
}

}  // namespace
}  // namespace edge
