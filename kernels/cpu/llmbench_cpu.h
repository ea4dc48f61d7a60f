/* The door to llmbench's CPU engine: plain C, so that any language can load the library.
 *
 * A function that returns int gives 0 when it worked, else an LB_ code, and lb_error() says why in
 * words (of this thread's last failure). Nothing is kept of raw pointers after a call returns. An
 * engine, or a packed matrix, is for one caller at a time, and for the process that opened it: its
 * threads do not survive a fork. */
#ifndef LLMBENCH_CPU_H
#define LLMBENCH_CPU_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LB_OK = 0, LB_BAD = 1, LB_NO_MEMORY = 2, LB_NOT_FINITE = 3, LB_NO_ISA = 4 };
enum { LB_KV_F16 = 0, LB_KV_F32 = 1 };
enum { LB_SPLIT = 256 };       /* keys of one head that a thread attends to at a time when decoding */
enum { LB_PASS_TOKENS = 512 }; /* tokens of a prompt that go through the layers together */

/* slots of matrices */
enum { LB_Q, LB_K, LB_V, LB_O, LB_GATE, LB_UP, LB_DOWN, LB_EMBEDDING, LB_HEAD };
/* slots of vectors; LB_BIAS + the slot of its matrix */
enum { LB_ATTENTION_NORM, LB_MLP_NORM, LB_AFTER_ATTENTION_NORM, LB_AFTER_MLP_NORM, LB_NORM,
       LB_ROPE_NEAR, LB_ROPE_FAR, LB_BIAS = 16 };
/* parts of a pass, as lb_seconds tells their time */
enum { LB_AT_EMBED, LB_AT_INPUTS, LB_AT_QKV, LB_AT_PLACE, LB_AT_ATTEND, LB_AT_O, LB_AT_GATE_UP,
       LB_AT_DOWN, LB_AT_HEAD, LB_PARTS };

typedef struct {
  int32_t n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size;
  int32_t tied;             /* the head is the embedding */
  int32_t rope_dims;        /* of a head's dimensions, how many turn */
  int32_t rope_neighbours;  /* pairs are (2i, 2i+1), as GGUF stores Llama; else (i, i + rope_dims/2) */
  int32_t activation;       /* 0 SiLU, 1 GELU by tanh */
  int32_t kv_type;          /* LB_KV_ */
  int32_t rope_trained;     /* longer sequences turn by LB_ROPE_FAR; 0: none do */
  float eps, embedding_scale, residual_scale, logit_scale, logit_cap, rope_stretch;
} lb_spec;

typedef struct lb_engine lb_engine;
typedef struct lb_packed lb_packed;

const char* lb_error(void);
const char* lb_isas(void);            /* what this CPU and this build have, best first: "avx512 avx2 scalar" */
size_t lb_bytes(int ggml_type, int rows, int cols); /* that it will take here; 0: cannot be held */

/* `weight_bytes`: the sum of lb_bytes of all matrices. `isa` "auto": the best there is. */
int lb_open(const lb_spec* spec, const char* isa, int threads, size_t weight_bytes, lb_engine** out);
const char* lb_isa(const lb_engine*);
int lb_matrix(lb_engine*, int slot, int layer, int ggml_type, int rows, int cols, const void* raw);
int lb_vector(lb_engine*, int slot, int layer, int count, const float* values);
int lb_scores(lb_engine*, int layer, float scale, float cap, int window);
int lb_ready(lb_engine*);             /* LB_BAD naming what is missing */
int lb_begin(lb_engine*, int rows, int tokens);
int lb_forward(lb_engine*, const int32_t* ids, int rows, int count, int every, int32_t* best, float* logits);
void lb_timing(lb_engine*, int on);   /* starts from zero */
void lb_seconds(const lb_engine*, double seconds[LB_PARTS]);
void lb_close(lb_engine*);

/* One matrix by itself, for tests and benchmarks. x (tokens, cols), y (tokens, rows). */
int lb_pack(int ggml_type, int rows, int cols, const void* raw, const char* isa, int threads, lb_packed** out);
int lb_product(lb_packed*, const float* x, int tokens, int walk, float* y); /* one token goes by `walk` of walks.h */
int lb_row(const lb_packed*, int row, float* out);
int lb_repeat(lb_packed*, int tokens, int times, double* seconds); /* of so many products of some input */
void lb_free(lb_packed*);

/* Bytes a second that `threads` read from a buffer of `bytes`, for about `seconds`; the best pass. */
int lb_read(size_t bytes, int threads, double seconds, double* bytes_per_s);

#ifdef __cplusplus
}
#endif
#endif
