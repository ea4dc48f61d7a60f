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

// c: a crowded job, q: a quiet one, both brief; L: one that is not, in which waits are long too;
// f: forget (nothing is printed)
void story(const char* jobs) {
  edge::Team two(2);
  team = &two;
  for (; *jobs; ++jobs) {
    if (*jobs == 'f') {
      two.forget();
      continue;
    }
    two.run(*jobs == 'q' ? quiet : crowded, nullptr, *jobs != 'L');
    std::printf("%d", two.active());
  }
  std::printf("\n");
}

}  // namespace

int main(int, char** stories) {
  while (*++stories) story(*stories);
}
