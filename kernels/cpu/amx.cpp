// AMX tiles: products with many inputs at once, on top of AVX-512. Intel servers since 2023.
//
// Weights become bfloat16, 32 rows and up to DEPTH columns at a time, small enough to stay in the
// first cache while all inputs pass by; inputs are bfloat16 too, sums float32. Two tiles of inputs
// times two of weights keep four sums: each tile that is loaded is used twice.
//
// Tiles are written as assembly: GCC 12 compiles the intrinsics wrongly when they are inlined.
#include "simd_avx512.h"
#include "isa.h"
#include "unpack.inl"

namespace edge {
namespace {

constexpr int DEPTH = 512;  // columns at a time: 32 KiB of weights
constexpr int STEP = 32;    // columns of a tile

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define LOAD(tile, at, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(long(stride)) : "memory")
#define STORE(tile, at, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(long(stride)) : "memory")
#define ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
#define TIMES(sum, x, w) asm volatile("tdpbf16ps %%tmm" #w ", %%tmm" #x ", %%tmm" #sum ::)

// Byte J of each lane as floats.
template <int J> inline F byte_of(B v) {
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, 8 * J), _mm512_set1_epi32(255)));
}

// lanes a, b → pairs of bfloat16 (a0 b0 a1 b1 ...)
inline void store_pairs(uint16_t* p, F a, F b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
  _mm512_store_si512(p, _mm512_permutexvar_epi16(order, both));
}

// Groups [first, end) of block `b` as bfloat16, [columns/2][16][2].
template <int KIND> void to_bf16(const Matrix& w, int b, int first, int end, uint16_t* out) {
  constexpr bool offset = KIND == Q4M || KIND == Q5M, halves = KIND == Q6;
  constexpr float zero = offset ? 0 : 1 << (FORMS[KIND].bits - 1);
  for (int g = first; g < end; ++g) {
    B v[8];
    unpack<KIND>(w.values(b, g), v);
    const uint16_t* at = w.scales(b, g);
    F scale = load_f16(at), add = offset ? load_f16(at + LANES) : mul(scale, set(-zero));
    for (int i = 0; i < 8; ++i, out += 64) {
      if (halves && i == 4) {
        scale = load_f16(at + LANES);
        add = mul(scale, set(-zero));
      }
      store_pairs(out, fma(byte_of<0>(v[i]), scale, add), fma(byte_of<1>(v[i]), scale, add));
      store_pairs(out + 32, fma(byte_of<2>(v[i]), scale, add), fma(byte_of<3>(v[i]), scale, add));
    }
  }
}

// Where columns [32 first, 32 end) of a block lie as bfloat16: made in `room`, or as they are.
const uint16_t* panel(const Matrix& w, int b, int first, int end, uint16_t* room) {
  switch (w.kind) {
    case BF16: return reinterpret_cast<const uint16_t*>(w.block(b)) + size_t(first) * STEP * LANES;
    case Q8: to_bf16<Q8>(w, b, first, end, room); break;
    case Q4: to_bf16<Q4>(w, b, first, end, room); break;
    case Q4M: to_bf16<Q4M>(w, b, first, end, room); break;
    case Q5: to_bf16<Q5>(w, b, first, end, room); break;
    case Q5M: to_bf16<Q5M>(w, b, first, end, room); break;
    case Q6: to_bf16<Q6>(w, b, first, end, room); break;
    default: break;
  }
  return room;
}

// Sums of 32 inputs and 32 rows: y += x w, or y = x w where it is `fresh`. Strides in bytes.
void tiles_2x2(const uint16_t* x, long x_stride, const uint16_t* w0, const uint16_t* w1, int steps, float* y,
               long y_stride, bool fresh) {
  const char *a0 = reinterpret_cast<const char*>(x), *a1 = a0 + 16 * x_stride;
  char *c0 = reinterpret_cast<char*>(y), *c1 = c0 + 16 * y_stride;
  if (fresh) {
    ZERO(0); ZERO(1); ZERO(2); ZERO(3);
  } else {
    LOAD(0, c0, y_stride); LOAD(1, c0 + 64, y_stride); LOAD(2, c1, y_stride); LOAD(3, c1 + 64, y_stride);
  }
  for (int s = 0; s < steps; ++s) {
    LOAD(4, a0 + 64L * s, x_stride);
    LOAD(6, w0 + 512L * s, 64);
    LOAD(7, w1 + 512L * s, 64);
    TIMES(0, 4, 6);
    TIMES(1, 4, 7);
    LOAD(5, a1 + 64L * s, x_stride);
    TIMES(2, 5, 6);
    TIMES(3, 5, 7);
  }
  STORE(0, c0, y_stride); STORE(1, c0 + 64, y_stride); STORE(2, c1, y_stride); STORE(3, c1 + 64, y_stride);
}

// The same for an edge: fewer inputs or one block of rows, by way of a square that is whole.
void tiles_edge(const uint16_t* x, long x_stride, const uint16_t* w0, const uint16_t* w1, int steps, float* y,
                long ld, bool fresh, int inputs, int rows) {
  alignas(64) float square[32 * 32];
  for (int t = 0; t < inputs; ++t)
    for (int i = 0; i < rows && !fresh; ++i) square[32 * t + i] = y[t * ld + i];
  tiles_2x2(x, x_stride, w0, w1, steps, square, 128, fresh);
  for (int t = 0; t < inputs; ++t)
    for (int i = 0; i < rows; ++i) y[t * ld + i] = square[32 * t + i];
}

void many(const Matrix& w, int first, int blocks, const Inputs& x, int tokens, float* y, long ld) {
  static const TileConfig config;
  TileConfig theirs;  // of other code in this thread, which may count on it
  asm volatile("sttilecfg %0" : "=m"(theirs));
  asm volatile("ldtilecfg %0" ::"m"(config));
  alignas(64) uint16_t room[2][DEPTH * LANES];
  const int groups = x.cols / STEP;
  for (int b = 0; b < blocks; b += 2)
    for (int g = 0; g < groups; g += DEPTH / STEP) {
      const int end = g + DEPTH / STEP < groups ? g + DEPTH / STEP : groups;
      const bool pair = b + 1 < blocks;
      const uint16_t* w0 = panel(w, first + b, g, end, room[0]);
      const uint16_t* w1 = pair ? panel(w, first + b + 1, g, end, room[1]) : w0;
      for (int t = 0; t < tokens; t += 32) {
        const uint16_t* in = x.bf16 + long(t) * x.cols + long(g) * STEP;
        float* out = y + t * ld + b * LANES;
        const int some = tokens - t < 32 ? tokens - t : 32;
        if (pair && some == 32) tiles_2x2(in, x.cols * 2L, w0, w1, end - g, out, ld * 4, g == 0);
        else tiles_edge(in, x.cols * 2L, w0, w1, end - g, out, ld, g == 0, some, pair ? 32 : 16);
      }
    }
  if (theirs.palette) asm volatile("ldtilecfg %0" ::"m"(theirs));
  else asm volatile("tilerelease" ::);
}

}  // namespace

const Ops* ops_amx() {
  static const Ops ops = [] {
    Ops with_tiles = *ops_avx512();
    with_tiles.name = "amx";
    with_tiles.many = many;
    return with_tiles;
  }();
  return &ops;
}

}  // namespace edge
