// Portable C++: the readable reference, and what any other CPU runs.
#include "simd_scalar.h"
#include "attention.inl"

namespace edge {
const Ops* ops_scalar() {
  static const Ops ops = {"scalar", product, single, nullptr, convert, norm, gate, attend, keep_f16};
  return &ops;
}
}  // namespace edge
