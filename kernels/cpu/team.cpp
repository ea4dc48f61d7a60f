#include "team.h"

#include <sched.h>

namespace edge {
namespace {

constexpr int SPINS = 4000;        // some tens of microseconds, longer than any even phase
constexpr int SPINS_IDLE = 20000;  // between jobs, while the caller takes its token

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int threads) : size_(threads), counters_(new Counter[threads]) {
  for (int t = 1; t < threads; ++t) threads_.emplace_back(&Team::serve, this, t);
}

Team::~Team() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    jobs_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(void (*job)(void*, int), void* context) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = job;
    context_ = context;
    jobs_.fetch_add(1);
  }
  wake_.notify_all();
  job(context, 0);
  barrier();
}

void Team::serve(int thread) {
  int seen = 0;
  for (;;) {
    for (int spin = 0; jobs_.load(std::memory_order_acquire) == seen && spin < SPINS_IDLE; ++spin) pause();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return jobs_.load() != seen; });
      seen = jobs_.load();
    }
    if (ending_) return;
    job_(context_, thread);
    barrier();
  }
}

void Team::await(int phase) {
  for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin)
    if (spin < SPINS) pause();
    else sched_yield();
}

void Team::barrier() {
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) return await(phase);
  for (int t = 0; t < size_; ++t) counters_[t].taken.store(0, std::memory_order_relaxed);
  arrived_.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_release);
}

int Team::take(int thread, int units) {
  for (int i = 0; i < size_; ++i) {
    const int whose = (thread + i) % size_;
    const int start = int(long(units) * whose / size_), end = int(long(units) * (whose + 1) / size_);
    if (counters_[whose].taken.load(std::memory_order_relaxed) >= end - start) continue;
    const int unit = start + counters_[whose].taken.fetch_add(1, std::memory_order_relaxed);
    if (unit < end) return unit;
  }
  return -1;
}

}  // namespace edge
