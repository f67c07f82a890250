// What the kernels of the planar convolution share: a stage of their walk over the channels on its way into shared memory, and
// results on their way out of it.
#pragma once

#include "conv_chain.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kChainWarps = 8;
constexpr int kChainThreads = kChainWarps * kWarp;
constexpr int kChainOctets = 8;               // of a panel; a stage has one panel or two
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

// Window planes of some channels, one behind the other, and panels of the head's columns for them.
struct ChainStage {
  int channels, plane;  // plane: granules
  int head;             // bytes from the stage's beginning
};

constexpr int kHeldCopies = 5;

// A thread's part of the copies of a stage: granules kChainThreads apart of window planes, and of rows of the head's panels.
// Addresses are advanced or held in registers: a division for each granule would take longer than the products.
struct ChainCopies {
  const uint16_t *window, *head;  // of the next stage's first channel; head: of the thread's first row
  int64_t plane, head_step;       // numbers
  int64_t left;                   // channels from the next stage's first on
  int held[kHeldCopies];          // where its granules of a stage come from
  unsigned valid, valid_rows;     // whether they come from anywhere; likewise its rows
  int granule, head_to;
  bool few;                       // granules, so few that they can be held; only where registers are left they are

  PGCONV_DEVICE ChainCopies of(const ConvChain& p, const ChainStage& shared, const int* sources, int64_t b, int64_t o0, int64_t c0 = 0) {
    ChainCopies c;
    const int image = p.height * p.width * p.vectors, count = shared.channels * shared.plane;
    c.plane = int64_t(image) * 8;
    c.window = p.f + (b * p.C + c0) * c.plane;
    c.left = p.C - c0;
    c.few = count <= kHeldCopies * kChainThreads && image <= INT32_MAX / (2 * kChainOctets);
    c.valid = 0;
    PGCONV_UNROLL
    for (int i = 0; i < kHeldCopies; ++i) {
      const int k = thread() + i * kChainThreads, channel = k / shared.plane, source = sources[k - channel * shared.plane];
      const bool valid = k < count && source >= 0;
      c.held[i] = c.few && valid ? channel * image + source : 0;
      c.valid |= unsigned(valid) << i;
    }
    c.granule = thread() % kChainOctets;
    const int row = thread() / kChainOctets;
    c.valid_rows = 0;
    for (int i = 0; i < kMostOutputs / kRows; ++i) c.valid_rows |= unsigned(o0 + row + i * kRows < p.O) << i;
    c.head_to = shared.head + turned(row, c.granule);
    c.head = p.weight + (((o0 + row) * p.C + c0) * p.octets + c.granule) * 8;
    c.head_step = int64_t(kRows) * p.C * p.octets * 8;
    return c;
  }
  static constexpr int kRows = kChainThreads / kChainOctets;
};

// The next stage.
template <int outputs, int panels, bool hold>
PGCONV_DEVICE void load_chain_stage(const ConvChain& p, const ChainStage& shared, ChainCopies& own, const int* sources,
                                    unsigned char* stage) {
  const int left = int(own.left < shared.channels ? own.left : shared.channels), count = shared.channels * shared.plane;
  if (hold && own.few && left == shared.channels) {
    PGCONV_UNROLL
    for (int i = 0; i < kHeldCopies; ++i) {
      const int k = thread() + i * kChainThreads;
      if (k < count) copy_async<16>(stage + k * 16, own.window + int64_t(own.held[i]) * 8, own.valid >> i & 1);
    }
  } else {
    int channel = thread() / shared.plane, place = thread() - channel * shared.plane;
    const int channels = kChainThreads / shared.plane, places = kChainThreads - channels * shared.plane;
    PGCONV_ROLLED
    for (int k = thread(); k < count; k += kChainThreads) {
      const int source = sources[place];
      const bool valid = source >= 0 && channel < left;
      copy_async<16>(stage + k * 16, valid ? own.window + channel * own.plane + int64_t(source) * 8 : p.f, valid);
      place += places, channel += channels;
      if (place >= shared.plane) place -= shared.plane, ++channel;
    }
  }
  constexpr int rows = ChainCopies::kRows;
  auto copy_row = [&](int panel, int i, const uint16_t* from) {
    const bool valid = own.granule + panel * kChainOctets < left * p.octets && (own.valid_rows >> i & 1);
    copy_async<16>(stage + own.head_to + (panel * outputs + i * rows) * kChainRow, from + panel * 8 * kChainOctets, valid);
  };
  const uint16_t* from = own.head;
  if constexpr (hold) {
    PGCONV_UNROLL
    for (int i = 0; i < outputs / rows; ++i) {
      PGCONV_UNROLL
      for (int panel = 0; panel < panels; ++panel) copy_row(panel, i, from);
      from += own.head_step;
    }
  } else {
    // Unrolled, the addresses under way would take the registers that sums need.
    PGCONV_ROLLED
    for (int i = 0; i < outputs / rows; ++i, from += own.head_step)
      for (int panel = 0; panel < panels; ++panel) copy_row(panel, i, from);
  }
  own.window += shared.channels * own.plane;
  own.head += shared.channels * p.octets * 8;
  own.left -= shared.channels;
}

// The next stage is there for the thread itself, of those `ahead` (1 or 2) on their way.
PGCONV_DEVICE void wait_for_stage(int ahead) {
  if (ahead == 2)
    wait_copies<1>();
  else
    wait_copies<0>();
}
PGCONV_DEVICE int next_buffer(int buffer, int buffers) { return buffer + 1 == buffers ? 0 : buffer + 1; }

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

// The same as [output][pixel][sample]: the samples of a pixel are a granule. A warp's lanes write words of granules 16 bytes and of
// outputs whole rows apart; so that they lie in different banks, words change places within a granule, by the output's number.
template <int samples>
PGCONV_DEVICE int exchanged(int output, int word) {
  return word ^ (output / 2 & (samples / 2 - 1));
}
template <class E, int samples, int pixels, int N, int U>
PGCONV_DEVICE void gather_results_last(const float (&sums)[U][N][4], unsigned char* memory, int own_pixel, int own_u) {
  const int g = lane() / 4, t = lane() % 4;
  PGCONV_UNROLL
  for (int u = 0; u < U; u += 2)
    PGCONV_UNROLL
    for (int n = 0; n < N; ++n)
      PGCONV_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int o = 8 * n + 2 * t + k % 2, pixel = own_pixel + g + k / 2 * 8;
        auto* granule = reinterpret_cast<uint32_t*>(memory + (o * pixels + pixel) * samples * 2);
        granule[exchanged<samples>(o, (own_u + u) / 2)] = E::pack(sums[u][n][k], sums[u + 1][n][k]);
      }
  sync_block();
}

// A granule of an output to where it belongs, in one piece where `whole`; else only its first `left` samples, which are all there are.
template <int samples>
PGCONV_DEVICE void write_granule(const unsigned char* from, int output, uint16_t* to, bool whole, int64_t left) {
  constexpr int count = samples / 2;
  struct alignas(4 * count) Granule {
    uint32_t word[count];
  };
  Granule granule = *reinterpret_cast<const Granule*>(from), own;
  PGCONV_UNROLL
  for (int bit = 1; bit < count; bit *= 2) {
    PGCONV_UNROLL
    for (int k = 0; k < count; ++k) own.word[k] = exchanged<samples>(output, 0) & bit ? granule.word[k ^ bit] : granule.word[k];
    granule = own;
  }
  if (whole)
    *reinterpret_cast<Granule*>(to) = granule;
  else
    PGCONV_UNROLL
    for (int k = 0; k < samples; ++k)
      if (k < left) to[k] = uint16_t(granule.word[k / 2] >> 16 * (k % 2));
}

// Where a result's pixel lies: the image, and the number in it, or -1 for one that does not exist.
struct ImagePixel {
  int64_t image, number;
};

// A warp's sums as float32 results, from the registers: lanes write 8 pixels of 8 outputs at a time, or where samples are last, two
// or more of these. at(k) is the lane's pixel, of the first 8 (k = 0) and of the others.
template <int U, int N, class At>
PGCONV_DEVICE void write_numbers(const ConvChain& p, const float (&sums)[U][N][4], int64_t o0, int64_t u0, At at) {
  const int t = lane() % 4;
  const float factor = *p.factor;
  const int64_t size = int64_t(p.out_height) * p.out_width, plane = size * p.Nu;
  const int64_t u_step = p.samples_last ? 1 : size, pixel_step = p.samples_last ? p.Nu : 1;
  PGCONV_UNROLL
  for (int k = 0; k < 2; ++k) {
    const ImagePixel pixel = at(k);
    if (pixel.number < 0) continue;
    float* to = p.numbers + (pixel.image * p.O + o0 + 2 * t) * plane + u0 * u_step + pixel.number * pixel_step;
    PGCONV_UNROLL
    for (int n = 0; n < N; ++n, to += 8 * plane)
      PGCONV_UNROLL
      for (int e = 0; e < 2; ++e) {
        if (o0 + 8 * n + 2 * t + e >= p.O) continue;
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u)
          if (u0 + u < p.Nu) to[e * plane + u * u_step] = sums[u][n][2 * k + e] * factor;
      }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
