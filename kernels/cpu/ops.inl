// The kernels, written once over the vocabulary of an instruction set (simd_*.h).
//
// Nothing here may instantiate a template of the standard library: the linker keeps one copy of
// such code, and it could be the one compiled for a CPU that is not there.
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "isa.h"
#include "unpack.inl"

namespace edge {
namespace {

// -- products ----------------------------------------------------------------------------------

inline F read16(const float* p) { return load(p); }
inline F read16(const uint16_t* p) { return load_f16(p); }

constexpr int AHEAD = WALKS[0].ahead;  // where a product of several inputs, or attention, asks

template <int A> inline void ask_ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + A, 0, 2); }

// acc[m] += sum over k of w[k] x[m][k], for M inputs `ldx` apart. w: [n][16]. With few inputs there
// are several sums of each, for an addition takes longer than it takes to start the next.
template <int M, int A = AHEAD, class T>
inline void plain(const T* w, int n, const float* x, long ldx, F* acc) {
  constexpr int C = M <= 2 ? 4 : M <= 4 ? 2 : 1;
  F sums[C][M];
  for (int c = 0; c < C; ++c)
    for (int m = 0; m < M; ++m) sums[c][m] = c ? set(0) : acc[m];
  int k = 0;
  for (; k + C <= n; k += C)
    for (int c = 0; c < C; ++c) {
      if (sizeof(T) == 4 || c % 2 == 0) ask_ahead<A>(w + 16L * (k + c));
      const F one = read16(w + 16L * (k + c));
      for (int m = 0; m < M; ++m) sums[c][m] = fma(one, set(x[m * ldx + k + c]), sums[c][m]);
    }
  for (; k < n; ++k) {
    const F one = read16(w + 16L * k);
    for (int m = 0; m < M; ++m) sums[0][m] = fma(one, set(x[m * ldx + k]), sums[0][m]);
  }
  for (int m = 0; m < M; ++m) acc[m] = C == 4 ? add(add(sums[0][m], sums[C > 1][m]), add(sums[C / 2][m], sums[C - 1][m]))
                                     : C == 2 ? add(sums[0][m], sums[C - 1][m]) : sums[0][m];
}

template <int M, int A = AHEAD>
inline void pairs(const uint16_t* w, int n, const uint16_t* x, long ldx, F* acc) {
  if constexpr (M == 1) {
    F more[3] = {set(0), set(0), set(0)};
    for (int k = 0; k < n; k += 8) {  // n is a multiple of 32
      for (int j = 0; j < 4; ++j) ask_ahead<A>(w + 16L * (k + 2 * j));
      acc[0] = dot2(acc[0], w + 16L * k, x + k);
      for (int j = 0; j < 3; ++j) more[j] = dot2(more[j], w + 16L * (k + 2 + 2 * j), x + k + 2 + 2 * j);
    }
    acc[0] = add(add(acc[0], more[0]), add(more[1], more[2]));
  } else {
    for (int k = 0; k < n; k += 2)
      for (int m = 0; m < M; ++m) acc[m] = dot2(acc[m], w + 16L * k, x + m * ldx + k);
  }
}

template <int KIND>
inline I whole_dot(I start, const B* w, const int8_t* x, int from, int to) {
  for (int g = from; g < to; ++g) {
    if constexpr (KIND == Q8) start = dot8(start, w[g], x + 4 * g);
    else start = dot4(start, w[g], x + 4 * g);
  }
  return start;
}

// Whole numbers: 32 columns at a time are summed in 32 bits, then scaled and added in float32.
template <int KIND, int M, int A = AHEAD>
inline void whole(const uint8_t* w, int groups, const Inputs& x, int first, F* acc) {
  constexpr long scale_bytes = FORMS[KIND].scales * LANES * 2, value_bytes = FORMS[KIND].group_bytes;
  constexpr bool offset = KIND == Q4M || KIND == Q5M, halves = KIND == Q6;
  constexpr int zero = offset ? 0 : 1 << (FORMS[KIND].bits - 1);
  for (int b = 0; b < groups; ++b) {
    B v[8];
    const int odd = b % 2;
    const uint8_t* pair = w + (b - odd) * (value_bytes + scale_bytes);
    const uint8_t* group = pair + 2 * scale_bytes + odd * value_bytes;
    const uint16_t* at = reinterpret_cast<const uint16_t*>(pair + odd * scale_bytes);
    for (int i = 0; i < value_bytes && M <= 4; i += 64) ask_ahead<A>(group + i);
    if (M <= 4 && (scale_bytes == 64 || !odd)) ask_ahead<A>(at);
    unpack<KIND>(group, v);
    const F scale = load_f16(at);
    F second{};
    if constexpr (offset || halves) second = load_f16(at + LANES);
    for (int m = 0; m < M; ++m) {
      const long row = first + m;
      const int8_t* xq = x.i8 + row * x.cols + GROUP * b;
      const float xs = x.scale[row * (x.cols / GROUP) + b];
      const int32_t* sums = x.sums + row * (x.cols / 16) + 2 * b;
      if constexpr (halves) {
        const I lower = whole_dot<KIND>(set_i(-zero * sums[0]), v, xq, 0, 4);
        const I upper = whole_dot<KIND>(set_i(-zero * sums[1]), v, xq, 4, 8);
        const F both = fma(to_f(upper), second, mul(to_f(lower), scale));
        acc[m] = fma(both, set(xs), acc[m]);
      } else {
        const int32_t all = sums[0] + sums[1];
        const I start = KIND == Q8 ? dot8_start(all) : set_i(-zero * all);
        const I made = whole_dot<KIND>(start, v, xq, 0, 8);
        if constexpr (offset) acc[m] = fma(second, set(xs * float(all)), acc[m]);
        acc[m] = fma(to_f(made), mul(scale, set(xs)), acc[m]);
      }
    }
  }
}

template <int KIND, int M>
void product_of(const Matrix& w, int b, const Inputs& x, int first, float* y, long ld) {
  F acc[M];
  for (int m = 0; m < M; ++m) acc[m] = set(0);
  const uint8_t* data = w.block(b);
  const long at = long(first) * x.cols;
  if constexpr (KIND == F32 || KIND == F16) {
    using T = std::conditional_t<KIND == F32, float, uint16_t>;
    const T* values = reinterpret_cast<const T*>(data);
    plain<M>(values, x.cols, x.f32 + at, x.cols, acc);
  } else if constexpr (KIND == BF16) {
    pairs<M>(reinterpret_cast<const uint16_t*>(data), x.cols, x.bf16 + at, x.cols, acc);
  } else {
    whole<KIND, M>(data, x.cols / GROUP, x, first, acc);
  }
  for (int m = 0; m < M; ++m) store(y + m * ld, acc[m]);
}

// Sums of one input over groups [g, g + some) of a block, added to acc; g is even.
template <int KIND, int A>
inline void groups_of(const uint8_t* block, int g, int some, const Inputs& x, long token, F* acc) {
  const long at = token * x.cols + long(GROUP) * g;
  const uint8_t* p = block + long(g) * (FORMS[KIND].group_bytes + FORMS[KIND].scales * LANES * 2);
  if constexpr (KIND == F32) {
    plain<1, A>(reinterpret_cast<const float*>(p), GROUP * some, x.f32 + at, 0, acc);
  } else if constexpr (KIND == F16) {
    plain<1, A>(reinterpret_cast<const uint16_t*>(p), GROUP * some, x.f32 + at, 0, acc);
  } else if constexpr (KIND == BF16) {
    pairs<1, A>(reinterpret_cast<const uint16_t*>(p), GROUP * some, x.bf16 + at, 0, acc);
  } else {
    Inputs part = x;
    part.i8 += at;
    part.scale += at / GROUP;
    part.sums += at / 16;
    whole<KIND, 1, A>(p, some, part, 0, acc);
  }
}

// One input times `blocks` blocks from `first` on, in as many parts side by side as the walk has streams.
template <int KIND, int WALK>
void walk_of(const Matrix& w, int first, int blocks, const Inputs& x, int token, float* y) {
  constexpr int STREAMS = WALKS[WALK].streams;
  const int part = (blocks + STREAMS - 1) / STREAMS, groups = x.cols / GROUP;
  for (int b = 0; b < part; ++b) {
    F acc[STREAMS];
    const uint8_t* data[STREAMS];
    const int streams = (blocks - b - 1) / part + 1;  // the last part may be shorter
    for (int s = 0; s < STREAMS; ++s) {
      acc[s] = set(0);
      data[s] = w.block(first + b + (s < streams ? s * part : 0));
    }
    for (int g = 0; g < groups; g += 2)
      for (int s = 0; s < STREAMS; ++s)
        if (s < streams) groups_of<KIND, WALKS[WALK].ahead>(data[s], g, groups - g < 2 ? 1 : 2, x, token, acc + s);
    for (int s = 0; s < streams; ++s) store(y + LANES * (b + s * part), acc[s]);
  }
}

template <int KIND>
void single_kind(const Matrix& w, int first, int blocks, const Inputs& x, int token, float* y, int walk) {
  if (walk) walk_of<KIND, 1>(w, first, blocks, x, token, y);
  else walk_of<KIND, 0>(w, first, blocks, x, token, y);
}

void single(const Matrix& w, int first, int blocks, const Inputs& x, int token, float* y, int walk) {
  switch (w.kind) {
    case F32: return single_kind<F32>(w, first, blocks, x, token, y, walk);
    case F16: return single_kind<F16>(w, first, blocks, x, token, y, walk);
    case BF16: return single_kind<BF16>(w, first, blocks, x, token, y, walk);
    case Q8: return single_kind<Q8>(w, first, blocks, x, token, y, walk);
    case Q4: return single_kind<Q4>(w, first, blocks, x, token, y, walk);
    case Q4M: return single_kind<Q4M>(w, first, blocks, x, token, y, walk);
    case Q5: return single_kind<Q5>(w, first, blocks, x, token, y, walk);
    case Q5M: return single_kind<Q5M>(w, first, blocks, x, token, y, walk);
    case Q6: return single_kind<Q6>(w, first, blocks, x, token, y, walk);
    case KINDS: return;
  }
}

template <int KIND>
void product_kind(const Matrix& w, int b, const Inputs& x, int first, int count, float* y, long ld) {
  int m = 0;
  for (; m + 8 <= count; m += 8) product_of<KIND, 8>(w, b, x, first + m, y + m * ld, ld);
  if (count - m >= 4) { product_of<KIND, 4>(w, b, x, first + m, y + m * ld, ld); m += 4; }
  if (count - m >= 2) { product_of<KIND, 2>(w, b, x, first + m, y + m * ld, ld); m += 2; }
  if (count - m >= 1) single_kind<KIND>(w, b, 1, x, first + m, y + m * ld, 0);
}

void product(const Matrix& w, int b, const Inputs& x, int first, int count, float* y, long ld) {
  switch (w.kind) {
    case F32: return product_kind<F32>(w, b, x, first, count, y, ld);
    case F16: return product_kind<F16>(w, b, x, first, count, y, ld);
    case BF16: return product_kind<BF16>(w, b, x, first, count, y, ld);
    case Q8: return product_kind<Q8>(w, b, x, first, count, y, ld);
    case Q4: return product_kind<Q4>(w, b, x, first, count, y, ld);
    case Q4M: return product_kind<Q4M>(w, b, x, first, count, y, ld);
    case Q5: return product_kind<Q5>(w, b, x, first, count, y, ld);
    case Q5M: return product_kind<Q5M>(w, b, x, first, count, y, ld);
    case Q6: return product_kind<Q6>(w, b, x, first, count, y, ld);
    case KINDS: return;
  }
}

// -- inputs ------------------------------------------------------------------------------------

// 32 numbers → bytes with one scale, the largest of them 127
inline void group_to_i8(const float* x, int8_t* q, float* scale, int32_t* sums) {
  const F a = load(x), b = load(x + 16);
  const float most = top(larger(size(a), size(b)));
  const F factor = set(most > 1e-30f ? 127.0f / most : 0.0f);  // beyond a float32's range below that
  *scale = most / 127.0f;
  sums[0] = sum_i(store_i8(q, nearest(mul(a, factor))));
  sums[1] = sum_i(store_i8(q + 16, nearest(mul(b, factor))));
}

void convert(const Inputs& x, int token, unsigned wanted) {
  const long cols = x.cols, at = token * cols;
  if (wanted & WANT_BF16)
    for (long k = 0; k < cols; k += 16) store_bf16(x.bf16 + at + k, load(x.f32 + at + k));
  if (wanted & WANT_I8)
    for (long b = 0; b < cols / GROUP; ++b)
      group_to_i8(x.f32 + at + GROUP * b, x.i8 + at + GROUP * b, x.scale + token * (cols / GROUP) + b,
                  x.sums + token * (cols / 16) + 2 * b);
}

void norm(const float* x, const float* gain, float eps, int n, float* y) {
  F squares = set(0);
  int i = 0;
  for (; i + 16 <= n; i += 16) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (int j = i; j < n; ++j) total += x[j] * x[j];
  const float factor = 1.0f / std::sqrt(total / float(n) + eps);
  for (i = 0; i + 16 <= n; i += 16) store(y + i, mul(mul(load(x + i), set(factor)), load(gain + i)));
  for (; i < n; ++i) y[i] = x[i] * factor * gain[i];
}

void keep_f16(const float* x, uint16_t* y, int n, long stride) {
  for (int i = 0; i < n; i += 16) {
    uint16_t part[16];
    store_f16(part, load(x + i));
    for (int j = 0; j < 16; ++j) y[(i + j) * stride] = part[j];
  }
}

// -- functions ---------------------------------------------------------------------------------

// e^x for x from about -87 to 88, beyond that the value at the bound. Cody and Waite's reduction,
// Taylor's series to x^6 on |x| <= ln(2)/2: relative error below 2e-7.
inline F exponential(F x) {
  x = smaller(larger(x, set(-87.0f)), set(88.0f));
  const F n = nearest(mul(x, set(1.44269504f)));
  F r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  F e = set(1.0f / 720);
  e = fma(e, r, set(1.0f / 120));
  e = fma(e, r, set(1.0f / 24));
  e = fma(e, r, set(1.0f / 6));
  e = fma(e, r, set(0.5f));
  e = fma(e, r, set(1.0f));
  e = fma(e, r, set(1.0f));
  return mul(e, power_of_two(n));
}

inline F sigmoid(F x) { return div(set(1.0f), add(set(1.0f), exponential(sub(set(0.0f), x)))); }

// tanh(x) = 2 sigmoid(2x) - 1
inline F cap_scores(F x, float cap) {
  const F s = sigmoid(mul(x, set(2.0f / cap)));
  return mul(fma(s, set(2.0f), set(-1.0f)), set(cap));
}

void gate(float* g, const float* u, int activation) {
  const F x = load(g);
  if (activation == SILU) return store(g, mul(mul(x, sigmoid(x)), load(u)));
  const F inner = mul(x, fma(mul(x, x), set(0.044715f), set(1.0f)));  // 1 + tanh(z) = 2 sigmoid(2z)
  store(g, mul(mul(x, sigmoid(mul(inner, set(1.5957691216f)))), load(u)));
}

}  // namespace
}  // namespace edge
