// AVX2, FMA and F16C: x86 since 2013.
#include "simd_avx2.h"
#include "attention.inl"

namespace edge {
const Ops* ops_avx2() {
  static const Ops ops = {"avx2", product, single, nullptr, convert, norm, gate, attend, keep_f16};
  return &ops;
}
}  // namespace edge
