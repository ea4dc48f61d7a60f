// What an engine holds: tensors taken over, room for tokens, and how a call becomes passes. A pass
// itself is in step.cpp.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "pack.h"
#include "step.h"

namespace edge {
namespace {

constexpr size_t BESIDES = 4096;  // bytes besides their numbers that the vectors of a layer may need on their shelf

// Bytes of all vectors: norms, biases and rotations.
size_t small_bytes(const lb_spec& s) {
  const size_t layer = 4 * size_t(s.d_model) + 2 * size_t(s.d_ff) + 2 * size_t(s.d_model) +
                       size_t(s.head_dim) * (s.n_heads + 2 * s.n_kv_heads);
  return (layer * s.n_layers + s.d_model + 2 * s.head_dim) * sizeof(float) + BESIDES * (size_t(s.n_layers) + 1);
}

const char* const MATRICES[] = {"q", "k", "v", "o", "gate", "up", "down", "embedding", "head"};

[[noreturn]] void bad(const std::string& what) { throw std::invalid_argument(what); }

struct Packing {
  Team* team;
  const Matrix* w;
  uint8_t* data;
  int type;
  const void* raw;
  std::atomic<bool> finite{true};
};

void pack_in(void* context, int thread) {
  Packing& p = *static_cast<Packing*>(context);
  for (int b; (b = p.team->take(thread, p.w->blocks())) >= 0;)
    if (!pack_blocks(*p.w, p.data, p.type, p.raw, b, b + 1)) p.finite = false;
}

}  // namespace

bool pack(Team& team, Matrix& w, Shelf& shelf, int type, int rows, int cols, const void* raw) {
  w.kind = Kind(kind_of(type));
  w.rows = rows;
  w.cols = cols;
  uint8_t* data = shelf.take<uint8_t>(w.bytes());
  w.data = data;
  Packing packing{&team, &w, data, type, raw};
  team.run(pack_in, &packing);
  return packing.finite;
}

Engine::Engine(const lb_spec& spec, const Ops* ops, int threads, size_t weight_bytes)
    : spec_(spec), ops_(ops), team_(threads), weights_(weight_bytes), small_(small_bytes(spec)),
      layers_(spec.n_layers), dim_(int(padded(spec.head_dim, LANES))), group_(spec.n_heads / spec.n_kv_heads),
      ld_q_(padded(long(spec.n_heads) * spec.head_dim, LANES)),
      ld_kv_(padded(long(spec.n_kv_heads) * spec.head_dim, LANES)), ld_c_(padded(spec.d_model, LANES)),
      ld_ff_(padded(spec.d_ff, LANES)) {}

Matrix& Engine::matrix(int slot, int layer) {
  if (slot == LB_EMBEDDING) return embedding_;
  if (slot == LB_HEAD) return head_;
  if (layer < 0 || layer >= spec_.n_layers) bad("no such layer");
  Layer& l = layers_[layer];
  Matrix* const all[] = {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down};
  if (slot < 0 || slot > LB_DOWN) bad("no such matrix");
  return *all[slot];
}

void Engine::set_matrix(int slot, int layer, int type, int rows, int cols, const void* raw) {
  Matrix& w = matrix(slot, layer);
  if (slot < 0 || slot > LB_HEAD) bad("no such matrix");
  const int heads = spec_.n_heads * spec_.head_dim, kv = spec_.n_kv_heads * spec_.head_dim;
  const int c = spec_.d_model, ff = spec_.d_ff, v = spec_.vocab_size;
  const int shapes[][2] = {{heads, c}, {kv, c}, {kv, c}, {c, heads}, {ff, c}, {ff, c}, {c, ff}, {v, c}, {v, c}};
  const std::string name = MATRICES[slot];
  if (rows != shapes[slot][0] || cols != shapes[slot][1])
    bad("matrix " + name + " is " + std::to_string(rows) + " x " + std::to_string(cols) + ", not " +
        std::to_string(shapes[slot][0]) + " x " + std::to_string(shapes[slot][1]));
  if (!can_hold(type, cols)) bad("matrix " + name + " has a type, or rows, that cannot be held");
  if (!pack(team_, w, weights_, type, rows, cols, raw))
    throw std::domain_error("it holds what is no finite number, or scales above what float16 holds");
}

const float** Engine::vector(int slot, int layer) {
  if (slot == LB_NORM) return &norm_;
  if (slot == LB_ROPE_NEAR) return &rope_near_;
  if (slot == LB_ROPE_FAR) return &rope_far_;
  if (slot >= LB_BIAS && slot <= LB_BIAS + LB_DOWN) return &matrix(slot - LB_BIAS, layer).bias;
  if (layer < 0 || layer >= spec_.n_layers || slot < 0 || slot > LB_AFTER_MLP_NORM) bad("no such vector");
  Layer& l = layers_[layer];
  const float** const all[] = {&l.attention_norm, &l.mlp_norm, &l.after_attention_norm, &l.after_mlp_norm};
  return all[slot];
}

int Engine::length_of(int slot, int layer) {
  if (slot == LB_ROPE_NEAR || slot == LB_ROPE_FAR) return spec_.rope_dims / 2;
  if (slot < LB_BIAS) return spec_.d_model;
  return matrix(slot - LB_BIAS, layer).rows;
}

void Engine::set_vector(int slot, int layer, int count, const float* values) {
  const float** to = vector(slot, layer);
  if (count != length_of(slot, layer))
    bad("a vector of " + std::to_string(count) + ", not " + std::to_string(length_of(slot, layer)));
  for (int i = 0; i < count; ++i)
    if (!std::isfinite(values[i])) throw std::domain_error("it holds what is no finite number");
  float* own = small_.take<float>(padded(count, LANES));
  std::copy_n(values, count, own);
  *to = own;
}

void Engine::set_scores(int layer, float scale, float cap, int window) {
  if (layer < 0 || layer >= spec_.n_layers) bad("no such layer");
  Layer& l = layers_[layer];
  l.scale = scale;
  l.cap = cap;
  l.window = window;
}

void Engine::check_whole() {
  for (int n = 0; n < spec_.n_layers; ++n) {
    const Layer& l = layers_[n];
    const Matrix* const all[] = {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down};
    for (int slot = 0; slot <= LB_DOWN; ++slot)
      if (!all[slot]->data) bad("layer " + std::to_string(n) + " has no matrix " + MATRICES[slot]);
    if (!l.attention_norm || !l.mlp_norm) bad("layer " + std::to_string(n) + " lacks a norm");
  }
  if (!embedding_.data || !norm_) bad("no embedding, or no last norm");
  if (!spec_.tied && !head_.data) bad("no head");
  if (spec_.rope_dims && (!rope_near_ || !rope_far_)) bad("no rotations");
  whole_ = true;
}

void Engine::begin(int rows, int tokens) {
  const int room = int(padded(tokens, LANES));
  used_ = tokens_ = 0;
  team_.forget();
  if (rows != rows_ || room != room_) {
    most_ = rows_ = 0;  // nobody may go on with a cache that was not to be had
    cache_ = Pages();   // before the new one: both at once might not fit
    room_ = room;
    if (double(kv_bytes()) * 2 * rows * spec_.n_layers > double(PTRDIFF_MAX)) throw std::bad_alloc();
    cache_ = Pages(kv_bytes() * 2 * rows * spec_.n_layers);
    rows_ = rows;
  }
  tokens_ = tokens;
}

// Buffers for passes of up to `tokens`; kept while they are large enough.
void Engine::make_room(int tokens) {
  const int most = std::max(tokens, rows_);
  most_ = 0;  // until all of it was to be had
  const long widest = padded(std::max({spec_.d_model, spec_.d_ff, spec_.n_heads * spec_.head_dim}), GROUP);
  const size_t heads = size_t(spec_.n_heads), own = ld_c_ * 4 + widest * (4 + 2 + 1) + widest / 8 + widest / 4;
  const size_t slots = heads * std::max(most, rows_ * int((room_ + LB_SPLIT - 1) / LB_SPLIT));
  const size_t shared = (ld_q_ + 2 * ld_kv_ + ld_c_ + ld_ff_ + heads * dim_) * 4 * most + slots * (dim_ + 2) * 4;
  const int threads = team_.size();
  const size_t beside = size_t(threads) * most * BESIDE * LANES;
  buffers_ = Shelf();
  buffers_ = Shelf(shared + beside * 4 + own * (most + (threads - 1) * FEW) + widest * 2 * MANY * threads +
                   64 * (16 + 8 * size_t(threads)));
  copies_.assign(threads, Copy{});
  for (Copy& copy : copies_) {
    const long some = &copy == &copies_[0] ? most : FEW;
    copy.x = buffers_.take<float>(ld_c_ * some);
    Inputs in;
    in.f32 = buffers_.take<float>(widest * some);
    in.bf16 = buffers_.take<uint16_t>(widest * padded(some, MANY));
    in.i8 = buffers_.take<int8_t>(widest * some);
    in.scale = buffers_.take<float>(widest / GROUP * some);
    in.sums = buffers_.take<int32_t>(widest / 16 * some);
    copy.of_stream = copy.of_heads = copy.of_mlp = in;
    copy.of_stream.cols = int(padded(spec_.d_model, GROUP));
    copy.of_heads.cols = int(padded(long(spec_.n_heads) * spec_.head_dim, GROUP));
    copy.of_mlp.cols = int(padded(spec_.d_ff, GROUP));
  }
  q_ = buffers_.take<float>(ld_q_ * most);
  k_ = buffers_.take<float>(ld_kv_ * most);
  v_ = buffers_.take<float>(ld_kv_ * most);
  turned_ = buffers_.take<float>(heads * dim_ * most);
  made_ = buffers_.take<float>(ld_c_ * most);
  hidden_ = buffers_.take<float>(ld_ff_ * most);
  beside_ = buffers_.take<float>(beside);
  mixed_ = buffers_.take<float>(slots * dim_);
  tops_ = buffers_.take<float>(slots);
  sums_ = buffers_.take<float>(slots);
  most_ = most;
}

// `per_row` tokens of each of `rows`, from row `row` on.
void Engine::pass_tokens(const int32_t* ids, int per_row, int row, int rows) {
  n_ = per_row * rows;
  per_row_ = per_row;
  first_row_ = row;
  ids_ = ids;
  alone_ = n_ <= FEW;
  if (n_ > most_) make_room(n_);
  best_at_.assign(size_t(team_.size()) * rows, -INFINITY);
  best_.assign(best_at_.size(), 0);
  const Matrix& last = spec_.tied ? embedding_ : head_;
  head_out_.resize(size_t(team_.size()) * chunk_of(last, 1, 1) * LANES);  // one thread takes the most at a time
  walk_ = n_ == 1 || choice_.settled() ? choice_.walk() : 0;
  beyond_f16_ = false;
  const auto begun = std::chrono::steady_clock::now();
  team_.run([](void* engine, int thread) { static_cast<Engine*>(engine)->pass(thread); }, this, alone_);
  if (n_ == 1) choice_.took(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  if (beyond_f16_)
    throw std::runtime_error("a key or a value is beyond 65,504, the largest number of its float16 cache; "
                             "one of float32 (kv_type: f32) holds it");
}

void Engine::forward(const int32_t* ids, int rows, int count, bool every, int32_t* best, float* logits) {
  const bool far = spec_.rope_trained && used_ + count > spec_.rope_trained;
  every_ = every;
  best_wanted_ = best != nullptr;
  asked_ = used_ + count;
  const auto take_best = [&](int row, int some) {
    for (int r = 0; best && r < some; ++r) {
      int winner = 0;
      for (int t = 1; t < team_.size(); ++t) {
        const float a = best_at_[size_t(t) * some + r], b = best_at_[size_t(winner) * some + r];
        if (a > b || (a == b && best_[size_t(t) * some + r] < best_[size_t(winner) * some + r])) winner = t;
      }
      if (best_at_[size_t(winner) * some + r] == -INFINITY) throw std::runtime_error("no logit is a finite number");
      best[row + r] = best_[size_t(winner) * some + r];
    }
  };
  const int start = used_;
  if (count == 1) {
    turn(used_, 1, far);
    logits_ = logits;
    pass_tokens(ids, 1, 0, rows);
    take_best(0, rows);
  }
  for (int row = 0; count > 1 && row < rows; ++row) {
    used_ = start;
    for (int first = 0; first < count; first += LB_PASS_TOKENS) {
      const int some = std::min<int>(LB_PASS_TOKENS, count - first);
      turn(used_, some, far);
      const size_t before = every ? size_t(row) * count + first : size_t(row);
      logits_ = logits ? logits + before * spec_.vocab_size : nullptr;
      pass_tokens(ids + size_t(row) * count + first, some, row, 1);
      used_ += some;
    }
    take_best(row, 1);
  }
  used_ = start + count;
}

}  // namespace edge
