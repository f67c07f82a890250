#include "group_last.h"

#include "device.h"
#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

constexpr int kLastWarps = 8, kLastRow = 2 * 32 + 16;  // bytes of a sample's 32 pixels in shared memory
constexpr int kLastPixels = 128;                       // of a warp at a time

// Eight numbers from `at` on, zeros behind `end`.
PGCONV_DEVICE FourWords eight_of(const uint16_t* from, int64_t at, int64_t end) {
  if (at + 8 <= end && reinterpret_cast<uintptr_t>(from + at) % sizeof(FourWords) == 0)
    return *reinterpret_cast<const FourWords*>(from + at);
  FourWords granule{};
  PGCONV_UNROLL
  for (int k = 0; k < 8; ++k)
    if (at + k < end) granule.word[k / 2] |= uint32_t(from[at + k]) << (16 * (k % 2));
  return granule;
}

// A warp takes 8 samples of 128 pixels: rows of 8 pixels are read at once, and blocks of 8 x 8 turned on their way through shared
// memory. Every number is read and written once, 4 bytes in all; that is what it waits for.
PGCONV_KERNEL(kLastWarps * kWarp) group_last(const GroupLast p) {
  unsigned char* tile = shared_memory<unsigned char>() + warp() * 8 * kLastRow;
  const int g = lane() / 4, t = lane() % 4;
  const int64_t chunks = (p.pixels + kLastPixels - 1) / kLastPixels, units = p.planes * p.vectors * chunks;
  for (int64_t unit = block() * kLastWarps + warp(); unit < units; unit += blocks() * kLastWarps) {
    const int64_t rest = unit / chunks, first = (unit - rest * chunks) * kLastPixels;
    const int64_t plane = rest / p.vectors;
    const int octet = int(rest - plane * p.vectors), v = octet * 8 + g;
    const uint16_t* from = p.from + (plane * p.samples + v) * p.pixels;
    FourWords rows[4];
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) rows[k] = v < p.samples ? eight_of(from, first + 32 * k + 8 * t, p.pixels) : FourWords{};
    auto* to = reinterpret_cast<uint32_t*>(p.to) + (plane * p.pixels * p.vectors + octet) * 4 + t;
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) {
      *reinterpret_cast<FourWords*>(tile + g * kLastRow + t * 16) = rows[k];
      sync_warp();
      uint32_t words[4];
      load_matrices_transposed(words, tile + lane() % 8 * kLastRow + lane() / 8 * 16);
      sync_warp();
      PGCONV_UNROLL
      for (int m = 0; m < 4; ++m) {
        const int64_t pixel = first + 32 * k + 8 * m + g;
        if (pixel < p.pixels) to[pixel * p.vectors * 4] = words[m];
      }
    }
  }
}

}  // namespace

void group_last_of(Machine& machine, GroupLast p) {
  int64_t blocks = ceil_div(p.planes * p.vectors * ceil_div(p.pixels, kLastPixels), kLastWarps);
  constexpr int64_t most = 8 * kEnoughBlocks;
  launch(machine, group_last, Grid{blocks < most ? blocks : most, kLastWarps * kWarp, kLastWarps * 8 * kLastRow}, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
