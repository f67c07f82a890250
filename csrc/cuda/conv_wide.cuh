// The planar convolution of conv_chain.cuh for many features or taps, both products by instructions of warpgroups (sm_90a):
//
//     S[p, (h, u)] = sum_{v, t} window[c, v, p + t] phi[u, v, t, h],      out[o, u, p] += sum_{c, h} S_c[p, h, u] W[o, c, h]
//
// A block owns 128 pixels, 2 warpgroups of 64, of U samples and 8 N outputs. A unit of its work are two octets of features of a
// channel, or, where there is only one, of two channels. The first product's left operand are windows, granules (tap, octet of v)
// wide: rows are loaded as matrices from the stored planes, at an offset for each tap, once for all samples and features; its right
// operand, phi, stays in shared memory for the whole block, in rows (octet of h, u, h) as warpgroup.h describes them, cut into
// tiles of 8 granules. Sums, rounded to words, are as they lie the left operands of the second product, one for each sample; it runs
// while windows for the next unit's first product are loaded, and either while the other warpgroup rounds.
//
// Pixels are counted along strips (conv_strips.cuh), images together where they share phi.
//
// Per unit and warpgroup, with G pairs of granules (U = 8, N = 4; U = 4, N = 8):
//     FLOPs         64 * 32 * (16 U G + 8 N U)
//     tensor clocks U (8 G + 4 N)
//     shared bytes  G (2048 + 512 U) + U N 256: windows and phi; the head
// which for 29 taps (G = 15) and 8 samples are 1088 clocks and 782 of shared memory, at 128 bytes a clock; for 21 (G = 11) and 4
// samples 480 and 416. A block reads W and the planes once: per channel 128 N bytes for two octets, and a granule for each pixel
// and octet of v with the halo.
#pragma once

#include "chain_stage.cuh"
#include "conv_strips.cuh"
#include "warpgroup.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kWidePixels = 128;
constexpr int kPhiGranules = 8, kPhiPairs = 4;  // of a tile of phi: rows of 128 bytes

// More than there are granules, so that offsets can be read ahead.
PGCONV_INLINE int offsets_of(int granules) { return granules + 2 * kPhiGranules; }

// What a block keeps of its place where it takes no registers.
struct WidePlace {
  int64_t b0, o0, u0;  // b0: the image of the first pixel
  int64_t begin;       // of the images counted together
  int x0, pixel;       // pixel: the first
};

// A block's shared memory in bytes from the beginning, behind its place. Made by the host: a kernel's arguments take no registers.
struct WideShared : ChainStage {
  Strips strips;
  int steps, tiles;        // pairs of granules, and tiles of phi
  int pair_bits;           // a channel has 2 to that pairs of octets
  int offsets, sources, phi, stage, stage_size, buffers, ahead, size;

  static WideShared of(const ConvChain& p, int samples, int outputs) {
    WideShared s;
    s.channels = kChainOctets / p.octets;
    s.strips = Strips::of(p, kWidePixels);
    s.plane = s.strips.plane;
    s.steps = p.granules / 2;
    s.pair_bits = p.octets == 8 ? 2 : p.octets == 4;
    s.tiles = (p.granules + kPhiGranules - 1) / kPhiGranules;
    s.offsets = sizeof(WidePlace);
    s.sources = s.offsets + offsets_of(p.granules) * 4;
    s.phi = (s.sources + s.plane * 4 + 1023) / 1024 * 1024;
    s.stage = s.phi + s.tiles * samples * p.octets * 8 * kChainRow;
    s.head = (s.channels * s.plane * 16 + 1023) / 1024 * 1024;
    s.stage_size = s.head + outputs * kChainRow;
    // A buffer that is read, those on their way (two where they fit), and one that products may still read.
    s.ahead = s.stage + 4 * s.stage_size <= kMostSharedBytes90 ? 2 : 1;
    s.buffers = s.ahead + 2;
    const int loop = s.buffers * s.stage_size, results = outputs * result_size(samples, kWidePixels);
    s.size = s.stage + (loop > results ? loop : results);
    return s;
  }
};

struct ConvWide : ConvChain {
  WideShared shared;
};

PGCONV_DEVICE StripPixel wide_pixel(const ConvWide& p, int number) { return StripPixel::of(p, p.shared.strips, number); }

// Results that lie in shared memory, in pieces of 8 pixels where these follow each other in the result, on a boundary of 16 bytes.
template <int U, int N>
PGCONV_DEVICE void write_results(const ConvWide& p, const WidePlace& own, const unsigned char* memory) {
  // A thread writes the same pixels and sample of some outputs.
  constexpr int granules = kWidePixels / 8, apart = kChainThreads / (granules * U), size = result_size(U, kWidePixels);
  const int granule = thread() % granules, u = thread() / granules % U, first = thread() / (granules * U);
  if (own.u0 + u >= p.Nu) return;
  const bool rows = p.tile_width % 8 == 0 && p.out_width % 8 == 0;
  const bool images = p.tile_width == p.out_width && p.out_height * p.out_width % 8 == 0;
  auto to = [&](int k) -> uint16_t* {
    const StripPixel pixel = wide_pixel(p, own.pixel + granule * 8 + k);
    const int x = own.x0 + pixel.x;
    if (pixel.beyond || x >= p.out_width) return nullptr;
    const int64_t plane = ((own.begin + pixel.image) * p.O + own.o0 + first) * p.Nu + own.u0 + u;
    return p.out + (plane * p.out_height + pixel.y) * p.out_width + x;
  };
  const int64_t step = apart * p.Nu * p.out_height * p.out_width;
  const int count = int(p.O - own.o0 < 8 * N ? p.O - own.o0 : 8 * N);
  const unsigned char* from = memory + (u * kWidePixels + granule * 8) * 2;
  const int pieces = rows || images ? 1 : 8;
  for (int k = 0; k < pieces; ++k) {
    uint16_t* place = to(k);
    if (!place) continue;
    for (int o = first; o < count; o += apart, place += step)
      if (pieces == 1)
        *reinterpret_cast<FourWords*>(place) = *reinterpret_cast<const FourWords*>(from + o * size);
      else
        *place = reinterpret_cast<const uint16_t*>(from + o * size)[k];
  }
}

// The same where results have their samples last. A thread writes a pixel of some outputs.
template <int U, int N>
PGCONV_DEVICE void write_results_last(const ConvWide& p, const WidePlace& own, const unsigned char* memory) {
  constexpr int apart = kChainThreads / kWidePixels;
  const int place = thread() % kWidePixels, first = thread() / kWidePixels;
  const StripPixel pixel = wide_pixel(p, own.pixel + place);
  const int x = own.x0 + pixel.x;
  if (pixel.beyond || x >= p.out_width) return;
  const int64_t image = int64_t(p.out_height) * p.out_width, plane = (own.begin + pixel.image) * p.O + own.o0 + first;
  uint16_t* to = p.out + ((plane * image + int64_t(pixel.y) * p.out_width + x) * p.Nu + own.u0);
  const int count = int(p.O - own.o0 < 8 * N ? p.O - own.o0 : 8 * N);
  for (int o = first; o < count; o += apart, to += apart * image * p.Nu)
    write_granule<U>(memory + (o * kWidePixels + place) * U * 2, o, to, p.Nu % U == 0, p.Nu - own.u0);
}

template <class E, int U, int N, bool two_channels>
PGCONV_DEVICE void wide_block(const ConvWide& p) {
  constexpr int outputs = 8 * N, columns = two_channels ? U : 2 * U;  // columns: of the first product, in tiles
  constexpr int tile_size = 8 * columns * kChainRow;
  // Windows on their way, and those that products read.
  constexpr int depth = U == 8 ? 2 : 4, window_ahead = depth / 2;
  const WideShared& shared = p.shared;
  unsigned char* memory = shared_memory<unsigned char>();

  // Consecutive blocks share the window: outputs first.
  unsigned at = unsigned(block());
  WidePlace own;
  own.o0 = split_off(at, p.o_blocks) * int64_t(outputs);
  own.u0 = split_off(at, p.u_blocks) * int64_t(U);
  own.x0 = split_off(at, p.tiles_x) * p.tile_width;
  own.pixel = split_off(at, p.tiles_y) * kWidePixels;
  own.begin = int64_t(at) * p.images;
  const StripPixel first = wide_pixel(p, own.pixel);
  own.b0 = own.begin + first.image;
  auto* place = reinterpret_cast<WidePlace*>(memory);
  if (thread() == 0) *place = own;

  // Where a granule's tap lies in a plane. Behind them, that of the last again: its features are 0, or it is not used.
  auto* offsets = reinterpret_cast<int*>(memory + shared.offsets);
  for (int k = thread(); k < offsets_of(p.granules); k += kChainThreads)
    offsets[k] = strip_offset(p, shared.strips, k < p.real ? k : p.real - 1);
  // Where a plane's granules come from, counted from the first image's, or -1 beside it.
  auto* sources = reinterpret_cast<int*>(memory + shared.sources);
  for (int k = thread(); k < shared.plane; k += kChainThreads) {
    const StripSource from = StripSource::of(p, shared.strips, first, own.x0, k);
    sources[k] = from.inside ? ((from.image * int(p.C) * p.height + from.y) * p.width + from.x) * p.vectors + from.v : -1;
  }
  // Samples beyond the end repeat the last one and are not stored.
  for (int k = warp(); k < U * p.octets; k += kChainWarps) {
    const int u = k / p.octets, octet = k - u * p.octets;
    const int64_t sample = (p.S > 1 ? own.b0 : 0) * p.Nu + (own.u0 + u < p.Nu ? own.u0 + u : p.Nu - 1);
    const uint16_t* from = p.phi + (sample * p.octets + octet) * p.granules * 64;
    unsigned char* to = memory + shared.phi + octet / 2 * shared.tiles * tile_size;
    const int row = (octet % 2 * U + u) * 8;
    for (int n = lane(); n < p.granules * 8; n += kWarp) {
      const int h = n % 8, granule = n / 8;
      copy_async<16>(to + granule / kPhiGranules * tile_size + turned(row + h, granule % kPhiGranules), from + n * 8, true);
    }
  }
  const StripPixel pixel = wide_pixel(p, own.pixel + warp() * 16 + lane() % 16);
  const int own_pixel = ((pixel.line - first.line) * shared.strips.pitch + pixel.x * p.stride_x) * 16;
  const int* own_offsets = offsets + lane() / 16;
  sync_block();

  unsigned char* const stages = memory + shared.stage;
  auto load_stage = [&](int64_t c0, int buffer) {
    if (c0 < p.C) {
      auto copies = ChainCopies::of(p, shared, sources, place->b0, place->o0, c0);
      load_chain_stage<outputs, 1, false>(p, shared, copies, sources, stages + buffer * shared.stage_size);
    }
    commit_copies();
  };
  // The first product, of a channel's plane. Its sums begin with the first pair of granules.
  auto multiply_window = [&](const unsigned char* plane, const unsigned char* phi, auto& moments) {
    const unsigned char* from = plane + own_pixel;
    const int* offset = own_offsets + 2 * window_ahead;
    uint32_t window[depth][4];
    PGCONV_UNROLL
    for (int k = 0; k < window_ahead; ++k) load_matrices(window[k], from + own_offsets[2 * k]);
    int next = *offset;
    // No more than the last half of the second product runs on, or registers do not suffice.
    warpgroup_wait<1>();
    auto step = [&](int i, bool adds_to) {
      warpgroup_begin();
      warpgroup_multiply_add<E>(moments, window[i % depth], phi + i / kPhiPairs * tile_size, i % kPhiPairs * 32, adds_to);
      warpgroup_commit();
      warpgroup_wait<depth - window_ahead>();
      load_matrices(window[(i + window_ahead) % depth], from + next);
      next = offset[2 * i + 2];
    };
    step(0, false);
    PGCONV_ROLLED
    for (int k = 1; k < shared.steps; k += kPhiPairs) {
      PGCONV_UNROLL
      for (int i = 1; i <= kPhiPairs; ++i) {
        if (i > 1 && k + i > shared.steps) break;
        step(i, true);
      }
      phi += tile_size;
      offset += kPhiGranules;
    }
    warpgroup_wait<0>();
    hold_sums(moments);
  };

  float sums[U][N][4] = {}, moments[2 * U][4];
  uint32_t left[U][4];
  for (int k = 0; k < shared.ahead; ++k) load_stage(k * shared.channels, k);
  int buffer = 0, next = shared.ahead;
  for (int64_t c0 = 0; c0 < p.C; c0 += shared.channels) {
    wait_for_stage(shared.ahead);
    fence_shared();
    // All have the stage, and none reads the one whose place the next takes.
    sync_block();
    load_stage(c0 + shared.ahead * shared.channels, next);
    const unsigned char *stage = stages + buffer * shared.stage_size, *phi = memory + shared.phi;
    const int64_t rest = (p.C - c0) * p.octets;
    const int units = rest < kChainOctets ? int(rest + 1) / 2 : kChainOctets / 2;
    PGCONV_ROLLED
    for (int q = 0; q < units; ++q) {
      if constexpr (two_channels) {
        PGCONV_UNROLL
        for (int k = 0; k < 2; ++k)
          multiply_window(stage + (2 * q + k) * shared.plane * 16, phi, reinterpret_cast<float(&)[U][4]>(moments[k * U]));
      } else {
        const int channel = q >> shared.pair_bits, pair = q - (channel << shared.pair_bits);
        multiply_window(stage + channel * shared.plane * 16, phi + pair * shared.tiles * tile_size, moments);
      }
      // Half of the samples are rounded while the products of the others run.
      PGCONV_UNROLL
      for (int half = 0; half < 2; ++half) {
        constexpr int count = U / 2;
        PGCONV_UNROLL
        for (int u = half * count; u < (half + 1) * count; ++u)
          PGCONV_UNROLL
          for (int k = 0; k < 2; ++k) {
            const auto& of_octet = moments[k * U + u];
            left[u][2 * k] = E::pack(of_octet[0], of_octet[1]);
            left[u][2 * k + 1] = E::pack(of_octet[2], of_octet[3]);
          }
        warpgroup_begin();
        PGCONV_UNROLL
        for (int u = half * count; u < (half + 1) * count; ++u)
          warpgroup_multiply_add<E>(sums[u], left[u], stage + shared.head, 32 * q);
        warpgroup_commit();
      }
    }
    buffer = next_buffer(buffer, shared.buffers);
    next = next_buffer(next, shared.buffers);
  }
  warpgroup_wait<0>();
  PGCONV_UNROLL
  for (int u = 0; u < U; ++u) hold_sums(sums[u]);
  sync_block();
  if (p.numbers) {
    write_numbers(p, sums, place->o0, place->u0, [&](int k) -> ImagePixel {
      const StripPixel pixel = wide_pixel(p, place->pixel + warp() * 16 + lane() / 4 + 8 * k);
      const int x = place->x0 + pixel.x;
      return {place->begin + pixel.image, pixel.beyond || x >= p.out_width ? -1 : int64_t(pixel.y) * p.out_width + x};
    });
  } else if (p.samples_last) {
    gather_results_last<E, U, kWidePixels>(sums, stages, warp() * 16, 0);
    write_results_last<U, N>(p, *place, stages);
  } else {
    gather_results<E, U, kWidePixels>(sums, stages, warp() * 16, 0);
    write_results<U, N>(p, *place, stages);
  }
}

// U samples and N tiles of 8 outputs; the first product for two octets of a channel, or for one of each of two channels.
template <class E, int U, int N, bool two_channels>
PGCONV_KERNEL(kChainThreads) conv_wide(const ConvWide p) {
  if constexpr (kWarpgroups) wide_block<E, U, N, two_channels>(p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
