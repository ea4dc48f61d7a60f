// One pass: tokens in, logits out, in all threads.
//
//   embed | for each layer: norm, QKV | rotate, append | attention | output | norm, gate, up | down | head
//
// A bar is a barrier; the first is none when tokens are few. With few tokens every thread keeps the whole stream for itself and makes the
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
  if (tokens <= FEW) {
    const int near = int(std::max<size_t>(1, IN_CACHE / w.block_bytes()));
    return std::max(1, std::min(near, w.blocks() / (threads * 8)));
  }
  const int near = int(std::max<size_t>(2, IN_CACHE / w.block_bytes())) / 2 * 2;  // even: blocks go in pairs
  return std::min(near, std::max(2, w.blocks() / (threads * 4) / 2 * 2));
}

void product_blocks(const Ops& ops, const Matrix& w, int first, int end, const Inputs& x, int tokens, float* y, long ld,
                    int walk) {
  if (by_many(ops, w.kind, tokens)) {
    ops.many(w, first, end - first, x, tokens, y, ld);
  } else if (tokens == 1) {
    ops.single(w, first, end - first, x, 0, y, walk);
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

// in.f32 of `token`, zero behind `cols`, and the other forms that are wanted
void Engine::to_inputs(Inputs& in, int token, int cols, unsigned wanted) {
  float* row = in.f32 + long(token) * in.cols;
  std::fill(row + cols, row + in.cols, 0.0f);
  ops_->convert(in, token, wanted);
}

void Engine::embed(int thread) {
  Copy& mine = copy(thread);
  for_tokens(thread, [&](int t) {
    float* x = mine.x + t * ld_c_;
    unpack_row(embedding_, ids_[t], x);
    for (int i = 0; i < spec_.d_model; ++i) x[i] *= spec_.embedding_scale;
  });
}

// The stream takes what was made last; its norm becomes the next input.
void Engine::settle(int thread, const float* made, long ld, const float* after, const float* gain, unsigned wanted) {
  Copy& mine = copy(thread);
  const int c = spec_.d_model;
  for_tokens(thread, [&](int t) {
    float *x = mine.x + t * ld_c_, *in = mine.of_stream.f32 + long(t) * mine.of_stream.cols;
    if (made) {
      const float* add = made + t * ld;
      if (after) {
        ops_->norm(add, after, spec_.eps, c, in);
        add = in;
      }
      for (int i = 0; i < c; ++i) x[i] += spec_.residual_scale * add[i];
    }
    ops_->norm(x, gain, spec_.eps, c, in);
    to_inputs(mine.of_stream, t, c, wanted);
  });
}

// Several matrices times the same inputs.
void Engine::products(int thread, const Inputs& in, const Job* jobs, int count) {
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
    product_blocks(*ops_, w, first, end, in, n_, jobs[j].out + first * LANES, jobs[j].ld, walk_);
  }
  team_.barrier();
}

// activation(gate x) * up x, a few blocks of both at a time; then the inputs of the last product.
void Engine::gated(int thread, const Layer& layer) {
  const Matrix &gate = layer.gate, &up = layer.up;
  const Inputs& in = copy(thread).of_stream;
  const int chunk = std::min(BESIDE, std::max(1, chunk_of(gate, n_, team_.active()) / 2));
  float* beside = beside_ + size_t(thread) * most_ * BESIDE * LANES;
  for (int unit; (unit = team_.take(thread, units_of(gate, chunk))) >= 0;) {
    const int first = unit * chunk, end = std::min(gate.blocks(), first + chunk);
    constexpr long ld = BESIDE * LANES;
    float* y = hidden_ + first * LANES;
    product_blocks(*ops_, gate, first, end, in, n_, y, ld_ff_, walk_);
    product_blocks(*ops_, up, first, end, in, n_, beside, ld, walk_);
    for (int t = 0; t < n_; ++t)
      for (int b = 0; b < end - first; ++b)
        ops_->gate(y + t * ld_ff_ + b * LANES, beside + t * ld + b * LANES, spec_.activation);
  }
  team_.barrier();
  mark(thread, LB_AT_GATE_UP);
  Inputs& next = copy(thread).of_mlp;
  for_tokens(thread, [&](int t) {
    std::copy_n(hidden_ + t * ld_ff_, spec_.d_ff, next.f32 + long(t) * next.cols);
    to_inputs(next, t, spec_.d_ff, wants({&layer.down}));
  });
}

// Logits of each token, or of the last of each row, and the likeliest of each row.
void Engine::head(int thread) {
  const Matrix& w = spec_.tied ? embedding_ : head_;
  const Inputs& in = copy(thread).of_stream;
  const int v = spec_.vocab_size, stride = every_ ? 1 : per_row_, rows = n_ / per_row_;
  const int chunk = chunk_of(w, 1, team_.active());
  float* best_at = best_at_.data() + size_t(thread) * rows;
  int32_t* best = best_.data() + size_t(thread) * rows;
  float* y = head_out_.data() + head_out_.size() / team_.size() * thread;
  for (int unit; (unit = team_.take(thread, units_of(w, chunk))) >= 0;)
    for (int t = stride - 1; t < n_; t += stride) {
      const int first = unit * chunk, row = t / per_row_, blocks = std::min(chunk, w.blocks() - first);
      const int lanes = std::min(blocks * LANES, v - first * LANES);
      ops_->single(w, first, blocks, in, t, y, walk_);
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
    products(thread, copy(thread).of_stream, qkv, 3);
    mark(thread, LB_AT_QKV);
    place(thread, layer, number);
    mark(thread, LB_AT_PLACE);
    attend(thread, layer, number);
    mark(thread, LB_AT_ATTEND);
    gather(thread, wants({&layer.o}));
    mark(thread, LB_AT_INPUTS);
    const Job o = {&layer.o, made_, ld_c_};
    products(thread, copy(thread).of_heads, &o, 1);
    mark(thread, LB_AT_O);
    settle(thread, made_, ld_c_, layer.after_attention_norm, layer.mlp_norm, wants({&layer.gate, &layer.up}));
    mark(thread, LB_AT_INPUTS);
    gated(thread, layer);
    mark(thread, LB_AT_INPUTS);
    const Job down = {&layer.down, made_, ld_c_};
    products(thread, copy(thread).of_mlp, &down, 1);
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
