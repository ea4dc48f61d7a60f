// Files store a row's numbers one behind the other; here 16 rows come to stand together.
//
// Source of the formats: ggml's quantised types as its documentation and `gguf.quants` describe
// them. A block of 32 numbers is read as whole numbers, a scale (two for Q6_K) and an offset, and
// written into the place of its row; 32-bit words hold 4 neighbouring columns throughout.
#include "pack.h"

#include "half.h"

namespace edge {
namespace {

enum Type : int { T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8,
                  T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14, T_BF16 = 30 };

struct Stored { int type, kind, numbers, bytes; };  // of a block in a file

constexpr Stored STORED[] = {
    {T_F32, F32, 1, 4},     {T_F16, F16, 1, 2},     {T_BF16, BF16, 1, 2},
    {T_Q8_0, Q8, 32, 34},   {T_Q4_0, Q4, 32, 18},   {T_Q4_1, Q4M, 32, 20},
    {T_Q5_0, Q5, 32, 22},   {T_Q5_1, Q5M, 32, 24},  {T_Q4_K, Q4M, 256, 144},
    {T_Q5_K, Q5M, 256, 176}, {T_Q6_K, Q6, 256, 210},
};

const Stored* stored(int type) {
  for (const Stored& s : STORED)
    if (s.type == type) return &s;
  return nullptr;
}

// 32 numbers of a row: stored whole numbers (as unsigned), two scales or a scale and an offset.
struct Group {
  uint32_t words[8];        // columns 4g to 4g + 3
  uint16_t first, second;  // float16
};

inline uint16_t half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return h;
}

inline uint32_t word_at(const uint8_t* p) {
  uint32_t w;
  std::memcpy(&w, p, 4);
  return w;
}

constexpr uint32_t EACH = 0x01010101u;  // a one in each byte

// Byte i of the result: bit `from + i` of `bits`.
inline uint32_t spread(uint32_t bits, int from) {
  const uint32_t four = bits >> from & 15u;
  return (four * 0x00204081u) & EACH;
}

// Nibbles of 32 numbers in 16 bytes: the first 16 numbers in the low halves.
inline void nibbles(const uint8_t* p, uint32_t* words) {
  for (int g = 0; g < 4; ++g) {
    const uint32_t w = word_at(p + 4 * g);
    words[g] = w & 15 * EACH;
    words[g + 4] = w >> 4 & 15 * EACH;
  }
}

// Scale and offset `j` of 8, in 6 bits each, of a block of Q4_K or Q5_K.
inline void six_bits(const uint8_t* s, int j, float* scale, float* offset) {
  const int a = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  const int b = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
  *scale = float(a);
  *offset = float(b);
}

inline void scaled(const uint8_t* p, int j, Group* out) {  // of Q4_K and Q5_K
  float scale, offset;
  six_bits(p + 4, j, &scale, &offset);
  out->first = to_f16(from_f16(half_at(p)) * scale);
  out->second = to_f16(-from_f16(half_at(p + 2)) * offset);
}

inline void half_bytes(const uint8_t* p, int j, uint32_t* words) {  // of Q4_K and Q5_K: 32 of 256
  for (int g = 0; g < 8; ++g) words[g] = word_at(p + 32 * (j / 2) + 4 * g) >> 4 * (j % 2) & 15 * EACH;
}

void read_q6_k(const uint8_t* p, int j, Group* out) {
  const int half = j / 4, quarter = j % 4;  // 128 numbers, 32 of them
  const uint8_t *low = p + 64 * half + 32 * (quarter % 2), *high = p + 128 + 32 * half;
  for (int g = 0; g < 8; ++g) {
    const uint32_t four = word_at(low + 4 * g) >> 4 * (quarter / 2) & 15 * EACH;
    out->words[g] = four | (word_at(high + 4 * g) >> 2 * quarter & 3 * EACH) << 4;
  }
  const int8_t* scales = reinterpret_cast<const int8_t*>(p + 192 + 8 * half + 2 * quarter);
  const float scale = from_f16(half_at(p + 208));
  out->first = to_f16(scale * scales[0]);
  out->second = to_f16(scale * scales[1]);
}

// Group `j` of 32 numbers in the block at `p`.
void read_group(int type, const uint8_t* p, int j, Group* out) {
  uint32_t* w = out->words;
  out->second = 0;
  switch (type) {
    case T_Q8_0:
      for (int g = 0; g < 8; ++g) w[g] = word_at(p + 2 + 4 * g) ^ 0x80808080u;
      out->first = half_at(p);
      return;
    case T_Q4_0: case T_Q4_1: case T_Q5_0: case T_Q5_1: {
      const bool offset = type == T_Q4_1 || type == T_Q5_1, fifth = type == T_Q5_0 || type == T_Q5_1;
      out->first = half_at(p);
      if (offset) out->second = half_at(p + 2);
      p += offset ? 4 : 2;
      nibbles(p + (fifth ? 4 : 0), w);
      for (int g = 0; fifth && g < 8; ++g) w[g] |= spread(word_at(p), 4 * g) << 4;
      return;
    }
    case T_Q4_K:
      scaled(p, j, out);
      return half_bytes(p + 16, j, w);
    case T_Q5_K:
      scaled(p, j, out);
      half_bytes(p + 48, j, w);
      for (int g = 0; g < 8; ++g) w[g] |= (word_at(p + 16 + 4 * g) >> j & EACH) << 4;
      return;
    case T_Q6_K:
      return read_q6_k(p, j, out);
  }
}

inline void put(uint8_t* p, uint32_t word) { std::memcpy(p, &word, 4); }

// One row's 32 numbers into the place of lane `r` in a group of 16 rows.
void put_group(int bits, const uint32_t* w, int r, uint8_t* p) {
  if (bits == 8) {
    for (int g = 0; g < 8; ++g) put(p + 64 * g + 4 * r, w[g]);
    return;
  }
  for (int g = 0; g < 4; ++g) put(p + 64 * g + 4 * r, (w[g] & 15 * EACH) | (w[g + 4] & 15 * EACH) << 4);
  uint32_t more[2] = {0, 0};
  if (bits == 5)
    for (int g = 0; g < 8; ++g) more[0] |= (w[g] >> 4 & EACH) << g;
  if (bits == 6)
    for (int g = 0; g < 8; ++g) more[g / 4] |= (w[g] >> 4 & 3 * EACH) << 2 * (g % 4);
  for (int n = 0; n < bits - 4; ++n) put(p + 256 + 64 * n + 4 * r, more[n]);
}

// What lane `r` holds of a group, read back: the inverse of put_group.
int stored_number(int bits, const uint8_t* p, int r, int column) {
  const int g = column / 4, at = 4 * r + column % 4;
  if (bits == 8) return p[64 * g + at];
  const int four = p[64 * (g % 4) + at] >> 4 * (g / 4) & 15;
  if (bits == 5) return four | (p[256 + at] >> g & 1) << 4;
  if (bits == 6) return four | (p[256 + 64 * (g / 4) + at] >> 2 * (g % 4) & 3) << 4;
  return four;
}

bool finite_half(int kind, uint16_t v) {
  const unsigned odd = kind == BF16 ? 0x7f80u : 0x7c00u;
  return (v & odd) != odd;
}

bool pack_whole(const Matrix& w, uint8_t* data, const Stored& from, const uint8_t* raw, int b, int r) {
  const int bits = FORMS[w.kind].bits, scales = FORMS[w.kind].scales;
  const uint8_t* row = raw + row_bytes(from.type, w.cols) * size_t(b * LANES + r);
  uint8_t* block = data + w.block_bytes() * b;
  const int within = from.numbers / GROUP;
  for (int g = 0; g < w.groups(); ++g) {
    Group group;
    read_group(from.type, row + size_t(from.bytes) * (g / within), g % within, &group);
    if (!finite_half(w.kind, group.first) || !finite_half(w.kind, group.second)) return false;
    put_group(bits, group.words, r, block + w.values_at(g));
    uint16_t* at = reinterpret_cast<uint16_t*>(block + w.scales_at(g)) + r;
    at[0] = group.first;
    if (scales == 2) at[LANES] = group.second;
  }
  return true;
}

// Float32 and pairs of bfloat16 are words of 4 bytes, which go where they are wanted as they are.
bool pack_words(const Matrix& w, uint8_t* block, const uint8_t* row, int r) {
  const int numbers = w.kind == F32 ? 1 : 2, words = w.cols / numbers;
  const uint32_t upper = 0x7f800000u, lower = w.kind == F32 ? 0 : 0x7f80u;  // exponents
  bool finite = true;
  for (int j = 0; j < words; ++j) {
    const uint32_t word = word_at(row + 4 * j);
    finite &= (word & upper) != upper && (!lower || (word & lower) != lower);
    put(block + 64 * size_t(j) + 4 * r, word);
  }
  if (w.cols % numbers) {  // half a pair
    const uint16_t last = half_at(row + 4 * words);
    finite &= finite_half(w.kind, last);
    std::memcpy(block + 64 * size_t(words) + 4 * r, &last, 2);
  }
  return finite;
}

bool pack_f16(const Matrix& w, uint8_t* block, const uint8_t* row, int r) {
  bool finite = true;
  for (int k = 0; k < w.cols; ++k) {
    const uint16_t number = half_at(row + 2 * k);
    finite &= finite_half(w.kind, number);
    std::memcpy(block + 2 * (size_t(k) * LANES + r), &number, 2);
  }
  return finite;
}

bool pack_row(const Matrix& w, uint8_t* data, const Stored& from, const uint8_t* raw, int b, int r) {
  if (whole_numbers(w.kind)) return pack_whole(w, data, from, raw, b, r);
  const uint8_t* row = raw + row_bytes(from.type, w.cols) * size_t(b * LANES + r);
  uint8_t* block = data + w.block_bytes() * b;
  return w.kind == F16 ? pack_f16(w, block, row, r) : pack_words(w, block, row, r);
}

}  // namespace

int kind_of(int type) {
  const Stored* s = stored(type);
  return s ? s->kind : -1;
}

bool can_hold(int type, int cols) {
  const Stored* s = stored(type);
  return s && cols >= 1 && cols % s->numbers == 0;
}

size_t row_bytes(int type, int cols) {
  const Stored* s = stored(type);
  return size_t(cols / s->numbers) * s->bytes;
}

bool pack_blocks(const Matrix& w, uint8_t* data, int type, const void* raw, int first, int end) {
  const Stored& from = *stored(type);
  for (int b = first; b < end; ++b)
    for (int r = 0; r < LANES && b * LANES + r < w.rows; ++r)
      if (!pack_row(w, data, from, static_cast<const uint8_t*>(raw), b, r)) return false;
  return true;
}

void unpack_row(const Matrix& w, int row, float* out) {
  const uint8_t* block = w.block(row / LANES);
  const int r = row % LANES, bits = FORMS[w.kind].bits;
  const bool offset = w.kind == Q4M || w.kind == Q5M;
  const uint16_t* half = reinterpret_cast<const uint16_t*>(block);
  for (int k = 0; k < w.cols; ++k) {
    const int g = k / GROUP;
    if (w.kind == F32) std::memcpy(out + k, block + 4 * (size_t(k) * 16 + r), 4);
    else if (w.kind == F16) out[k] = from_f16(half[size_t(k) * 16 + r]);
    else if (w.kind == BF16) out[k] = from_bf16(half[size_t(k / 2) * 32 + 2 * r + k % 2]);
    else {
      const uint16_t* at = w.scales(row / LANES, g) + r;
      const int n = stored_number(bits, block + w.values_at(g), r, k % GROUP);
      const float scale = from_f16(at[w.kind == Q6 && k % GROUP >= 16 ? LANES : 0]);
      out[k] = offset ? scale * float(n) + from_f16(at[LANES]) : scale * float(n - (1 << (bits - 1)));
    }
  }
}

}  // namespace edge
