// How a core goes through weights when one token is decoded. Which is faster depends on the CPU, by a
// tenth and more, so both are compiled and an engine finds out in its first steps. No bit of a
// result depends on it.
#pragma once

namespace edge {

// A CPU's own prefetching stops at each page of 4 KiB and has to see a stream before it believes in it.
struct Walk {
  int streams;  // places that are read side by side
  int ahead;    // bytes ahead of what is read that memory is asked for
};
constexpr Walk WALKS[] = {{2, 4096}, {1, 1024}};

// Both take turns, first one and then the other, in PAIRS pairs of steps; the one that won most stays.
class Choice {
 public:
  bool settled() const { return tries_ == 2 * PAIRS; }
  int walk() const { return settled() ? won_ > 0 : (tries_ + tries_ / 2) % 2; }
  void took(double seconds) {
    if (settled()) return;
    seconds_[walk()] = seconds;
    if (++tries_ % 2 == 0) won_ += seconds_[1] < seconds_[0] ? 1 : -1;
  }

 private:
  static constexpr int PAIRS = 9;  // odd: one has won more
  int tries_ = 0, won_ = 0;
  double seconds_[2] = {};
};

}  // namespace edge
