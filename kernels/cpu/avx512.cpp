// AVX-512 with VNNI and BF16: Xeons since Cooper Lake and Sapphire Rapids, Zen 4 and later.
#include "simd_avx512.h"
#include "attention.inl"

namespace edge {
const Ops* ops_avx512() {
  static const Ops ops = {"avx512", product, single, nullptr, convert, norm, gate, attend, keep_f16};
  return &ops;
}
}  // namespace edge
