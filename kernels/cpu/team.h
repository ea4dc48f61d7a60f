// Threads that work through one job together: they wait at barriers and share out what is to do.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace edge {

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  int size() const { return size_; }      // threads there are
  int active() const { return active_; }  // of them in the present job

  // job(context, thread) in all threads, the caller being thread 0; back when all are done. A `brief`
  // job has units so short that a long wait means a thread that another program keeps off its core,
  // and all wait for it: after several such jobs in a row some brief ones go with one thread fewer,
  // more each time that a trial with all of them was as bad.
  void run(void (*job)(void*, int), void* context, bool brief = false);

  // What was learned of other programs; what is measured next must not depend on what came before.
  void forget() { fewer_ = spell_ = crowded_ = 0; }

  // Within a job: wait for all. It spins for a while, then sleeps and leaves the core to others.
  void barrier();

  // Within a job: the next of `units` for this thread, -1 when none is left until the next barrier.
  // Each thread has a share of neighbouring units, and helps the others when that is done: a thread
  // that was taken off its core holds up no more than the unit it is at.
  int take(int thread, int units);

 private:
  struct alignas(64) Counter { std::atomic<int> taken{0}; };

  void serve(int thread);
  void end();
  void await(unsigned phase);
  void look_back();

  const int size_;
  int active_;                                   // changed under the mutex, between jobs
  int fewer_ = 0, spell_ = 0, crowded_ = 0;      // jobs: still to go with fewer, of the last spell, crowded in a row
  std::atomic<int> waited_{0};                   // waits of the present job that outlasted patience
  std::unique_ptr<Counter[]> counters_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
  std::atomic<int> sleeping_{0};
  alignas(64) std::atomic<unsigned> jobs_{0};
  std::atomic<bool> ending_{false};
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

}  // namespace edge
