// A packed group of whole numbers → vectors, over the vocabulary of an instruction set.
#include "matrix.h"

namespace edge {
namespace {

// The 8 vectors of 16 rows and 32 columns: vector g holds columns 4g to 4g + 3 of each row.
template <int KIND>
inline void unpack(const uint8_t* p, B* w) {
  if constexpr (KIND == Q8) {
    for (int g = 0; g < 8; ++g) w[g] = load_b(p + 64 * g);
    return;
  }
  for (int g = 0; g < 4; ++g) {
    const B both = load_b(p + 64 * g);
    w[g] = low4(both);
    w[g + 4] = high4(both);
  }
  if constexpr (FORMS[KIND].bits == 5) {
    const B h = load_b(p + 256);
    w[0] = with_bits<4, 16>(w[0], h);
    w[1] = with_bits<3, 16>(w[1], h);
    w[2] = with_bits<2, 16>(w[2], h);
    w[3] = with_bits<1, 16>(w[3], h);
    w[4] = with_bits<0, 16>(w[4], h);
    w[5] = with_bits<-1, 16>(w[5], h);
    w[6] = with_bits<-2, 16>(w[6], h);
    w[7] = with_bits<-3, 16>(w[7], h);
  }
  if constexpr (FORMS[KIND].bits == 6)
    for (int n = 0; n < 2; ++n) {
      const B h = load_b(p + 256 + 64 * n);
      w[4 * n] = with_bits<4, 48>(w[4 * n], h);
      w[4 * n + 1] = with_bits<2, 48>(w[4 * n + 1], h);
      w[4 * n + 2] = with_bits<0, 48>(w[4 * n + 2], h);
      w[4 * n + 3] = with_bits<-2, 48>(w[4 * n + 3], h);
    }
}

}  // namespace
}  // namespace edge
