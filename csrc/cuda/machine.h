// What the host side of a kernel needs of the machine it runs on: memory and a queue. GPU or emulator.
#pragma once

#include <cstdint>

namespace pgconv {

// Shared memory that every supported GPU gives a block without being asked, and all that the smallest ones (compute
// capability 8.6, 8.9, 12.0) can give it.
constexpr int kSharedBytes = 48 << 10;
constexpr int kMostSharedBytes = 99 << 10;
// And that of compute capability 9.0.
constexpr int kMostSharedBytes90 = 227 << 10;
constexpr int most_shared(int capability) { return capability == 90 ? kMostSharedBytes90 : kMostSharedBytes; }

struct Grid {
  int64_t blocks;
  int threads;
  int shared;  // bytes
};

// For kernels whose threads walk over `count` things.
inline Grid grid_for(int64_t count) {
  constexpr int threads = 256;
  int64_t blocks = (count + threads - 1) / threads;
  return {blocks < 4096 ? blocks : 4096, threads, 0};
}

class Machine {
 public:
  virtual ~Machine() = default;

  // Uninitialised memory on a 256-byte boundary, the caller's until the work queued with it is done.
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(allocate(sizeof(T) * (count > 0 ? count : 1)));
  }
  // Throws if a call of the driver failed.
  virtual void check(int error) = 0;

  void* stream = nullptr;
  int capability = 80;  // compute capability of the GPU, times ten

 protected:
  virtual void* allocate(int64_t bytes) = 0;
};

}  // namespace pgconv
