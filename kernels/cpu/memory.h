// Memory from the system, given back when its owner goes. It starts as zeros.
#pragma once
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <cstddef>
#include <new>
#include <utility>

namespace edge {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

class Pages {
 public:
  Pages() = default;
  // `bytes` on a boundary of a huge page; the kernel is asked for huge ones where that is worth it.
  // Throws std::bad_alloc.
  explicit Pages(size_t bytes) : size_(bytes + HUGE_PAGE) {
    void* got = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<char*>(got);
    data_ = reinterpret_cast<char*>((reinterpret_cast<size_t>(start_) + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
#ifdef MADV_HUGEPAGE
    if (bytes >= 4 * HUGE_PAGE) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  ~Pages() {
    if (!start_) return;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(start_, size_);
#endif
    munmap(start_, size_);
  }
  Pages(Pages&& other) noexcept { *this = std::move(other); }
  Pages& operator=(Pages&& other) noexcept {
    std::swap(start_, other.start_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  char* data() const { return data_; }

 private:
  char *start_ = nullptr, *data_ = nullptr;
  size_t size_ = 0;
};

// Parts of `Pages`, one behind the other, each on a cache line. Under a sanitizer there is a gap
// behind each that nobody may touch.
class Shelf {
 public:
  Shelf() = default;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t GAP = 256;
  explicit Shelf(size_t bytes) : pages_(2 * bytes + (size_t(1) << 20)), room_(2 * bytes + (size_t(1) << 20)) {}
#else
  static constexpr size_t GAP = 0;
  explicit Shelf(size_t bytes) : pages_(bytes), room_(bytes) {}
#endif
  template <class T> T* take(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (used_ + bytes + GAP > room_) throw std::bad_alloc();
    char* got = pages_.data() + used_;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(got + count * sizeof(T), bytes + GAP - count * sizeof(T));
#endif
    used_ += bytes + GAP;
    return reinterpret_cast<T*>(got);
  }
  size_t used() const { return used_; }

 private:
  Pages pages_;
  size_t room_ = 0, used_ = 0;
};

}  // namespace edge
