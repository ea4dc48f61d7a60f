// The vocabulary in portable C++: what every instruction set must mean by each word.
//
// F is 16 floats, I 16 whole numbers of 32 bits, B 64 bytes: 4 for each of the 16 lanes.
#pragma once
#include <cmath>

#include "half.h"

namespace edge {
namespace {

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct B { uint8_t v[64]; };

#define EACH for (int i = 0; i < 16; ++i)

inline F set(float x) { F r; EACH r.v[i] = x; return r; }
inline F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
inline void store(float* p, F a) { std::memcpy(p, a.v, 64); }
inline F add(F a, F b) { EACH a.v[i] += b.v[i]; return a; }
inline F sub(F a, F b) { EACH a.v[i] -= b.v[i]; return a; }
inline F mul(F a, F b) { EACH a.v[i] *= b.v[i]; return a; }
inline F div(F a, F b) { EACH a.v[i] /= b.v[i]; return a; }
inline F fma(F a, F b, F c) { EACH c.v[i] += a.v[i] * b.v[i]; return c; }
inline F larger(F a, F b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F smaller(F a, F b) { EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F size(F a) { EACH a.v[i] = std::fabs(a.v[i]); return a; }
inline F nearest(F a) { EACH a.v[i] = std::nearbyint(a.v[i]); return a; }
inline F power_of_two(F n) {  // of whole n from -126 to 127
  EACH n.v[i] = float_of_bits(uint32_t(int32_t(n.v[i]) + 127) << 23);
  return n;
}
inline float sum(F a) { float s = 0; EACH s += a.v[i]; return s; }
inline float top(F a) { float m = a.v[0]; EACH m = a.v[i] > m ? a.v[i] : m; return m; }

inline F load_f16(const uint16_t* p) { F r; EACH r.v[i] = from_f16(p[i]); return r; }
inline void store_f16(uint16_t* p, F a) { EACH p[i] = to_f16(a.v[i]); }
inline void store_bf16(uint16_t* p, F a) { EACH p[i] = to_bf16(a.v[i]); }

// c + w[.][0] x[0] + w[.][1] x[1], all bfloat16: w 16 pairs, x one pair
inline F dot2(F c, const uint16_t* w, const uint16_t* x) {
  EACH c.v[i] += from_bf16(w[2 * i]) * from_bf16(x[0]) + from_bf16(w[2 * i + 1]) * from_bf16(x[1]);
  return c;
}

inline I set_i(int32_t x) { I r; EACH r.v[i] = x; return r; }
inline F to_f(I a) { F r; EACH r.v[i] = float(a.v[i]); return r; }
inline int32_t sum_i(I a) { int32_t s = 0; EACH s += a.v[i]; return s; }
// 16 floats that are whole, within a byte → p; the same as I
inline I store_i8(int8_t* p, F a) {
  I r;
  EACH r.v[i] = p[i] = int8_t(a.v[i]);
  return r;
}

inline B load_b(const uint8_t* p) { B r; std::memcpy(r.v, p, 64); return r; }
inline B low4(B a) { for (auto& x : a.v) x &= 15; return a; }
inline B high4(B a) { for (auto& x : a.v) x >>= 4; return a; }
// a | (h << LEFT & MASK): bits that stay within their byte
template <int LEFT, int MASK> inline B with_bits(B a, B h) {
  for (int i = 0; i < 64; ++i)
    a.v[i] |= (LEFT >= 0 ? h.v[i] << (LEFT & 7) : h.v[i] >> (-LEFT & 7)) & MASK;
  return a;
}
// c + the sum of a lane's 4 bytes of w (0 to 63) times the 4 of x
inline I dot4(I c, B w, const int8_t* x) {
  for (int i = 0; i < 64; ++i) c.v[i / 4] += int32_t(w.v[i]) * x[i % 4];
  return c;
}
// the same for all of a byte; the chain starts from dot8_start and means w - 128
inline I dot8_start(int32_t sum_of_x) { return set_i(-128 * sum_of_x); }
inline I dot8(I c, B w, const int8_t* x) { return dot4(c, w, x); }

#undef EACH

}  // namespace
}  // namespace edge
