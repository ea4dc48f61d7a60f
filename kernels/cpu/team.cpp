#include "team.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>

namespace edge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto PATIENCE = std::chrono::microseconds(150);  // more than threads differ in a brief job
constexpr int CROWDED = 4;   // waits of a job that outlasted patience
constexpr int PAUSES = 32;   // between two looks at the clock
constexpr int IN_A_ROW = 4, FIRST_SPELL = 16, LONGEST_SPELL = 256;  // jobs

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `holds()` within PATIENCE.
template <class Holds> bool soon(Holds holds) {
  for (int spin = 0; spin < PAUSES; ++spin) {
    if (holds()) return true;
    pause();
  }
  for (const auto end = Clock::now() + PATIENCE; Clock::now() < end;)
    for (int spin = 0; spin < PAUSES; ++spin) {
      if (holds()) return true;
      pause();
    }
  return false;
}

}  // namespace

Team::Team(int threads) : size_(threads), active_(threads), counters_(new Counter[threads]) {
  threads_.reserve(threads);
  try {
    for (int t = 1; t < threads; ++t) threads_.emplace_back(&Team::serve, this, t);
  } catch (const std::system_error& error) {
    const std::string why = error.what(), which = std::to_string(threads_.size() + 2);
    end();
    throw std::runtime_error("thread " + which + " of " + std::to_string(threads) + " could not be started: " + why);
  }
}

Team::~Team() { end(); }

void Team::end() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    jobs_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(void (*job)(void*, int), void* context, bool brief) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = job;
    context_ = context;
    active_ = brief && fewer_ > 0 ? std::max(1, size_ - 1) : size_;
    waited_ = 0;
    jobs_.fetch_add(1);
  }
  wake_.notify_all();
  job(context, 0);
  barrier();
  if (brief) look_back();
}

// Whether the next brief jobs go with a thread fewer.
void Team::look_back() {
  if (fewer_ > 0) {
    --fewer_;
  } else if (waited_.load() < CROWDED) {
    spell_ = crowded_ = 0;
  } else if (spell_ > 0 || ++crowded_ >= IN_A_ROW) {  // a passing hiccup is not worth a spell
    spell_ = std::min(LONGEST_SPELL, std::max(FIRST_SPELL, 2 * spell_));
    fewer_ = spell_;
    crowded_ = 0;
  }
}

void Team::serve(int thread) {
  unsigned seen = 0;
  for (;;) {
    if (!soon([&] { return jobs_.load(std::memory_order_acquire) != seen; })) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return jobs_.load() != seen; });
    }
    bool wanted;
    {  // both at once: the job of the one must not be joined with the threads of the next
      std::lock_guard<std::mutex> lock(mutex_);
      seen = jobs_.load();
      wanted = thread < active_;
    }
    if (ending_) return;
    if (!wanted) continue;
    job_(context_, thread);
    barrier();
  }
}

// Spin, then sleep: a core that is left empty takes over the thread that another program keeps waiting.
void Team::await(unsigned phase) {
  if (soon([&] { return phase_.load(std::memory_order_acquire) != phase; })) return;
  waited_.fetch_add(1, std::memory_order_relaxed);
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_.fetch_add(1);
  wake_.wait(lock, [&] { return phase_.load() != phase; });
  sleeping_.fetch_sub(1);
}

void Team::barrier() {
  const unsigned phase = phase_.load(std::memory_order_relaxed);  // this and the next may change
  const int all = active_;                                        // once the last has arrived
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < all) return await(phase);
  for (int t = 0; t < size_; ++t) counters_[t].taken.store(0, std::memory_order_relaxed);
  arrived_.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1);
  if (sleeping_.load() == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }  // whoever is about to sleep does, or has seen the phase
  wake_.notify_all();
}

int Team::take(int thread, int units) {
  for (int i = 0; i < active_; ++i) {
    const int whose = (thread + i) % active_;
    const int start = int(long(units) * whose / active_), end = int(long(units) * (whose + 1) / active_);
    if (counters_[whose].taken.load(std::memory_order_relaxed) >= end - start) continue;
    const int unit = start + counters_[whose].taken.fetch_add(1, std::memory_order_relaxed);
    if (unit < end) return unit;
  }
  return -1;
}

}  // namespace edge
