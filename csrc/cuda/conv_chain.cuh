// The planar convolution in the order `aggregate` on a GPU, for 16-bit operands: per channel c and sample u
//
//     S[p, h] = sum_{v, t} window[c, v, p + t] phi[u, v, t, h],      out[o, u, p] += sum_{c, h} S_c[p, h] W[o, c, h]
//
// chained in registers: sums (pixel, feature) of the first product, rounded to words, are the left operand of the second as they
// lie, 8 features (an octet) of one channel after the other.
//
// The window side is stored with the samples v of a pixel next to each other, 8 to a granule of 16 bytes. A granule is a row of the
// first product's left operand, so that taking it at another tap is adding an offset: nothing is expanded. Its depth counts
// granules (tap, octet of v), two to an instruction and a last one to an instruction of half the depth; its right operand, phi,
// lies as [octet of h][granule][8 h][8 v], so that a lane's word is the one with its own number.
//
// A block owns 32 pixels of an image, 8 samples u and 8 N outputs o; a warp 16 of the pixels and 2 of the samples. It walks over the
// channels, 8 octets of (channel, feature) at a time: window planes with their halo, and the head's columns.
//
// Per pixel, sample, and octet: 16 V T FLOPs (V, T padded), then 16 O. A warp's instructions for two octets: 4 G + 2 N of products
// (G granules, rounded up to pairs), G + N / 2 loads of matrices, 8 of rounding. The adjoint for the window's gradient has the same
// form.
#pragma once

#include "chain_stage.cuh"
#include "warpgroup.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kChainPixels = 32, kChainSamples = 8;  // of a block

// With instructions of warpgroups there is room for longer stages, so that all wait for each other less often.
PGCONV_INLINE constexpr int panels_of(bool warpgroups) { return warpgroups ? 2 : 1; }

// What a block keeps of its place where it takes no registers.
struct ChainPlace {
  int64_t b, o0, u0;
  int y0, x0;
};

// A block's shared memory in bytes from the beginning, behind its place.
struct ChainShared : ChainStage {
  int halo_height, halo_width;
  int offsets, sources, phi, stage, stage_size, buffers, ahead, size;

  PGCONV_INLINE ChainShared of(const ConvChain& p, int outputs, bool warpgroups) {
    ChainShared s;
    s.channels = panels_of(warpgroups) * kChainOctets / p.octets;
    s.halo_height = (kChainPixels / p.tile_width - 1) * p.stride_y + p.reach_y + 1;
    s.halo_width = (p.tile_width - 1) * p.stride_x + p.reach_x + 1;
    s.plane = s.halo_height * s.halo_width * p.vectors;
    s.offsets = sizeof(ChainPlace);
    s.sources = s.offsets + p.granules * 4;
    s.phi = (s.sources + s.plane * 4 + 127) / 128 * 128;
    s.stage = (s.phi + kChainSamples * p.octets * p.granules * 128 + 1023) / 1024 * 1024;
    s.head = (s.channels * s.plane * 16 + 1023) / 1024 * 1024;
    s.stage_size = s.head + panels_of(warpgroups) * outputs * kChainRow;
    // A buffer that is read, those on their way (two where they fit), and one that a warpgroup's products may still read.
    const int most = warpgroups ? kMostSharedBytes90 : kMostSharedBytes;
    s.buffers = 2 + warpgroups;
    s.ahead = s.stage + (s.buffers + 1) * s.stage_size <= most ? 2 : 1;
    s.buffers += s.ahead - 1;
    int loop = s.buffers * s.stage_size, results = outputs * result_size(kChainSamples, kChainPixels);
    s.size = s.stage + (loop > results ? loop : results);
    return s;
  }
};

// Results that lie in shared memory.
template <int N>
PGCONV_DEVICE void write_results(const ConvChain& p, const unsigned char* memory, int64_t o0, int64_t u0, int64_t b, int y0, int x0) {
  // A granule is 8 pixels of a row. A thread writes the same one of every eighth output.
  constexpr int granules = kChainPixels / 8, size = result_size(kChainSamples, kChainPixels);
  static_assert(granules * kChainSamples == kWarp, "a warp writes an output");
  const int granule = thread() % granules, u = thread() / granules % kChainSamples;
  const bool wide = p.tile_width == 16;
  const int y = y0 + (wide ? granule / 2 : granule), x = x0 + (wide ? granule % 2 * 8 : 0);
  if (u0 + u >= p.Nu || y >= p.out_height || x >= p.out_width) return;
  const int64_t image = int64_t(p.out_height) * p.out_width;
  uint16_t* to = p.out + ((b * p.O + o0 + warp()) * p.Nu + u0 + u) * image + int64_t(y) * p.out_width + x;
  for (int o = warp(); o < 8 * N && o0 + o < p.O; o += kChainWarps, to += kChainWarps * p.Nu * image) {
    const unsigned char* from = memory + o * size + (u * kChainPixels + granule * 8) * 2;
    if (p.out_width % 8 == 0)
      *reinterpret_cast<FourWords*>(to) = *reinterpret_cast<const FourWords*>(from);
    else
      for (int e = 0; e < 8 && x + e < p.out_width; ++e) to[e] = reinterpret_cast<const uint16_t*>(from)[e];
  }
}

// The same where results have their samples last. A warp writes an output.
template <int N>
PGCONV_DEVICE void write_results_last(const ConvChain& p, const unsigned char* memory, int64_t o0, int64_t u0, int64_t b, int y0, int x0) {
  static_assert(kChainPixels == kWarp, "a lane has a pixel");
  const int y = y0 + lane() / p.tile_width, x = x0 + lane() % p.tile_width;
  if (y >= p.out_height || x >= p.out_width) return;
  const int64_t image = int64_t(p.out_height) * p.out_width;
  uint16_t* to = p.out + (((b * p.O + o0 + warp()) * image + int64_t(y) * p.out_width + x) * p.Nu + u0);
  for (int o = warp(); o < 8 * N && o0 + o < p.O; o += kChainWarps, to += kChainWarps * image * p.Nu)
    write_granule<kChainSamples>(memory + (o * kChainPixels + lane()) * kChainSamples * 2, o, to, p.Nu % kChainSamples == 0, p.Nu - u0);
}

// Whether features find room in the registers beside the sums of N tiles of outputs; where not, they are read from shared memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool registers_left(int N) { return N <= 8; }
#else
constexpr bool registers_left(int) { return true; }
#endif

template <class E, int N, int known, bool warpgroups>
PGCONV_DEVICE void chain_block(const ConvChain& p) {
  constexpr int U = 2, outputs = 8 * N, granules = registers_left(N) ? known : 0;
  const auto shared = ChainShared::of(p, outputs, warpgroups);
  unsigned char* memory = shared_memory<unsigned char>();
  const int warp_row = warp() % 2, own_u = warp() / 2 * U;

  // Consecutive blocks share the window: outputs first.
  unsigned at = unsigned(block());
  const int64_t o0 = split_off(at, p.o_blocks) * int64_t(outputs), u0 = split_off(at, p.u_blocks) * int64_t(kChainSamples);
  const int x0 = split_off(at, p.tiles_x) * p.tile_width, y0 = split_off(at, p.tiles_y) * (kChainPixels / p.tile_width);
  const int64_t b = at, s = p.S > 1 ? b : 0;
  auto* place = reinterpret_cast<ChainPlace*>(memory);
  if (thread() == 0) *place = {b, o0, u0, y0, x0};

  // Where a granule's tap lies in a plane. One more where their number was odd: that of the last again, so that nothing else is
  // read; its features are 0.
  auto* offsets = reinterpret_cast<int*>(memory + shared.offsets);
  for (int k = thread(); k < p.granules; k += kChainThreads) {
    int granule = k < p.real ? k : p.real - 1, tap = granule / p.vectors;
    offsets[k] = ((p.taps[tap][0] * shared.halo_width + p.taps[tap][1]) * p.vectors + granule % p.vectors) * 16;
  }
  // Where a plane's granules come from in an image, or -1 beside it.
  auto* sources = reinterpret_cast<int*>(memory + shared.sources);
  for (int k = thread(); k < shared.plane; k += kChainThreads) {
    int v = k % p.vectors, pixel = k / p.vectors;
    int y = y0 * p.stride_y - p.pad_y + pixel / shared.halo_width, x = x0 * p.stride_x - p.pad_x + pixel % shared.halo_width;
    sources[k] = y >= 0 && y < p.height && x >= 0 && x < p.width ? (y * p.width + x) * p.vectors + v : -1;
  }
  // Samples beyond the end repeat the last one and are not stored.
  auto sample = [&](int u) { return u0 + u < p.Nu ? u0 + u : p.Nu - 1; };
  const int phi_size = p.octets * p.granules * 32;  // words of a sample
  uint32_t phi[U][granules > 0 ? granules : 1];
  if constexpr (granules > 0) {
    PGCONV_UNROLL
    for (int u = 0; u < U; ++u)
      PGCONV_UNROLL
      for (int k = 0; k < granules; ++k)
        phi[u][k] =
            reinterpret_cast<const uint32_t*>(p.phi)[(s * p.Nu + sample(own_u + u)) * phi_size + k * 32 + lane()];
  } else {
    for (int k = thread(); k < kChainSamples * phi_size / 4; k += kChainThreads) {
      const uint16_t* from = p.phi + ((s * p.Nu + sample(k / (phi_size / 4))) * phi_size + k % (phi_size / 4) * 4) * 2;
      copy_async<16>(memory + shared.phi + k * 16, from, true);
    }
  }
  sync_block();
  auto copies = ChainCopies::of(p, shared, sources, b, o0);
  unsigned char* const stages = memory + shared.stage;
  auto load_stage = [&](int buffer) {
    if (copies.left > 0) load_chain_stage<outputs, panels_of(warpgroups), warpgroups>(p, shared, copies, sources, stages + buffer * shared.stage_size);
    commit_copies();
  };

  const int pixel = warp_row * 16 + lane() % 16;
  const int own_pixel =
      (pixel / p.tile_width * p.stride_y * shared.halo_width + pixel % p.tile_width * p.stride_x) * p.vectors * 16;
  const int own_head = turned(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2);
  int own_offsets[granules > 0 ? (granules + 1) / 2 : 1];
  if constexpr (granules > 0)
    PGCONV_UNROLL
    for (int n = 0; n < (granules + 1) / 2; ++n) own_offsets[n] = own_pixel + offsets[2 * n + lane() / 16];

  // The first product, of one octet of a channel's plane.
  auto multiply_window = [&](const unsigned char* plane, int octet, float(&moments)[U][4]) {
    uint32_t left[4];
    if constexpr (granules > 0) {
      PGCONV_UNROLL
      for (int n = 0; n < (granules + 1) / 2; ++n) {
        load_matrices(left, plane + own_offsets[n]);
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u)
          if (2 * n + 1 < granules)
            E::multiply_add(moments[u], left, phi[u][2 * n], phi[u][2 * n + 1 < granules ? 2 * n + 1 : 0]);
          else
            E::multiply_add_half(moments[u], left, phi[u][2 * n]);
      }
    } else {
      const unsigned char* own_phi = memory + shared.phi + (own_u * phi_size + octet * p.granules * 32) * 4 + lane() * 16;
      const int pairs = p.granules / 2;
      // Features of two pairs at a time; a last single one is loaded twice.
      PGCONV_UNROLL_FEW
      for (int n = 0; n < pairs; n += 2) {
        const int back = n + 1 == pairs && lane() >= 16 ? 256 : 0;
        uint32_t words[U][4];
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u) load_matrices(words[u], own_phi + u * phi_size * 4 + n * 256 - back);
        load_matrices(left, plane + own_pixel + offsets[2 * n + lane() / 16]);
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u) E::multiply_add(moments[u], left, words[u][0], words[u][1]);
        if (n + 1 == pairs) break;
        load_matrices(left, plane + own_pixel + offsets[2 * n + 2 + lane() / 16]);
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u) E::multiply_add(moments[u], left, words[u][2], words[u][3]);
      }
    }
  };

  int octet_bits = 0;
  if constexpr (granules == 0)
    while (1 << octet_bits < p.octets) ++octet_bits;
  float sums[U][N][4] = {};
  // Of this and the last two octets: a warpgroup's products still read those.
  uint32_t left[2][U][4];
  for (int k = 0; k < shared.ahead; ++k) load_stage(k);
  int buffer = 0, next = shared.ahead;
  for (int64_t c0 = 0; c0 < p.C; c0 += shared.channels) {
    wait_for_stage(shared.ahead);
    if constexpr (warpgroups) fence_shared();
    // All have the stage, and none reads the one whose place the next takes.
    sync_block();
    load_stage(next);
    const unsigned char* stage = stages + buffer * shared.stage_size;
    PGCONV_ROLLED
    for (int panel = 0; panel < panels_of(warpgroups); ++panel) {
      const unsigned char* head = stage + shared.head + panel * outputs * kChainRow;
      // Pairs of octets.
      PGCONV_UNROLL
      for (int q = 0; q < kChainOctets / 2; ++q) {
        float moments[2][U][4] = {};
        PGCONV_UNROLL
        for (int k = 0; k < 2; ++k) {
          const int octet = panel * kChainOctets + 2 * q + k, channel = octet >> octet_bits;
          multiply_window(stage + channel * shared.plane * 16, octet - (channel << octet_bits), moments[k]);
        }
        auto& own = left[q % 2];
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u)
          PGCONV_UNROLL
          for (int k = 0; k < 2; ++k) {
            own[u][2 * k] = E::pack(moments[k][u][0], moments[k][u][1]);
            own[u][2 * k + 1] = E::pack(moments[k][u][2], moments[k][u][3]);
          }
        if constexpr (warpgroups) {
          warpgroup_begin();
          PGCONV_UNROLL
          for (int u = 0; u < U; ++u) warpgroup_multiply_add<E>(sums[u], own[u], head, 32 * q);
          warpgroup_commit();
          warpgroup_wait<1>();
        } else {
          const unsigned char* own_rows = head + (own_head ^ 32 * q);
          PGCONV_UNROLL
          for (int n = 0; n < N / 2; ++n) {
            uint32_t w[4];
            load_matrices(w, own_rows + 16 * n * kChainRow);
            PGCONV_UNROLL
            for (int u = 0; u < U; ++u) {
              E::multiply_add(sums[u][2 * n], own[u], w[0], w[1]);
              E::multiply_add(sums[u][2 * n + 1], own[u], w[2], w[3]);
            }
          }
        }
      }
    }
    buffer = next_buffer(buffer, shared.buffers);
    next = next_buffer(next, shared.buffers);
  }
  if constexpr (warpgroups) {
    warpgroup_wait<0>();
    PGCONV_UNROLL
    for (int u = 0; u < U; ++u) hold_sums(sums[u]);
  }
  sync_block();
  const ChainPlace own = *place;
  if (p.numbers) {
    write_numbers(p, sums, own.o0, own.u0 + own_u, [&](int k) -> ImagePixel {
      const int pixel = warp_row * 16 + lane() / 4 + 8 * k, y = own.y0 + pixel / p.tile_width, x = own.x0 + pixel % p.tile_width;
      return {own.b, y < p.out_height && x < p.out_width ? int64_t(y) * p.out_width + x : -1};
    });
  } else if (p.samples_last) {
    gather_results_last<E, kChainSamples, kChainPixels>(sums, stages, warp_row * 16, own_u);
    write_results_last<N>(p, stages, own.o0, own.u0, own.b, own.y0, own.x0);
  } else {
    gather_results<E, kChainSamples, kChainPixels>(sums, stages, warp_row * 16, own_u);
    write_results<N>(p, stages, own.o0, own.u0, own.b, own.y0, own.x0);
  }
}

// N tiles of 8 outputs; `granules` of one octet of features, whose phi then stays in registers, or 0: any number of both. The second
// product by instructions of a warp or of a warpgroup.
template <class E, int N, int granules, bool warpgroups>
PGCONV_KERNEL(kChainThreads) conv_chain(const ConvChain p) {
  if constexpr (!warpgroups || kWarpgroups) chain_block<E, N, granules, warpgroups>(p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
