// What the kernels of the planar convolution share: a stage of their walk over the channels on its way into shared memory, and
// results on their way out of it.
#pragma once

#include "conv_chain.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kChainWarps = 8;
constexpr int kChainThreads = kChainWarps * kWarp;
constexpr int kChainOctets = 8;               // of a stage
constexpr int kChainRow = 16 * kChainOctets;  // bytes of a row of the head in shared memory
constexpr int kMostOutputs = 128;

// Rows of 128 bytes begin in the same bank; so the place of their granules is turned by the row's number.
PGCONV_DEVICE int turned(int row, int granule) { return row * kChainRow + (granule ^ (row & 7)) * 16; }

// Of a block's number, the part that counts `count` things; the others are left.
PGCONV_DEVICE int split_off(unsigned& number, int count) {
  const unsigned whole = number / unsigned(count), rest = number - whole * unsigned(count);
  number = whole;
  return int(rest);
}

// Window planes of some channels, one behind the other, and the head's columns for them.
struct ChainStage {
  int channels, plane;  // plane: granules
  int head;             // bytes from the stage's beginning
};

constexpr int kHeldCopies = 3;

// A thread's part of the copies of a stage: granules kChainThreads apart of window planes, and of rows of the head. Addresses are
// advanced or held in registers: a division for each granule would take longer than the products.
struct ChainCopies {
  const uint16_t *window, *head;  // of channel 0; head: of the thread's first row
  int64_t plane;                  // numbers
  int held[kHeldCopies];          // where its granules of a stage come from, -1: from nowhere
  int granule, row, rows, head_to;
  int64_t head_step;
  bool few;                       // so few that they can be held; only where registers are left they are

  PGCONV_DEVICE ChainCopies of(const ConvChain& p, const ChainStage& shared, const int* sources, int64_t b, int64_t o0) {
    ChainCopies c;
    const int image = p.height * p.width * p.vectors;
    c.plane = int64_t(image) * 8;
    c.window = p.f + b * p.C * c.plane;
    c.few = shared.channels * shared.plane <= kHeldCopies * kChainThreads && image <= INT32_MAX / kChainOctets;
    PGCONV_UNROLL
    for (int i = 0; i < kHeldCopies; ++i) {
      const int k = thread() + i * kChainThreads, channel = k / shared.plane, source = sources[k - channel * shared.plane];
      c.held[i] = c.few && source >= 0 ? channel * image + source : -1;
    }
    c.granule = thread() % kChainOctets;
    c.row = thread() / kChainOctets;
    c.rows = int(p.O - o0 < kMostOutputs ? p.O - o0 : kMostOutputs);
    c.head_to = shared.head + turned(c.row, c.granule);
    c.head = p.weight + ((o0 + c.row) * p.C * p.octets + c.granule) * 8;
    c.head_step = int64_t(kChainThreads / kChainOctets) * p.C * p.octets * 8;
    return c;
  }
};

// The stage of channels from c0 on.
template <int outputs, bool hold>
PGCONV_DEVICE void load_chain_stage(const ConvChain& p, const ChainStage& shared, const ChainCopies& own, const int* sources,
                                    unsigned char* stage, int64_t c0) {
  const int left = int(p.C - c0 < shared.channels ? p.C - c0 : shared.channels), count = shared.channels * shared.plane;
  const uint16_t* from = own.window + c0 * own.plane;
  if (hold && own.few && left == shared.channels) {
    PGCONV_UNROLL
    for (int i = 0; i < kHeldCopies; ++i) {
      const int k = thread() + i * kChainThreads;
      const bool valid = own.held[i] >= 0;
      if (k < count) copy_async<16>(stage + k * 16, valid ? from + int64_t(own.held[i]) * 8 : p.f, valid);
    }
  } else {
    int channel = thread() / shared.plane, place = thread() - channel * shared.plane;
    const int channels = kChainThreads / shared.plane, places = kChainThreads - channels * shared.plane;
    PGCONV_ROLLED
    for (int k = thread(); k < count; k += kChainThreads) {
      const int source = sources[place];
      const bool valid = source >= 0 && channel < left;
      copy_async<16>(stage + k * 16, valid ? from + channel * own.plane + int64_t(source) * 8 : p.f, valid);
      place += places, channel += channels;
      if (place >= shared.plane) place -= shared.plane, ++channel;
    }
  }
  from = own.head + c0 * p.octets * 8;
  const bool inside = own.granule < left * p.octets;
  constexpr int rows = kChainThreads / kChainOctets;
  auto copy_row = [&](int i) {
    const bool valid = inside && own.row + i * rows < own.rows;
    copy_async<16>(stage + own.head_to + i * rows * kChainRow, valid ? from : p.weight, valid);
    from += own.head_step;
  };
  if constexpr (hold) {
    PGCONV_UNROLL
    for (int i = 0; i < outputs / rows; ++i) copy_row(i);
  } else {
    PGCONV_ROLLED
    for (int i = 0; i < outputs / rows; ++i) copy_row(i);
  }
}

// Bytes of an output's results in shared memory; not a multiple of 128, so that outputs begin in different banks.
constexpr int result_size(int samples, int pixels) { return 2 * samples * pixels + 16; }

// A block's rounded results in shared memory, as [output][sample][pixel], so that they can be written in pieces of 8 pixels. A
// warp's sums are of 16 pixels from own_pixel on, and of samples from own_u on.
template <class E, int samples, int pixels, int N, int U>
PGCONV_DEVICE void gather_results(const float (&sums)[U][N][4], unsigned char* memory, int own_pixel, int own_u) {
  constexpr int size = result_size(samples, pixels);
  const int g = lane() / 4, t = lane() % 4;
  PGCONV_UNROLL
  for (int u = 0; u < U; ++u)
    PGCONV_UNROLL
    for (int n = 0; n < N; ++n)
      PGCONV_UNROLL
      for (int k = 0; k < 2; ++k) {
        // Turned: output g, pixels 2 t and 2 t + 1.
        uint32_t word = transposed_matrix(E::pack(sums[u][n][2 * k], sums[u][n][2 * k + 1]));
        *reinterpret_cast<uint32_t*>(memory + (8 * n + g) * size + ((own_u + u) * pixels + own_pixel + 8 * k + 2 * t) * 2) = word;
      }
  sync_block();
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
