// Cuts one block of memory into aligned pieces. Run once without memory, the same code says how much it needs.
#pragma once

#include <cstdint>

namespace pgconv {

template <class T>
class Arena {
 public:
  explicit Arena(T* memory) : memory_(memory) {}
  T* take(int64_t size) {
    T* piece = memory_ ? memory_ + used_ : nullptr;
    constexpr int64_t line = 64 / sizeof(T);
    used_ += (size + line - 1) / line * line;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  T* memory_;
  int64_t used_ = 0;
};

}  // namespace pgconv
