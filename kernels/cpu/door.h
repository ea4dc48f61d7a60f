// What both halves of the C door need: failures as codes and words, and which kernels serve.
#pragma once
#include <new>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "llmbench_cpu.h"

namespace edge {

extern thread_local std::string last_error;

struct NoIsa : std::runtime_error { using std::runtime_error::runtime_error; };

template <class Work> int guarded(Work work) {
  try {
    work();
    return LB_OK;
  } catch (const NoIsa& error) {
    last_error = error.what();
    return LB_NO_ISA;
  } catch (const std::domain_error& error) {
    last_error = error.what();
    return LB_NOT_FINITE;
  } catch (const std::bad_alloc&) {
    last_error = "no memory";
    return LB_NO_MEMORY;
  } catch (const std::exception& error) {
    last_error = error.what();
    return LB_BAD;
  }
}

inline void need(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

inline void check_threads(int threads) { need(threads >= 1 && threads <= 1024, "threads must be 1 to 1024"); }

// The kernels of an instruction set, "auto" for the best there is. Throws NoIsa.
const Ops* ops_for(const std::string& isa);

}  // namespace edge
