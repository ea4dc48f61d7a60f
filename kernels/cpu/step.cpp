// One pass: tokens in, logits out, in all threads.
//
//   embed | for each layer: norm, QKV | rotate, append | attention | output | norm, gate, up | down | head
//
// A bar is a barrier. With few tokens every thread keeps the whole stream for itself and makes the
// same norms and conversions: that costs less than waiting for another to do it. With many, tokens
// are shared out. What is written by one thread only never depends on how many there are.
#include "pack.h"
#include "step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace edge {
namespace {

constexpr size_t IN_CACHE = size_t(256) << 10;  // bytes of weights that stay near while tokens pass by



double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// y rows += bias, for 16 rows of a matrix
void add_bias(const Matrix& w, int b, int count, float* y, long ld) {
  if (!w.bias) return;
  for (int t = 0; t < count; ++t)
    for (int i = 0; i < LANES; ++i) y[t * ld + i] += w.bias[b * LANES + i];
}

}  // namespace

int chunk_of(const Matrix& w, int tokens, int threads) {
  if (tokens <= FEW) return std::max(1, w.blocks() / (threads * 8));
  const int near = int(std::max<size_t>(2, IN_CACHE / w.block_bytes())) / 2 * 2;  // even: blocks go in pairs
  return std::min(near, std::max(2, w.blocks() / (threads * 4) / 2 * 2));
}

void product_blocks(const Ops& ops, const Matrix& w, int first, int end, const Inputs& x, int tokens, float* y, long ld) {
  if (by_many(ops, w.kind, tokens)) {
    ops.many(w, first, end - first, x, tokens, y, ld);
  } else if (tokens == 1) {
    ops.single(w, first, end - first, x, 0, y);
  } else {
    for (int t = 0; t < tokens; t += TILE)
      for (int b = first; b < end; ++b)
        ops.product(w, b, x, t, std::min(TILE, tokens - t), y + t * ld + (b - first) * LANES, ld);
  }
  for (int b = first; b < end; ++b) add_bias(w, b, tokens, y + (b - first) * LANES, ld);
}

unsigned Engine::wants(std::initializer_list<const Matrix*> list) const {
  unsigned all = 0;
  for (const Matrix* w : list) all |= wanted_of(*ops_, w->kind, n_);
  return all;
}

void Engine::mark(int thread, int part) {
  if (!timing || thread) return;
  const double at = now();
  seconds[part] += at - marked_;
  marked_ = at;
}

// `each(token)` for all tokens in every thread, or for each token in one of them.
template <class Each>
void Engine::for_tokens(int thread, Each each) {
  if (alone_) {
    for (int t = 0; t < n_; ++t) each(t);
    return;
  }
  for (int t; (t = team_.take(thread, n_)) >= 0;) each(t);
  team_.barrier();
}

// in.f32 of `token`, zero behind `cols`, and the other forms that are wanted
void Engine::to_inputs(Inputs& in, int token, int cols, unsigned wanted) {
  float* row = in.f32 + long(token) * in.cols;
  std::fill(row + cols, row + in.cols, 0.0f);
  ops_->convert(in, token, wanted);
}

void Engine::embed(int thread) {
  Copy& mine = copies_[alone_ ? thread : 0];
  for_tokens(thread, [&](int t) {
    float* x = mine.x + t * ld_c_;
    unpack_row(embedding_, ids_[t], x);
    for (int i = 0; i < spec_.d_model; ++i) x[i] *= spec_.embedding_scale;
  });
}

// The stream takes what was made last; its norm becomes the next input.
void Engine::settle(int thread, const float* made, long ld, const float* after, const float* gain, unsigned wanted) {
  Copy& mine = copies_[alone_ ? thread : 0];
  const int c = spec_.d_model;
  mine.in.cols = int(padded(c, GROUP));
  for_tokens(thread, [&](int t) {
    float *x = mine.x + t * ld_c_, *in = mine.in.f32 + long(t) * mine.in.cols;
    if (made) {
      const float* add = made + t * ld;
      if (after) {
        ops_->norm(add, after, spec_.eps, c, in);
        add = in;
      }
      for (int i = 0; i < c; ++i) x[i] += spec_.residual_scale * add[i];
    }
    ops_->norm(x, gain, spec_.eps, c, in);
    to_inputs(mine.in, t, c, wanted);
  });
}

// Several matrices times the same inputs.
void Engine::products(int thread, const Job* jobs, int count) {
  const Inputs& in = inputs(thread);
  int units[3], chunks[3], all = 0;
  for (int j = 0; j < count; ++j) {
    chunks[j] = chunk_of(*jobs[j].w, n_, team_.active());
    all += units[j] = units_of(*jobs[j].w, chunks[j]);
  }
  for (int unit; (unit = team_.take(thread, all)) >= 0;) {
    int j = 0;
    while (unit >= units[j]) unit -= units[j++];
    const Matrix& w = *jobs[j].w;
    const int first = unit * chunks[j], end = std::min(w.blocks(), first + chunks[j]);
    product_blocks(*ops_, w, first, end, in, n_, jobs[j].out + first * LANES, jobs[j].ld);
  }
  team_.barrier();
}

// Cosines and sines of `count` positions from `first` on. Source: Su et al., arXiv 2104.09864.
void Engine::turn(int first, int count, bool far) {
  const float* radians = far ? rope_far_ : rope_near_;
  const int half = spec_.rope_dims / 2;
  cos_.resize(size_t(count) * half);
  sin_.resize(cos_.size());
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < half; ++j) {
      const float angle = float(first + i) * radians[j];
      cos_[size_t(i) * half + j] = std::cos(angle) * spec_.rope_stretch;
      sin_[size_t(i) * half + j] = std::sin(angle) * spec_.rope_stretch;
    }
}

namespace {

// x (D,) → y (D,), its first 2 * half numbers turned in pairs, all of it times `scale`
void rotate(const float* x, const float* cos, const float* sin, int half, bool neighbours, int dim, float scale,
            float* y) {
  const int step = neighbours ? 2 : 1, apart = neighbours ? 1 : half;
  for (int j = 0; j < half; ++j) {
    const float a = x[step * j], b = x[step * j + apart];
    y[step * j] = (a * cos[j] - b * sin[j]) * scale;
    y[step * j + apart] = (b * cos[j] + a * sin[j]) * scale;
  }
  for (int j = 2 * half; j < dim; ++j) y[j] = x[j] * scale;
}

}  // namespace

// Queries, keys turned to their positions; keys and values appended to the cache.
void Engine::place(int thread, const Layer& layer, int number) {
  const int d = spec_.head_dim, half = spec_.rope_dims / 2, kv = spec_.n_kv_heads;
  for (int unit; (unit = team_.take(thread, n_ * kv)) >= 0;) {
    const int t = unit / kv, g = unit % kv, i = t % per_row_, row = first_row_ + t / per_row_, at = used_ + i;
    const float *cos = cos_.data() + size_t(i) * half, *sin = sin_.data() + size_t(i) * half;
    for (int h = g * group_; h < (g + 1) * group_; ++h)
      rotate(q_ + t * ld_q_ + h * d, cos, sin, half, spec_.rope_neighbours, d, layer.scale,
             turned_ + (size_t(t) * spec_.n_heads + h) * dim_);
    float key[MAX_HEAD + 16] = {}, value[MAX_HEAD + 16] = {};
    rotate(k_ + t * ld_kv_ + g * d, cos, sin, half, spec_.rope_neighbours, d, 1, key);
    std::copy_n(v_ + t * ld_kv_ + g * d, d, value);
    const size_t to_k = (size_t(g) * room_ + at / LANES * LANES) * dim_ + at % LANES;  // [G][room/16][dim][16]
    char *ks = keys(number, row), *vs = values(number, row);                           // [G][dim/16][room][16]
    for (int j = 0; j < dim_; j += LANES) {
      const size_t to_v = (size_t(g) * dim_ + j) * room_ + size_t(at) * LANES;
      if (kv_item() == 2) {
        ops_->keep_f16(key + j, reinterpret_cast<uint16_t*>(ks) + to_k + size_t(j) * LANES, LANES, LANES);
        ops_->keep_f16(value + j, reinterpret_cast<uint16_t*>(vs) + to_v, LANES, 1);
      } else {
        for (int l = 0; l < LANES; ++l) reinterpret_cast<float*>(ks)[to_k + size_t(j + l) * LANES] = key[j + l];
        std::copy_n(value + j, LANES, reinterpret_cast<float*>(vs) + to_v);
      }
    }
  }
  team_.barrier();
}

// Up to TILE queries of a key head, counted token by token, over all their keys or one split of them.
void Engine::attend_unit(const Layer& layer, int number, int unit) {
  const int parts = splits(), kv = spec_.n_kv_heads, heads = spec_.n_heads;
  const int part = unit % parts, tile = unit / parts % tiles(), g = unit / parts / tiles() % kv;
  const int own = unit / parts / tiles() / kv;  // row within this pass
  const int first = tile * TILE, count = std::min(TILE, per_row_ * group_ - first);
  alignas(64) float q[TILE * MAX_HEAD], out[TILE * MAX_HEAD], top[TILE], sum[TILE];
  int from[TILE], to[TILE], low = room_, high = 0;
  for (int m = 0; m < count; ++m) {
    const int i = (first + m) / group_, h = g * group_ + (first + m) % group_;
    to[m] = used_ + i + 1;
    from[m] = layer.window ? std::max(0, to[m] - layer.window) : 0;
    if (parts > 1) {
      from[m] = std::max(from[m], part * LB_SPLIT);
      to[m] = std::min(to[m], (part + 1) * LB_SPLIT);
    }
    low = std::min(low, from[m]);
    high = std::max(high, to[m]);
    const int t = own * per_row_ + i;
    std::copy_n(turned_ + (size_t(t) * heads + h) * dim_, dim_, q + m * dim_);
  }
  const size_t head_bytes = size_t(room_) * dim_ * kv_item() * g;
  const int row = first_row_ + own;
  ops_->attend({kv_item() == 4, dim_, room_, keys(number, row) + head_bytes, values(number, row) + head_bytes,
                low / LANES * LANES, high, count, from, to, q, layer.cap, out, top, sum});
  for (int m = 0; m < count; ++m) {
    const int i = (first + m) / group_, h = g * group_ + (first + m) % group_;
    const size_t at = (size_t(own * per_row_ + i) * heads + h) * parts + part;
    std::copy_n(out + m * dim_, dim_, mixed_ + at * dim_);
    tops_[at] = top[m];
    sums_[at] = sum[m];
  }
}

void Engine::attend(int thread, const Layer& layer, int number) {
  const int units = (n_ / per_row_) * spec_.n_kv_heads * tiles() * splits();
  for (int unit; (unit = team_.take(thread, units)) >= 0;) attend_unit(layer, number, unit);
  team_.barrier();
}

// The heads' sums, their splits put together, as the input of the output projection.
void Engine::gather(int thread, unsigned wanted) {
  Inputs& in = copies_[alone_ ? thread : 0].in;
  const int d = spec_.head_dim, heads = spec_.n_heads, parts = splits();
  in.cols = int(padded(long(heads) * d, GROUP));
  for_tokens(thread, [&](int t) {
    for (int h = 0; h < heads; ++h) {
      float* out = in.f32 + long(t) * in.cols + h * d;
      const size_t at = (size_t(t) * heads + h) * parts;
      float top = tops_[at], total = 0;
      for (int p = 1; p < parts; ++p) top = std::max(top, tops_[at + p]);
      std::fill_n(out, d, 0.0f);
      for (int p = 0; p < parts; ++p) {
        if (sums_[at + p] == 0) continue;  // a split of which this query sees nothing
        const float share = parts == 1 ? 1 : std::exp(tops_[at + p] - top);
        total += sums_[at + p] * share;
        const float* from = mixed_ + (at + p) * dim_;
        for (int j = 0; j < d; ++j) out[j] += from[j] * share;
      }
      for (int j = 0; j < d; ++j) out[j] /= total;
    }
    to_inputs(in, t, heads * d, wanted);
  });
}

// activation(gate x) * up x, a few blocks of both at a time; then the inputs of the last product.
void Engine::gated(int thread, const Layer& layer) {
  const Matrix &gate = layer.gate, &up = layer.up;
  const Inputs& in = inputs(thread);
  const int chunk = std::min(BESIDE, std::max(1, chunk_of(gate, n_, team_.active()) / 2));
  float* beside = beside_ + size_t(thread) * most_ * BESIDE * LANES;
  for (int unit; (unit = team_.take(thread, units_of(gate, chunk))) >= 0;) {
    const int first = unit * chunk, end = std::min(gate.blocks(), first + chunk);
    constexpr long ld = BESIDE * LANES;
    float* y = hidden_ + first * LANES;
    product_blocks(*ops_, gate, first, end, in, n_, y, ld_ff_);
    product_blocks(*ops_, up, first, end, in, n_, beside, ld);
    for (int t = 0; t < n_; ++t)
      for (int b = 0; b < end - first; ++b)
        ops_->gate(y + t * ld_ff_ + b * LANES, beside + t * ld + b * LANES, spec_.activation);
  }
  team_.barrier();
  mark(thread, LB_AT_GATE_UP);
  Inputs& next = copies_[alone_ ? thread : 0].in;
  next.cols = int(padded(spec_.d_ff, GROUP));
  for_tokens(thread, [&](int t) {
    std::copy_n(hidden_ + t * ld_ff_, spec_.d_ff, next.f32 + long(t) * next.cols);
    to_inputs(next, t, spec_.d_ff, wants({&layer.down}));
  });
}

// Logits of each token, or of the last of each row, and the likeliest of each row.
void Engine::head(int thread) {
  const Matrix& w = spec_.tied ? embedding_ : head_;
  const Inputs& in = inputs(thread);
  const int v = spec_.vocab_size, stride = every_ ? 1 : per_row_, rows = n_ / per_row_;
  const int chunk = std::max(1, w.blocks() / (team_.active() * 16));
  float* best_at = best_at_.data() + size_t(thread) * rows;
  int32_t* best = best_.data() + size_t(thread) * rows;
  std::vector<float> y(size_t(chunk) * LANES);
  for (int unit; (unit = team_.take(thread, units_of(w, chunk))) >= 0;)
    for (int t = stride - 1; t < n_; t += stride) {
      const int first = unit * chunk, row = t / per_row_, blocks = std::min(chunk, w.blocks() - first);
      const int lanes = std::min(blocks * LANES, v - first * LANES);
      ops_->single(w, first, blocks, in, t, y.data());
      float* out = logits_ ? logits_ + size_t(t / stride) * v + size_t(first) * LANES : nullptr;
      const bool last = t % per_row_ == per_row_ - 1;
      for (int i = 0; i < lanes; ++i) {
        const float logit = y[i] * spec_.logit_scale;
        if (out) out[i] = spec_.logit_cap > 0 ? spec_.logit_cap * std::tanh(logit / spec_.logit_cap) : logit;
        const int id = first * LANES + i;
        if (last && (logit > best_at[row] || (logit == best_at[row] && id < best[row]))) {
          best_at[row] = logit;
          best[row] = id;
        }
      }
    }
  team_.barrier();
}

void Engine::pass(int thread) {
  if (!thread) marked_ = now();
  embed(thread);
  mark(thread, LB_AT_EMBED);
  const float *made = nullptr, *after = nullptr;
  for (int number = 0; number < spec_.n_layers; ++number) {
    const Layer& layer = layers_[number];
    settle(thread, made, ld_c_, after, layer.attention_norm, wants({&layer.q, &layer.k, &layer.v}));
    mark(thread, LB_AT_INPUTS);
    const Job qkv[] = {{&layer.q, q_, ld_q_}, {&layer.k, k_, ld_kv_}, {&layer.v, v_, ld_kv_}};
    products(thread, qkv, 3);
    mark(thread, LB_AT_QKV);
    place(thread, layer, number);
    mark(thread, LB_AT_PLACE);
    attend(thread, layer, number);
    mark(thread, LB_AT_ATTEND);
    gather(thread, wants({&layer.o}));
    mark(thread, LB_AT_INPUTS);
    const Job o = {&layer.o, made_, ld_c_};
    products(thread, &o, 1);
    mark(thread, LB_AT_O);
    settle(thread, made_, ld_c_, layer.after_attention_norm, layer.mlp_norm, wants({&layer.gate, &layer.up}));
    mark(thread, LB_AT_INPUTS);
    gated(thread, layer);
    mark(thread, LB_AT_INPUTS);
    const Job down = {&layer.down, made_, ld_c_};
    products(thread, &down, 1);
    mark(thread, LB_AT_DOWN);
    made = made_;
    after = layer.after_mlp_norm;
  }
  const bool wanted = every_ || used_ + per_row_ == asked_;
  if (wanted && (best_wanted_ || logits_)) {
    settle(thread, made, ld_c_, after, norm_, wanted_by((spec_.tied ? embedding_ : head_).kind));
    mark(thread, LB_AT_INPUTS);
    head(thread);
    mark(thread, LB_AT_HEAD);
  }
}

}  // namespace edge
