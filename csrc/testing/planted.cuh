// Kernels with one mistake each, which the emulator has to find: each writes the block's numbers in reverse order through
// shared memory, and sums them over each warp.
#pragma once

#include "../cuda/device.h"

namespace pgconv {
namespace PGCONV_ISA {

enum Mistake {
  kNone,
  kMissingBarrier,    // a thread may read what another has not written yet
  kBarrierForSome,    // half the threads wait for the others, who have gone
  kTwoInstructions,   // lanes of a warp meet in different instructions
  kReadsUnwritten,    // shared memory that nobody wrote
  kPastSharedMemory,  // one number too far
  kTooMuchShared,     // more than the smallest supported GPU gives a block
  kNumMistakes
};

struct Planted {
  const float* from;
  float *reversed, *sums;
};

template <int mistake>
PGCONV_KERNEL(64) planted(const Planted p) {
  float* shared = shared_memory<float>();
  int n = threads(), t = thread();
  int64_t first = block() * n;
  if (mistake != kReadsUnwritten || t % 7) shared[mistake == kPastSharedMemory ? t + 1 : t] = p.from[first + t];
  if (mistake == kTwoInstructions) {
    if (t % 2)
      sync_warp();
    else
      exchange(t, 1);
  }
  if (mistake != kMissingBarrier && (mistake != kBarrierForSome || t < n / 2)) sync_block();
  float x = shared[n - 1 - t];
  p.reversed[first + t] = x;
  float sum = sum_of_lanes(x);
  if (lane() == 0) p.sums[first / kWarp + warp()] = sum;
}

inline void run_planted(Machine& machine, int mistake, int64_t blocks, const Planted& p) {
  using Kernel = void (*)(Planted);
  constexpr Kernel kernels[kNumMistakes] = {planted<kNone>,           planted<kMissingBarrier>, planted<kBarrierForSome>,
                                            planted<kTwoInstructions>, planted<kReadsUnwritten>, planted<kPastSharedMemory>,
                                            planted<kTooMuchShared>};
  int shared = mistake == kTooMuchShared ? kMostSharedBytes + 1 : 64 * int(sizeof(float));
  launch(machine, kernels[mistake], Grid{blocks, 64, shared}, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
