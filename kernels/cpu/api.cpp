// The door to an engine: checks what comes in.
#include <algorithm>

#include "door.h"
#include "step.h"

using namespace edge;

struct lb_engine {
  Engine engine;
  const Ops* ops;
};

namespace {

void check_spec(const lb_spec& s) {
  for (int n : {s.n_layers, s.n_heads, s.n_kv_heads, s.head_dim, s.d_model, s.d_ff, s.vocab_size})
    need(n > 0, "a size of the model is not positive");
  need(s.n_heads % s.n_kv_heads == 0, "query heads are no multiple of key heads");
  need(s.head_dim <= MAX_HEAD, "a head's size is above " + std::to_string(MAX_HEAD));
  need(s.rope_dims % 2 == 0 && s.rope_dims >= 0 && s.rope_dims <= s.head_dim,
       "rope_dims " + std::to_string(s.rope_dims) + " is no even number from 0 to a head's size");
  need(s.kv_type == LB_KV_F16 || s.kv_type == LB_KV_F32,
       "kv_type " + std::to_string(s.kv_type) + " is neither LB_KV_F16 nor LB_KV_F32");
  need(s.activation == SILU || s.activation == GELU_TANH,
       "activation " + std::to_string(s.activation) + " is neither 0 (SiLU) nor 1 (GELU)");
}

}  // namespace

extern "C" {

int lb_open(const lb_spec* spec, const char* isa, int threads, size_t weight_bytes, lb_engine** out) {
  return guarded([&] {
    check_spec(*spec);
    check_threads(threads);
    const Ops* ops = ops_for(isa);
    *out = new lb_engine{Engine(*spec, ops, threads, weight_bytes), ops};
  });
}

const char* lb_isa(const lb_engine* e) { return e->ops->name; }

int lb_matrix(lb_engine* e, int slot, int layer, int type, int rows, int cols, const void* raw) {
  return guarded([&] { e->engine.set_matrix(slot, layer, type, rows, cols, raw); });
}

int lb_vector(lb_engine* e, int slot, int layer, int count, const float* values) {
  return guarded([&] { e->engine.set_vector(slot, layer, count, values); });
}

int lb_scores(lb_engine* e, int layer, float scale, float cap, int window) {
  return guarded([&] {
    need(window >= 0, "a window of " + std::to_string(window) + " keys");
    e->engine.set_scores(layer, scale, cap, window);
  });
}

int lb_ready(lb_engine* e) {
  return guarded([&] { e->engine.check_whole(); });
}

int lb_begin(lb_engine* e, int rows, int tokens) {
  return guarded([&] {
    need(rows >= 1 && tokens >= 1, "a cache needs at least one row and one token");
    need(tokens <= 1 << 30, "a cache of so many tokens");
    e->engine.begin(rows, tokens);
  });
}

int lb_forward(lb_engine* e, const int32_t* ids, int rows, int count, int every, int32_t* best, float* logits) {
  return guarded([&] {
    need(e->engine.whole(), "forward before all of the model is there (lb_ready)");
    need(count >= 1, "no tokens");
    need(rows == e->engine.rows(), "another number of rows than the cache has");
    need(count <= e->engine.room() - e->engine.used(),
         std::to_string(long(e->engine.used()) + count) + " tokens do not fit a cache of " +
             std::to_string(e->engine.room()));
    for (long i = 0; i < long(rows) * count; ++i)
      need(ids[i] >= 0 && ids[i] < e->engine.spec().vocab_size,
           "token id " + std::to_string(ids[i]) + " lies outside the vocabulary of " +
               std::to_string(e->engine.spec().vocab_size));
    e->engine.forward(ids, rows, count, every, best, logits);
  });
}

void lb_timing(lb_engine* e, int on) {
  e->engine.timing = on;
  std::fill_n(e->engine.seconds, LB_PARTS, 0.0);
}

void lb_seconds(const lb_engine* e, double seconds[LB_PARTS]) { std::copy_n(e->engine.seconds, LB_PARTS, seconds); }

void lb_close(lb_engine* e) { delete e; }

}  // extern "C"
