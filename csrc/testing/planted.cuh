// Kernels with one mistake each, which the emulator has to find.
#pragma once

#include "../cuda/warpgroup.h"

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

// Writes the block's numbers in reverse order through shared memory, and sums them over each warp.
struct Planted {
  const float* from;
  float *reversed, *sums;
};

struct PlantedMatrices {
  const uint32_t* from;
  uint32_t* to;
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

// Four matrices of 8 rows: each lane writes the 8 numbers of a row, and gives another lane's to the instruction that loads them.
template <bool waits>
PGCONV_KERNEL(32) planted_matrices(const PlantedMatrices p) {
  unsigned char* rows = shared_memory<unsigned char>();
  for (int k = 0; k < 4; ++k) reinterpret_cast<uint32_t*>(rows)[4 * lane() + k] = p.from[4 * lane() + k];
  if (waits) sync_warp();
  uint32_t words[4];
  load_matrices(words, rows + (31 - lane()) * 16);
  for (int k = 0; k < 4; ++k) p.to[32 * k + lane()] = words[k];
}

inline void run_planted_matrices(Machine& machine, bool waits, const PlantedMatrices& p) {
  launch(machine, waits ? planted_matrices<true> : planted_matrices<false>, Grid{1, 32, 512}, p);
}

// Eight stages of 128 granules through two buffers: each thread adds up a number that another warp brings. Without the barrier all
// goes well as long as warps keep step.
constexpr int kPlantedStages = 8;

template <bool waits>
PGCONV_KERNEL(128) planted_pipeline(const PlantedMatrices p) {
  auto* stages = shared_memory<uint32_t>();
  auto load = [&](int n) {
    copy_async<16>(stages + (n % 2 * 128 + thread()) * 4, p.from + (n * 128 + thread()) * 4, true);
    commit_copies();
  };
  uint32_t sum = 0;
  load(0);
  for (int n = 0; n < kPlantedStages; ++n) {
    wait_copies<0>();
    if (waits)
      sync_block();
    else
      sync_warp();
    if (n + 1 < kPlantedStages) load(n + 1);
    sync_warp();
    sum += stages[(n % 2 * 128 + (thread() + kWarp) % 128) * 4];
  }
  p.to[thread()] = sum;
}

inline void run_planted_pipeline(Machine& machine, bool waits, const PlantedMatrices& p) {
  launch(machine, waits ? planted_pipeline<true> : planted_pipeline<false>, Grid{1, 128, 2 * 128 * 16}, p);
}

// A product of warpgroup.h, [64][128] by [32][128] transposed, in two panels of the right operand.
enum ProductMistake {
  kRightProduct,
  kMissingWait,     // sums are read while products run
  kMissingBegin,    // products may not see the registers
  kMissingFence,    // products may not see what was copied
  kMissingTurn,     // granules lie in order
  kRegistersReused, // a left operand is written while products may read it
  kBufferReused,    // likewise the right one
  kNumProductMistakes
};

struct PlantedProduct {
  const uint16_t *left, *right;
  float* out;
};

template <int mistake>
PGCONV_KERNEL(128) planted_product(const PlantedProduct p) {
  unsigned char* memory = shared_memory<unsigned char>();
  const int row = warp() * 16 + lane() / 4, t = lane() % 4;
  float sums[4][4] = {};
  uint32_t own[2][4];
  for (int panel = 0; panel < 2; ++panel) {
    unsigned char* rows = memory + (mistake == kBufferReused ? 0 : panel * 4096);
    for (int k = thread(); k < 256; k += threads()) {
      const int column = k / 8, granule = k % 8, place = mistake == kMissingTurn ? granule : granule ^ column % 8;
      copy_async<16>(rows + column * 128 + place * 16, p.right + column * 128 + panel * 64 + granule * 8, true);
    }
    commit_copies();
    wait_copies<0>();
    if (mistake != kMissingFence) fence_shared();
    sync_block();
    for (int q = 0; q < 4; ++q) {
      auto& left = own[mistake == kRegistersReused ? 0 : q % 2];
      for (int n = 0; n < 4; ++n)
        left[n] = *reinterpret_cast<const uint32_t*>(p.left + (row + n % 2 * 8) * 128 + panel * 64 + 16 * q + n / 2 * 8 + 2 * t);
      if (mistake != kMissingBegin) warpgroup_begin();
      warpgroup_multiply_add<Half>(sums, left, rows, 32 * q);
      warpgroup_commit();
      warpgroup_wait<1>();
    }
  }
  if (mistake != kMissingWait) warpgroup_wait<0>();
  hold_sums(sums);
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < 4; ++k) p.out[(row + k / 2 * 8) * 32 + 8 * n + 2 * t + k % 2] = sums[n][k];
}

inline void run_planted_product(Machine& machine, int mistake, const PlantedProduct& p) {
  using Kernel = void (*)(PlantedProduct);
  constexpr Kernel kernels[kNumProductMistakes] = {
      planted_product<kRightProduct>, planted_product<kMissingWait>,     planted_product<kMissingBegin>, planted_product<kMissingFence>,
      planted_product<kMissingTurn>,  planted_product<kRegistersReused>, planted_product<kBufferReused>};
  launch(machine, kernels[mistake], Grid{1, 128, 2 * 4096}, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
