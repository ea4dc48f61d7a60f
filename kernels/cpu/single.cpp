// The door to one matrix by itself and to a plain reading of memory, for tests and benchmarks.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "door.h"
#include "pack.h"
#include "step.h"

using namespace edge;

struct lb_packed {
  Team team;
  const Ops* ops;
  Shelf shelf;
  Matrix w;
  Choice choice;
  lb_packed(int threads, const Ops* ops_, size_t bytes) : team(threads), ops(ops_), shelf(bytes) {}
};

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

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
  int walk;
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
                     p.y + unit * chunk * LANES, ld, p.walk);
    p.packed->team.barrier();
  }
}

struct Reading {
  Team* team;
  const uint64_t* data;
  size_t words;
  int ahead;  // bytes
  uint64_t seen = 0;
};

void read_in(void* context, int thread) {  // neighbouring units of 64 KiB to each thread
  Reading& r = *static_cast<Reading*>(context);
  constexpr size_t UNIT = 8192;
  uint64_t sums[8] = {};
  for (int unit; (unit = r.team->take(thread, int(r.words / UNIT))) >= 0;)
    for (size_t i = 0; i < UNIT; i += 8) {
      __builtin_prefetch(r.data + unit * UNIT + i + r.ahead / 8, 0, 2);
      for (int j = 0; j < 8; ++j) sums[j] += r.data[unit * UNIT + i + j];
    }
  for (uint64_t s : sums) __atomic_fetch_add(&r.seen, s, __ATOMIC_RELAXED);
}

}  // namespace

extern "C" {

size_t lb_bytes(int type, int rows, int cols) {
  if (!can_hold(type, cols) || rows < 1) return 0;
  Matrix w;
  w.kind = Kind(kind_of(type));
  w.rows = rows;
  w.cols = cols;
  return padded(long(w.bytes()), 64);
}

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

int lb_product(lb_packed* p, const float* x, int tokens, int walk, float* y) {
  return guarded([&] {
    need(tokens >= 1, "no tokens");
    need(walk == 0 || walk == 1, "there are two walks, 0 and 1");
    const OwnInputs own(p->ops, p->w, x, tokens);
    const long ld = long(p->w.blocks()) * LANES;
    std::vector<float> wide(size_t(ld) * tokens, NAN);
    Product product{p, &own.in, tokens, walk, wide.data(), 1};
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
    Product product{p, &own.in, tokens, 0, y.data(), 1};
    while (tokens == 1 && !p->choice.settled()) {
      product.walk = p->choice.walk();
      const double tried = now();
      p->team.run(product_in, &product);
      p->choice.took(now() - tried);
    }
    product.walk = p->choice.walk();
    product.times = times;
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
    Reading reading{&team, reinterpret_cast<const uint64_t*>(pages.data()), bytes / 8, 0};
    const double end = now() + seconds;
    double best = 0;
    int walk = 0;  // each takes turns, and the best of all counts
    do {
      reading.ahead = WALKS[walk ^= 1].ahead;
      const double begun = now();
      team.run(read_in, &reading);
      best = std::max(best, double(bytes / 65536 * 65536) / (now() - begun));
    } while (now() < end);
    *bytes_per_s = reading.seen ? best : 0;
  });
}

}  // extern "C"
