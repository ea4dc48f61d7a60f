// Which instruction sets this CPU and this build have. NEON will be one more unit and one more line.
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "door.h"

namespace edge {

#if !defined(__x86_64__)
const Ops* ops_avx2() { return nullptr; }
const Ops* ops_avx512_vnni() { return nullptr; }
const Ops* ops_avx512() { return nullptr; }
const Ops* ops_amx() { return nullptr; }
#endif

namespace {

// AMX in the CPU, and the kernel's leave to use its registers. Source: Linux, Documentation/arch/x86/xstate.rst
bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1)) return false;
  constexpr int ASK = 0x1023, TILE_DATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
  return allowed;
#else
  return false;
#endif
}

bool has(const char* isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(isa, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa, "amx")) return has("avx512") && has_tiles();
  if (!std::strcmp(isa, "avx512")) return has("avx512_vnni") && __builtin_cpu_supports("avx512bf16");
  if (!std::strcmp(isa, "avx512_vnni"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#endif
  return !std::strcmp(isa, "scalar");
}

// Best first. A set's own code, even the one that makes its table, runs only where `has` holds.
constexpr struct { const char* name; const Ops* (*ops)(); } SETS[] = {
    {"amx", ops_amx},   {"avx512", ops_avx512}, {"avx512_vnni", ops_avx512_vnni},
    {"avx2", ops_avx2}, {"scalar", ops_scalar}};

}  // namespace

thread_local std::string last_error;

const Ops* ops_for(const std::string& isa) {
  for (const auto& set : SETS)
    if ((isa == "auto" || isa == set.name) && has(set.name)) return set.ops();
  throw NoIsa("instruction set " + isa + " is not one that this CPU and this build have: " + lb_isas());
}

}  // namespace edge

using namespace edge;

extern "C" {

const char* lb_error(void) { return last_error.c_str(); }

const char* lb_isas(void) {
  static const std::string names = [] {
    std::string all;
    for (const auto& set : SETS)
      if (has(set.name)) all += (all.empty() ? "" : " ") + std::string(set.name);
    return all;
  }();
  return names.c_str();
}

}  // extern "C"
