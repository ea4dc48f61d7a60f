// The door: checks what comes in, and turns what is thrown into codes and words.
#include <algorithm>
#include <cmath>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "pack.h"
#include "step.h"

using namespace edge;

struct lb_engine {
  Engine engine;
  const Ops* ops;
};

struct lb_packed {
  Team team;
  const Ops* ops;
  Shelf shelf;
  Matrix w;
  lb_packed(int threads, const Ops* ops_, size_t bytes) : team(threads), ops(ops_), shelf(bytes) {}
};

namespace {

thread_local std::string last_error;

struct NoIsa : std::runtime_error { using std::runtime_error::runtime_error; };

template <class Work> int guarded(Work work) {
  try {
    work();
    return LB_OK;
  } catch (const NoIsa& error) {
    last_error = error.what();
    return LB_NO_ISA;
  } catch (const std::domain_error& error) {
    last_error = error.what();
    return LB_NOT_FINITE;
  } catch (const std::bad_alloc&) {
    last_error = "no memory";
    return LB_NO_MEMORY;
  } catch (const std::exception& error) {
    last_error = error.what();
    return LB_BAD;
  }
}

void need(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

// AMX in the CPU, and the kernel's leave to use its registers. Source: Linux, Documentation/arch/x86/xstate.rst
bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1)) return false;
  constexpr int ASK = 0x1023, TILE_DATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
  return allowed;
#else
  return false;
#endif
}

bool has(const char* isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(isa, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa, "amx")) return has("avx512") && has_tiles();
  if (!std::strcmp(isa, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#endif
  return !std::strcmp(isa, "scalar");
}

#if !defined(__x86_64__)
}  // namespace
namespace edge {
const Ops* ops_avx2() { return nullptr; }
const Ops* ops_avx512() { return nullptr; }
const Ops* ops_amx() { return nullptr; }
}  // namespace edge
namespace {
#endif

const Ops* const* all_ops() {
  static const Ops* const all[] = {ops_amx(), ops_avx512(), ops_avx2(), ops_scalar()};
  return all;
}

const Ops* ops_for(const std::string& isa) {
  for (int i = 0; i < 4; ++i) {
    const Ops* ops = all_ops()[i];
    if (ops && has(ops->name) && (isa == "auto" || isa == ops->name)) return ops;
  }
  throw NoIsa("instruction set " + isa + " is not one that this CPU and this build have: " + lb_isas());
}

void check_spec(const lb_spec& s) {
  for (int n : {s.n_layers, s.n_heads, s.n_kv_heads, s.head_dim, s.d_model, s.d_ff, s.vocab_size})
    need(n > 0, "a size of the model is not positive");
  need(s.n_heads % s.n_kv_heads == 0, "query heads are no multiple of key heads");
  need(s.head_dim <= MAX_HEAD, "a head's size is above " + std::to_string(MAX_HEAD));
  need(s.rope_dims % 2 == 0 && s.rope_dims >= 0 && s.rope_dims <= s.head_dim, "rope_dims");
  need(s.kv_type == LB_KV_F16 || s.kv_type == LB_KV_F32, "kv_type");
  need(s.activation == SILU || s.activation == GELU_TANH, "activation");
}

void check_threads(int threads) { need(threads >= 1 && threads <= 1024, "threads must be 1 to 1024"); }

// x (tokens, cols) as the inputs of a matrix
struct OwnInputs {
  Shelf shelf;
  Inputs in;
  OwnInputs(const Ops* ops, const Matrix& w, const float* x, int tokens) {
    const long cols = padded(w.cols, GROUP);
    shelf = Shelf(size_t(padded(tokens, MANY)) * cols * 8 + 1024);
    in.cols = int(cols);
    in.f32 = shelf.take<float>(cols * tokens);
    in.bf16 = shelf.take<uint16_t>(cols * padded(tokens, MANY));
    in.i8 = shelf.take<int8_t>(cols * tokens);
    in.scale = shelf.take<float>(cols / GROUP * tokens);
    in.sums = shelf.take<int32_t>(cols / 16 * tokens);
    for (int t = 0; t < tokens; ++t) {
      std::copy_n(x + size_t(t) * w.cols, w.cols, in.f32 + t * cols);
      ops->convert(in, t, wanted_of(*ops, w.kind, tokens));
    }
  }
};

struct Product {
  lb_packed* packed;
  const Inputs* in;
  int tokens;
  float* y;  // (tokens, blocks * LANES)
  int times;
};

void product_in(void* context, int thread) {
  Product& p = *static_cast<Product*>(context);
  const Matrix& w = p.packed->w;
  const long ld = long(w.blocks()) * LANES;
  const int chunk = chunk_of(w, p.tokens, p.packed->team.size()), units = units_of(w, chunk);
  for (int i = 0; i < p.times; ++i) {
    for (int unit; (unit = p.packed->team.take(thread, units)) >= 0;)
      product_blocks(*p.packed->ops, w, unit * chunk, std::min(w.blocks(), (unit + 1) * chunk), *p.in, p.tokens,
                     p.y + unit * chunk * LANES, ld);
    p.packed->team.barrier();
  }
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Reading {
  Team* team;
  const uint64_t* data;
  size_t words;
  uint64_t seen = 0;
};

void read_in(void* context, int thread) {  // neighbouring units of 64 KiB to each thread
  Reading& r = *static_cast<Reading*>(context);
  constexpr size_t UNIT = 8192;
  uint64_t sums[8] = {};
  for (int unit; (unit = r.team->take(thread, int(r.words / UNIT))) >= 0;)
    for (size_t i = 0; i < UNIT; i += 8) {
      __builtin_prefetch(r.data + unit * UNIT + i + AHEAD / 8, 0, 2);
      for (int j = 0; j < 8; ++j) sums[j] += r.data[unit * UNIT + i + j];
    }
  for (uint64_t s : sums) __atomic_fetch_add(&r.seen, s, __ATOMIC_RELAXED);
}

}  // namespace

extern "C" {

const char* lb_error(void) { return last_error.c_str(); }

const char* lb_isas(void) {
  static const std::string names = [] {
    std::string all;
    for (int i = 0; i < 4; ++i)
      if (all_ops()[i] && has(all_ops()[i]->name)) all += (all.empty() ? "" : " ") + std::string(all_ops()[i]->name);
    return all;
  }();
  return names.c_str();
}

int lb_holds(int type) { return kind_of(type) >= 0; }

size_t lb_bytes(int type, int rows, int cols) {
  if (!can_hold(type, cols) || rows < 1) return 0;
  Matrix w;
  w.kind = Kind(kind_of(type));
  w.rows = rows;
  w.cols = cols;
  return padded(long(w.bytes()), 64);
}

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
  return guarded([&] { e->engine.set_scores(layer, scale, cap, window); });
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
    need(count >= 1, "no tokens");
    need(rows == e->engine.rows(), "another number of rows than the cache has");
    need(e->engine.used() + count <= e->engine.room(),
         std::to_string(e->engine.used() + count) + " tokens do not fit a cache of " +
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

int lb_pack(int type, int rows, int cols, const void* raw, const char* isa, int threads, lb_packed** out) {
  return guarded([&] {
    need(rows >= 1 && cols >= 1, "an empty matrix");
    need(can_hold(type, cols), "a type, or rows of no whole blocks, that cannot be held");
    check_threads(threads);
    auto made = std::make_unique<lb_packed>(threads, ops_for(isa), lb_bytes(type, rows, cols));
    if (!pack(made->team, made->w, made->shelf, type, rows, cols, raw))
      throw std::domain_error("the matrix holds what is no finite number");
    *out = made.release();
  });
}

int lb_product(lb_packed* p, const float* x, int tokens, float* y) {
  return guarded([&] {
    need(tokens >= 1, "no tokens");
    const OwnInputs own(p->ops, p->w, x, tokens);
    const long ld = long(p->w.blocks()) * LANES;
    std::vector<float> wide(size_t(ld) * tokens, NAN);
    Product product{p, &own.in, tokens, wide.data(), 1};
    p->team.run(product_in, &product);
    for (int t = 0; t < tokens; ++t) std::copy_n(wide.data() + t * ld, p->w.rows, y + size_t(t) * p->w.rows);
  });
}

int lb_row(const lb_packed* p, int row, float* out) {
  return guarded([&] {
    need(row >= 0 && row < p->w.rows, "no such row");
    unpack_row(p->w, row, out);
  });
}

int lb_repeat(lb_packed* p, int tokens, int times, double* seconds) {
  return guarded([&] {
    need(tokens >= 1 && times >= 1, "nothing to do");
    std::vector<float> x(size_t(p->w.cols) * tokens), y(size_t(p->w.blocks()) * LANES * tokens);
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 201) - 100) / 100;
    const OwnInputs own(p->ops, p->w, x.data(), tokens);
    Product product{p, &own.in, tokens, y.data(), times};
    const double begun = now();
    p->team.run(product_in, &product);
    *seconds = now() - begun;
  });
}

void lb_free(lb_packed* p) { delete p; }

int lb_read(size_t bytes, int threads, double seconds, double* bytes_per_s) {
  return guarded([&] {
    check_threads(threads);
    need(bytes >= (size_t(1) << 20), "a buffer of at least 1 MiB");
    const Pages pages(bytes);
    std::memset(pages.data(), 1, bytes);
    Team team(threads);
    Reading reading{&team, reinterpret_cast<const uint64_t*>(pages.data()), bytes / 8};
    const double end = now() + seconds;
    double best = 0;
    do {
      const double begun = now();
      team.run(read_in, &reading);
      best = std::max(best, double(bytes / 65536 * 65536) / (now() - begun));
    } while (now() < end);
    *bytes_per_s = reading.seen ? best : 0;
  });
}

}  // extern "C"
