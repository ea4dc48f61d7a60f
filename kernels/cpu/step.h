// A decoder of Llama's kind: its weights, its keys and values, and one pass of tokens through it.
//
// Shapes: N tokens of a pass, C width, H heads, G key/value heads, D head size, V vocabulary.
#pragma once
#include <atomic>
#include <initializer_list>
#include <string>
#include <vector>

#include "isa.h"
#include "llmbench_cpu.h"
#include "matrix.h"
#include "memory.h"
#include "team.h"

namespace edge {

constexpr int BESIDE = 8;  // blocks of the second matrix of a gate whose products a thread holds
constexpr int FEW = 8;  // tokens of a pass that every thread prepares for itself

// Take a tensor from the shelf's room into `w`; false when it holds what is no finite number.
bool pack(Team& team, Matrix& w, Shelf& shelf, int type, int rows, int cols, const void* raw);

// Blocks of a matrix that one thread does at a time: to share out well, or to stay in a cache.
int chunk_of(const Matrix& w, int tokens, int threads);
inline int units_of(const Matrix& w, int chunk) { return (w.blocks() + chunk - 1) / chunk; }

// Blocks [first, end) times all inputs, bias included; y: where the first of these rows goes. One input
// goes by `walk`.
void product_blocks(const Ops& ops, const Matrix& w, int first, int end, const Inputs& x, int tokens, float* y, long ld,
                    int walk);

// The form of inputs that a product of so many wants.
inline bool by_many(const Ops& ops, int kind, int tokens) {
  return ops.many && tokens >= MANY && kind != F32 && kind != F16;
}
inline unsigned wanted_of(const Ops& ops, int kind, int tokens) {
  return by_many(ops, kind, tokens) ? unsigned(WANT_BF16) : wanted_by(kind);
}

struct Layer {
  Matrix q, k, v, o, gate, up, down;
  const float *attention_norm = nullptr, *mlp_norm = nullptr;            // [C]
  const float *after_attention_norm = nullptr, *after_mlp_norm = nullptr;  // null in most families
  float scale = 1, cap = 0;  // of scores
  int window = 0;            // keys that a query sees, itself included; 0: all before it
};

class Engine {
 public:
  Engine(const lb_spec& spec, const Ops* ops, int threads, size_t weight_bytes);

  // Take over a tensor. Throws std::invalid_argument with the reason.
  void set_matrix(int slot, int layer, int type, int rows, int cols, const void* raw);
  void set_vector(int slot, int layer, int count, const float* values);
  void set_scores(int layer, float scale, float cap, int window);
  void check_whole();  // throws std::invalid_argument naming what is still missing

  // An empty cache with room for `tokens` in each of `rows`.
  void begin(int rows, int tokens);

  // ids (rows, count): behind what the cache holds. best (rows,) after the last of them; logits
  // (rows, V) of the last, or (rows, count, V) with `every`; either may be null.
  void forward(const int32_t* ids, int rows, int count, bool every, int32_t* best, float* logits);

  bool whole() const { return whole_; }
  int used() const { return used_; }
  int room() const { return tokens_; }
  int rows() const { return rows_; }
  const lb_spec& spec() const { return spec_; }
  double seconds[LB_PARTS] = {};  // of thread 0, a part of the pass, while `timing` is on
  bool timing = false;

 private:
  struct Job { const Matrix* w; float* out; long ld; };
  // The stream of a thread, or of all, and room for inputs that is seen in three widths.
  struct Copy { float* x; Inputs of_stream, of_heads, of_mlp; };

  Matrix& matrix(int slot, int layer);
  const float** vector(int slot, int layer);
  int length_of(int slot, int layer);
  void make_room(int tokens);
  void turn(int first, int count, bool far);
  void pass_tokens(const int32_t* ids, int per_row, int row, int rows);

  void pass(int thread);
  // `each(token)` for all tokens in every thread, or for each token in one of them.
  template <class Each> void for_tokens(int thread, Each each) {
    if (alone_) {
      for (int t = 0; t < n_; ++t) each(t);
      return;
    }
    for (int t; (t = team_.take(thread, n_)) >= 0;) each(t);
    team_.barrier();
  }
  void embed(int thread);
  void settle(int thread, const float* made, long ld, const float* after, const float* gain, unsigned wanted);
  void to_inputs(Inputs& in, int token, int cols, unsigned wanted);
  void products(int thread, const Inputs& in, const Job* jobs, int count);
  void place(int thread, const Layer& layer, int number);
  void attend(int thread, const Layer& layer, int number);
  void attend_unit(const Layer& layer, int number, int unit);
  void gather(int thread, unsigned wanted);
  void gated(int thread, const Layer& layer);
  void head(int thread);
  unsigned wants(std::initializer_list<const Matrix*> list) const;
  void mark(int thread, int part);

  size_t kv_item() const { return spec_.kv_type == LB_KV_F32 ? 4 : 2; }
  size_t kv_bytes() const { return size_t(spec_.n_kv_heads) * room_ * dim_ * kv_item(); }
  char* keys(int layer, int row) const { return cache_.data() + kv_bytes() * 2 * (size_t(layer) * rows_ + row); }
  char* values(int layer, int row) const { return keys(layer, row) + kv_bytes(); }
  int splits() const { return per_row_ > 1 ? 1 : (used_ + per_row_ + LB_SPLIT - 1) / LB_SPLIT; }
  int tiles() const { return (per_row_ * group_ + TILE - 1) / TILE; }
  Copy& copy(int thread) { return copies_[alone_ ? thread : 0]; }

  const lb_spec spec_;
  const Ops* ops_;
  Team team_;
  Shelf weights_, small_, buffers_;
  Pages cache_;
  std::vector<Layer> layers_;
  Matrix embedding_, head_;
  const float *norm_ = nullptr, *rope_near_ = nullptr, *rope_far_ = nullptr;
  const int dim_, group_;  // a head's size padded to 16; query heads of a key head
  int rows_ = 0, tokens_ = 0, room_ = 0, used_ = 0;

  // of the pass that runs
  int most_ = 0;                         // tokens that the buffers hold
  bool alone_ = false;                   // each thread has its own stream: few tokens
  int n_ = 0, per_row_ = 0, first_row_ = 0;
  const int32_t* ids_ = nullptr;
  std::vector<Copy> copies_;
  std::vector<float> cos_, sin_;
  float *q_ = nullptr, *k_ = nullptr, *v_ = nullptr, *turned_ = nullptr, *mixed_ = nullptr, *tops_ = nullptr,
        *sums_ = nullptr, *made_ = nullptr, *hidden_ = nullptr, *beside_ = nullptr;
  long ld_q_, ld_kv_, ld_c_, ld_ff_;
  Choice choice_;   // of a walk, for passes of one token
  int walk_ = 0;    // of this pass
  bool every_ = false, best_wanted_ = false;
  int asked_ = 0;  // tokens in the cache when the whole call is done
  float* logits_ = nullptr;
  std::vector<int32_t> best_;
  std::vector<float> best_at_, head_out_;  // of each thread: the best so far; a chunk of logits
  std::atomic<bool> beyond_f16_{false};    // a key or value that the cache cannot hold
  bool whole_ = false;                     // nothing is missing any more
  double marked_ = 0;
};

}  // namespace edge
