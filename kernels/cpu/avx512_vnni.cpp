// AVX-512 with VNNI and without BF16: Cascade Lake, Ice Lake.
#include "simd_avx512.h"
#include "attention.inl"

namespace edge {
const Ops* ops_avx512_vnni() {
  static const Ops ops = {"avx512_vnni", product, single, nullptr, convert, norm, gate, attend, keep_f16};
  return &ops;
}
}  // namespace edge
