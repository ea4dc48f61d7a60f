// Attention of a few queries over the keys of one head, in pieces whose scores stay near (isa.h:
// Attend). Keys and values lie as the weights of a product do, so both halves are products: of
// queries with keys in blocks of 16 positions, and of the softened scores with values.
//
// Source: Dao et al., FlashAttention, arXiv 2205.14135; Milakov and Gimelshein, arXiv 1805.02867.
#include "ops.inl"

namespace edge {
namespace {

// One piece's scores of query m → weights, with what was summed before brought to the same top.
inline void soften(const Attend& a, int m, float* scores, int start, int n) {
  const int padded = (n + 15) / 16 * 16;
  for (int i = 0; a.cap > 0 && i < padded; i += 16) store(scores + i, cap_scores(load(scores + i), a.cap));
  const int from = a.from[m] - start, to = a.to[m] - start;
  for (int i = 0; i < from && i < padded; ++i) scores[i] = -INFINITY;
  for (int i = to > 0 ? to : 0; i < padded; ++i) scores[i] = -INFINITY;
  F most = load(scores);
  for (int i = 16; i < padded; i += 16) most = larger(most, load(scores + i));
  const float here = top(most), before = a.top[m], now = here > before ? here : before;
  if (now == -INFINITY) {  // it sees none of these keys, nor any before
    for (int i = 0; i < padded; ++i) scores[i] = 0;
    return;
  }
  F total = set(0);
  for (int i = 0; i < padded; i += 16) {
    const F raw = load(scores + i);
    float kept[16];
    store(kept, raw);
    F e = exponential(sub(raw, set(now)));
    if (from > i || to < i + 16) {  // what is not seen weighs nothing at all
      float some[16];
      store(some, e);
      for (int j = 0; j < 16; ++j) some[j] = kept[j] == -INFINITY ? 0 : some[j];
      e = load(some);
    }
    store(scores + i, e);
    total = add(total, e);
  }
  const float shrink = before == -INFINITY ? 0 : std::exp(before - now);
  a.sum[m] = a.sum[m] * shrink + sum(total);
  a.top[m] = now;
  if (shrink != 1)
    for (int d = 0; d < a.dim; d += 16) {
      float* at = a.out + long(m) * a.dim + d;
      store(at, mul(load(at), set(shrink)));
    }
}

template <int M, class T>
void attend_piece(const Attend& a, int start, int n) {
  float scores[M * PIECE];
  const T* keys = static_cast<const T*>(a.keys) + long(start) * a.dim;
  for (int i = 0; i < n; i += 16) {
    F acc[M];
    for (int m = 0; m < M; ++m) acc[m] = set(0);
    plain<M>(keys + long(i) * a.dim, a.dim, a.q, a.dim, acc);
    for (int m = 0; m < M; ++m) store(scores + m * PIECE + i, acc[m]);
  }
  for (int m = 0; m < M; ++m) soften(a, m, scores + m * PIECE, start, n);
  for (int d = 0; d < a.dim; d += 16) {
    const T* values = static_cast<const T*>(a.values) + long(d) * a.room + 16L * start;
    F acc[M];
    for (int m = 0; m < M; ++m) acc[m] = load(a.out + long(m) * a.dim + d);
    plain<M>(values, n, scores, PIECE, acc);
    for (int m = 0; m < M; ++m) store(a.out + long(m) * a.dim + d, acc[m]);
  }
}

template <int M, class T>
void attend_keys(const Attend& a) {
  for (int start = a.first; start < a.last; start += PIECE)
    attend_piece<M, T>(a, start, a.last - start < PIECE ? a.last - start : PIECE);
}

template <class T>
void attend_of(const Attend& a) {
  switch (a.count) {
    case 1: return attend_keys<1, T>(a);
    case 2: return attend_keys<2, T>(a);
    case 3: return attend_keys<3, T>(a);
    case 4: return attend_keys<4, T>(a);
    case 5: return attend_keys<5, T>(a);
    case 6: return attend_keys<6, T>(a);
    case 7: return attend_keys<7, T>(a);
    case 8: return attend_keys<8, T>(a);
  }
}

void attend(const Attend& a) {
  for (int m = 0; m < a.count; ++m) {
    a.top[m] = -INFINITY;
    a.sum[m] = 0;
    for (int d = 0; d < a.dim; d += 16) store(a.out + long(m) * a.dim + d, set(0));
  }
  if (a.wide) attend_of<float>(a);
  else attend_of<uint16_t>(a);
}

}  // namespace
}  // namespace edge
