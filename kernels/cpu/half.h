// 16-bit numbers ↔ float32, in portable C++. Round to nearest, ties to even.
#pragma once
#include <cstdint>
#include <cstring>

namespace edge {
namespace {  // every translation unit has its own copy, compiled with its own flags

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float from_bf16(uint16_t h) { return float_of_bits(uint32_t(h) << 16); }

inline uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of_float(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40);  // no number
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline float from_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | rest << 13);
  return float_of_bits(sign | bits_of_float(float_of_bits(rest << 13) * 0x1p112f));
}

inline uint16_t to_f16(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (rest >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to 65,536 and more
  if (rest < 0x38800000u)  // below the smallest normal number: let the adder round
    return uint16_t(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000u));
  return uint16_t(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
}

}  // namespace
}  // namespace edge
