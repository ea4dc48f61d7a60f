// Prints, a line a story, how many of two threads took part in each job.
#include <chrono>
#include <cstdio>
#include <thread>

#include "team.h"

namespace {

edge::Team* team;

void quiet(void*, int) {}

// Eight times the other waits 2 ms for thread 1, as for one that is kept off its core.
void crowded(void*, int thread) {
  for (int wait = 0; wait < 8; ++wait) {
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    team->barrier();
  }
}

// c: a crowded job, q: a quiet one
void story(const char* jobs) {
  edge::Team two(2);
  team = &two;
  for (; *jobs; ++jobs) {
    two.run(*jobs == 'c' ? crowded : quiet, nullptr);
    std::printf("%d", two.active());
  }
  std::printf("\n");
}

}  // namespace

int main(int, char** stories) {
  while (*++stories) story(*stories);
}
