// What an instruction set supplies. Each is one translation unit: its vector vocabulary
// (simd_*.h) under the kernels that are written once (ops.inl), compiled with its own flags.
#pragma once
#include "matrix.h"
#include "walks.h"

namespace edge {

constexpr int TILE = 8;        // tokens, or queries, that share one reading of weights or keys
constexpr int MANY = 32;       // tokens from which on `many` serves
constexpr int PIECE = 256;     // keys whose scores are held at a time
constexpr int MAX_HEAD = 256;  // of a head's size
enum Activation : int { SILU = 0, GELU_TANH = 1 };

// Up to TILE queries over keys [first, last) of one head; each sees keys [from, to) of them.
// Source: Milakov and Gimelshein, online softmax, arXiv 1805.02867; Dao et al., arXiv 2205.14135.
struct Attend {
  bool wide;           // keys and values are float32, else float16
  int dim;             // of a head, padded to 16
  int room;            // positions that the cache has, a multiple of 16
  const void* keys;    // [room/16][dim][16]
  const void* values;  // [dim/16][room][16]
  int first, last;     // first is a multiple of 16
  int count;           // queries
  const int* from;
  const int* to;
  const float* q;      // [count][dim], scaled
  float cap;           // scores become cap * tanh(score / cap); 0: as they are
  float* out;          // [count][dim]: the sum of values by exp(score - top)
  float* top;          // [count]
  float* sum;          // [count]
};

struct Ops {
  const char* name;
  // y[t][0..15] = the 16 rows of block `b` times input t, for t in [0, count); y rows are `ld` apart.
  void (*product)(const Matrix& w, int b, const Inputs& x, int first, int count, float* y, long ld);
  // The same for one input and `blocks` blocks from `first` on: y[0 .. 16 blocks). By one of WALKS.
  void (*single)(const Matrix& w, int first, int blocks, const Inputs& x, int token, float* y, int walk);
  // The same for `blocks` blocks from `first` on and all of `tokens` inputs, from x.bf16, of which
  // rows up to the next multiple of 32 can be read. Null: there is none; F32 and F16 have none.
  void (*many)(const Matrix& w, int first, int blocks, const Inputs& x, int tokens, float* y, long ld);
  // The forms in `wanted` of input `token`, from x.f32.
  void (*convert)(const Inputs& x, int token, unsigned wanted);
  // y = x * gain / sqrt(mean of squares + eps); n may be odd. Source: arXiv 1910.07467, equation 4.
  void (*norm)(const float* x, const float* gain, float eps, int n, float* y);
  // g = activation(g) * u, 16 numbers.
  void (*gate)(float* g, const float* u, int activation);
  void (*attend)(const Attend& a);
  void (*keep_f16)(const float* x, uint16_t* y, int n, long stride);  // y[i * stride] = x[i]
};

const Ops* ops_scalar();
const Ops* ops_avx2();  // this and the next are null where they were not compiled
const Ops* ops_avx512_vnni();
const Ops* ops_avx512();
const Ops* ops_amx();

}  // namespace edge
