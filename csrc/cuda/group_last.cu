#include "group_last.h"

#include "device.h"
#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

constexpr int kLastWarps = 8, kLastRow = 2 * 32 + 16;  // bytes of a sample's 32 pixels in shared memory
constexpr int kLastPixels = 128;                       // of a warp at a time

// Eight numbers from `at` on, as words of 16 bits each; zeros behind `end`.
PGCONV_DEVICE FourWords eight_of(const uint16_t* from, int64_t at, int64_t end, float) {
  if (at + 8 <= end && reinterpret_cast<uintptr_t>(from + at) % sizeof(FourWords) == 0)
    return *reinterpret_cast<const FourWords*>(from + at);
  FourWords granule{};
  PGCONV_UNROLL
  for (int k = 0; k < 8; ++k)
    if (at + k < end) granule.word[k / 2] |= uint32_t(from[at + k]) << (16 * (k % 2));
  return granule;
}

PGCONV_DEVICE FourWords eight_of(const float* from, int64_t at, int64_t end, float factor) {
  float number[8] = {};
  if (at + 8 <= end && reinterpret_cast<uintptr_t>(from + at) % sizeof(FourWords) == 0) {
    PGCONV_UNROLL
    for (int half = 0; half < 2; ++half) {
      const FourWords words = *reinterpret_cast<const FourWords*>(from + at + 4 * half);
      PGCONV_UNROLL
      for (int k = 0; k < 4; ++k) number[4 * half + k] = number_of(words.word[k]);
    }
  } else {
    PGCONV_UNROLL
    for (int k = 0; k < 8; ++k)
      if (at + k < end) number[k] = from[at + k];
  }
  FourWords granule;
  PGCONV_UNROLL
  for (int k = 0; k < 4; ++k) granule.word[k] = Half::pack(number[2 * k] * factor, number[2 * k + 1] * factor);
  return granule;
}

// A warp takes 8 samples of 128 pixels: rows of 8 pixels are read at once, and blocks of 8 x 8 turned on their way through shared
// memory. Every number is read and written once, 4 bytes in all or 6 from float32; that is what it waits for.
template <class T>
PGCONV_KERNEL(kLastWarps * kWarp) group_last(const GroupLast p) {
  unsigned char* tile = shared_memory<unsigned char>() + warp() * 8 * kLastRow;
  const int g = lane() / 4, t = lane() % 4;
  const float factor = p.factor ? *p.factor : 1.0f;
  const int64_t chunks = (p.pixels + kLastPixels - 1) / kLastPixels, units = p.planes * p.vectors * chunks;
  for (int64_t unit = block() * kLastWarps + warp(); unit < units; unit += blocks() * kLastWarps) {
    const int64_t rest = unit / chunks, first = (unit - rest * chunks) * kLastPixels;
    const int64_t plane = rest / p.vectors;
    const int octet = int(rest - plane * p.vectors), v = octet * 8 + g;
    const T* from = static_cast<const T*>(p.from) + (plane * p.samples + v) * p.pixels;
    FourWords rows[4];
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) rows[k] = v < p.samples ? eight_of(from, first + 32 * k + 8 * t, p.pixels, factor) : FourWords{};
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
  launch(machine, p.factor ? group_last<float> : group_last<uint16_t>, Grid{blocks < most ? blocks : most, kLastWarps * kWarp, kLastWarps * 8 * kLastRow}, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
