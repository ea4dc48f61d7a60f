// A weight matrix as it lies in memory, the same for every instruction set.
//
// 16 rows stand together (a block), so that a vector of 16 lanes holds one row a lane and no sum
// ever crosses lanes. Rows are padded to 16 and columns to 64 with zeros.
//
// kind      a group: 16 rows, 32 columns                           before it, for each row
// F32       [32][16] float32                                       -
// F16       [32][16] float16                                       -
// BF16      [16][16][2] bfloat16: pairs of columns                 -
// Q8        [8][16][4] bytes, value + 128: column 4g+i in [g][.][i] scale
// Q4        [4][16][4] bytes: column 4g+i in the low half of byte  scale
//           [g][.][i], column 4(g+4)+i in the high
// Q5        Q4, then [16][4] bytes: bit g of byte [.][i] is the    scale
//           fifth of column 4g+i
// Q6        Q4, then [2][16][4] bytes: bits 2g, 2g+1 of byte       two scales, of 16 columns each
//           [n][.][i] are the upper two of column 4(4n+g)+i
// Q4M Q5M   as Q4 and Q5                                           scale, offset
//
// Groups stand in pairs, the scales of both before the values of both: one stream, whole cache lines.
// Scales and offsets are float16. A value is scale * (stored - zero), or scale * stored + offset.
#pragma once
#include <cstddef>
#include <cstdint>

namespace edge {

constexpr int LANES = 16;   // rows of a block
constexpr int GROUP = 32;   // columns that share a scale

enum Kind : int { F32, F16, BF16, Q8, Q4, Q4M, Q5, Q5M, Q6, KINDS };

struct Form {
  int bits;           // of a stored value; 8 and less are whole numbers with a scale
  int group_bytes;    // values of 16 rows and 32 columns
  int scales;         // float16 numbers a row and 32 columns: scales, then offsets
};

constexpr Form FORMS[KINDS] = {
    {32, 2048, 0}, {16, 1024, 0}, {16, 1024, 0}, {8, 512, 1}, {4, 256, 1},
    {4, 256, 2},   {5, 320, 1},   {5, 320, 2},   {6, 384, 2},
};

inline long padded(long n, long to) { return (n + to - 1) / to * to; }

constexpr bool whole_numbers(int kind) { return kind >= Q8; }

struct Matrix {
  Kind kind = F32;
  int rows = 0, cols = 0;         // as they are meant
  const uint8_t* data = nullptr;  // blocks, one behind the other, 64 byte aligned
  const float* bias = nullptr;    // rows, or null

  int blocks() const { return (rows + LANES - 1) / LANES; }
  int groups() const { return (cols + GROUP - 1) / GROUP; }
  size_t scale_bytes() const { return size_t(FORMS[kind].scales) * LANES * 2; }  // of a group
  size_t pair_bytes() const { return 2 * (FORMS[kind].group_bytes + scale_bytes()); }
  size_t block_bytes() const { return (groups() + 1) / 2 * pair_bytes(); }
  size_t bytes() const { return block_bytes() * blocks(); }
  const uint8_t* block(int b) const { return data + block_bytes() * b; }
  size_t values_at(int g) const {  // in a block
    return g / 2 * pair_bytes() + 2 * scale_bytes() + size_t(g % 2) * FORMS[kind].group_bytes;
  }
  size_t scales_at(int g) const { return g / 2 * pair_bytes() + g % 2 * scale_bytes(); }
  const uint8_t* values(int b, int g) const { return block(b) + values_at(g); }
  const uint16_t* scales(int b, int g) const {
    return reinterpret_cast<const uint16_t*>(block(b) + scales_at(g));
  }
};

// The inputs of a product, in the numbers that its matrix wants. Rows of `cols` each, padded to 32.
struct Inputs {
  int cols = 0;                 // padded to 32
  float* f32 = nullptr;         // [token][cols], for F32 and F16
  uint16_t* bf16 = nullptr;     // [token][cols], for BF16
  int8_t* i8 = nullptr;         // [token][cols], for whole numbers, -127 to 127
  float* scale = nullptr;       // [token][cols/32]
  int32_t* sums = nullptr;      // [token][cols/16]: sums of i8
};

enum Wanted : unsigned { WANT_F32 = 1, WANT_BF16 = 2, WANT_I8 = 4 };

constexpr unsigned wanted_by(int kind) {
  return kind == BF16 ? WANT_BF16 : whole_numbers(kind) ? WANT_I8 : WANT_F32;
}

}  // namespace edge
