// The planar convolution in the order `aggregate` on a GPU, for 16-bit operands: per channel c and sample u
//
//     S[p, h] = sum_{v, t} window[c, v, p + t] phi[u, v, t, h],      out[o, u, p] += sum_{c, h} S_c[p, h] W[o, c, h]
//
// chained in registers: sums (pixel, feature) of the first product, rounded to words, are the left operand of the second as they
// lie, 8 features (an octet) of one channel after the other.
//
// The window side is stored with the samples v of a pixel next to each other, 8 to a granule of 16 bytes. A granule is a row of the
// first product's left operand, so that taking it at another tap is adding an offset: nothing is expanded. Its depth counts
// granules (tap, octet of v), two to an instruction; its right operand, phi, lies as [octet of h][granule][8 h][8 v], so that a lane's
// word is the one with its own number.
//
// A block owns 32 pixels of an image, 8 samples u and 8 N outputs o; a warp 16 of the pixels and 2 of the samples. It walks over the
// channels, 8 octets of (channel, feature) at a time: window planes with their halo, and the head's columns.
//
// Per pixel, sample, and octet: 16 V T FLOPs (V, T padded), then 16 O. The adjoint for the window's gradient has the same form.
#pragma once

#include "conv_chain.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kChainWarps = 8;
constexpr int kChainPixels = 32, kChainSamples = 8;  // of a block
constexpr int kChainOctets = 8;                      // of a stage
constexpr int kChainRow = 16 * kChainOctets + 16;    // bytes of a row of the head in shared memory

// Channels of a stage, and a block's shared memory in bytes from the beginning.
struct ChainShared {
  int channels, halo_height, halo_width, plane;
  int offsets, phi, head, stage, stage_size, size;

  PGCONV_INLINE ChainShared of(const ConvChain& p, int outputs) {
    ChainShared s;
    s.channels = kChainOctets / p.octets;
    s.halo_height = (kChainPixels / p.tile_width - 1) * p.stride_y + p.reach_y + 1;
    s.halo_width = (p.tile_width - 1) * p.stride_x + p.reach_x + 1;
    s.plane = s.halo_height * s.halo_width * p.vectors * 16;
    s.offsets = 0;
    s.phi = (p.granules * 4 + 15) / 16 * 16;
    s.stage = s.phi + kChainSamples * p.octets * p.granules * 128;
    s.head = s.channels * s.plane;
    s.stage_size = s.head + outputs * kChainRow;
    s.size = s.stage + 2 * s.stage_size;
    return s;
  }
};

// Whether features of three pairs of granules find room in the registers beside the sums of N tiles of outputs. In the other cases
// they would drive others out, and are read from shared memory each time.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1000)
constexpr bool registers_left(int N) { return N == 8; }
#else
constexpr bool registers_left(int N) { return N == 16; }
#endif

// N tiles of 8 outputs; `steps` pairs of granules of one octet of features, 0: any of both.
template <class E, int N, int steps>
PGCONV_KERNEL(kChainWarps * kWarp) conv_chain(const ConvChain p) {
  constexpr int U = 2;
  constexpr bool held = steps > 0 && registers_left(N);
  const auto shared = ChainShared::of(p, 8 * N);
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4, warp_row = warp() % 2, own_u = warp() / 2 * U;

  // Consecutive blocks share the window: outputs first.
  int64_t at = block();
  const int64_t o0 = at % p.o_blocks * (8 * N);
  at /= p.o_blocks;
  const int64_t u0 = at % p.u_blocks * kChainSamples;
  at /= p.u_blocks;
  const int x0 = int(at % p.tiles_x) * p.tile_width;
  at /= p.tiles_x;
  const int y0 = int(at % p.tiles_y) * (kChainPixels / p.tile_width);
  const int64_t b = at / p.tiles_y, s = p.S > 1 ? b : 0;

  // Where a granule's tap lies in a plane. One more where their number was odd: that of the last again, so that nothing else is
  // read; its features are 0.
  auto* offsets = reinterpret_cast<int*>(memory + shared.offsets);
  for (int k = thread(); k < p.granules; k += threads()) {
    int granule = k < p.real ? k : p.real - 1, tap = granule / p.vectors;
    offsets[k] = (p.taps[tap][0] * shared.halo_width + p.taps[tap][1]) * p.vectors * 16 + granule % p.vectors * 16;
  }
  // Samples beyond the end repeat the last one and are not stored.
  auto sample = [&](int u) { return u0 + u < p.Nu ? u0 + u : p.Nu - 1; };
  const int phi_size = p.octets * p.granules * 32;  // words of a sample
  uint32_t phi[U][held ? 2 * steps : 1];
  if constexpr (held) {
    PGCONV_UNROLL
    for (int u = 0; u < U; ++u)
      PGCONV_UNROLL
      for (int k = 0; k < 2 * steps; ++k) {
        auto* words = reinterpret_cast<const uint32_t*>(p.phi) + (s * p.Nu + sample(own_u + u)) * phi_size;
        phi[u][k] = k < p.granules ? words[k * 32 + lane()] : 0;
      }
  } else {
    for (int k = thread(); k < kChainSamples * phi_size / 4; k += threads()) {
      const uint16_t* from = p.phi + ((s * p.Nu + sample(k / (phi_size / 4))) * phi_size + k % (phi_size / 4) * 4) * 2;
      copy_async<16>(memory + shared.phi + k * 16, from, true);
    }
  }

  auto load_stage = [&](int64_t c0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    const int row = shared.halo_width * p.vectors, plane = shared.halo_height * row;  // granules
    // Unrolled, the addresses under way would take the registers that sums need.
    PGCONV_ROLLED
    for (int k = thread(); k < shared.channels * plane; k += threads()) {
      int64_t c = c0 + k / plane;
      int in = k % plane, y = y0 * p.stride_y - p.pad_y + in / row, x = x0 * p.stride_x - p.pad_x + in % row / p.vectors;
      bool valid = c < p.C && y >= 0 && y < p.height && x >= 0 && x < p.width;
      int64_t from = valid ? (((b * p.C + c) * p.height + y) * p.width + x) * p.vectors + in % p.vectors : 0;
      copy_async<16>(stage + k * 16, p.f + from * 8, valid);
    }
    PGCONV_ROLLED
    for (int k = thread(); k < 8 * N * kChainOctets; k += threads()) {
      int64_t o = o0 + k / kChainOctets, c = c0 + k % kChainOctets / p.octets;
      bool valid = o < p.O && c < p.C;
      int64_t from = valid ? (o * p.C + c) * p.octets + k % kChainOctets % p.octets : 0;
      copy_async<16>(stage + shared.head + k / kChainOctets * kChainRow + k % kChainOctets * 16, p.weight + from * 8, valid);
    }
  };

  const int pixel = warp_row * 16 + lane() % 16;
  const int own_pixel =
      (pixel / p.tile_width * p.stride_y * shared.halo_width + pixel % p.tile_width * p.stride_x) * p.vectors * 16;
  const int own_head = (lane() % 8 + lane() / 16 * 8) * kChainRow + lane() / 8 % 2 * 16;

  float sums[U][N][4] = {};
  load_stage(0, 0);
  commit_copies();
  int buffer = 0;
  for (int64_t c0 = 0; c0 < p.C; c0 += shared.channels, buffer ^= 1) {
    if (c0 + shared.channels < p.C) load_stage(c0 + shared.channels, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    for (int q = 0; q < kChainOctets / 2; ++q) {
      float moments[2][U][4] = {};
      PGCONV_UNROLL
      for (int k = 0; k < 2; ++k) {
        int octet = (2 * q + k) % p.octets;
        const unsigned char* window = stage + (2 * q + k) / p.octets * shared.plane + own_pixel;
        if constexpr (held) {
          PGCONV_UNROLL
          for (int n = 0; n < steps; ++n) {
            uint32_t left[4];
            load_matrices(left, window + offsets[2 * n + lane() / 16]);
            PGCONV_UNROLL
            for (int u = 0; u < U; ++u) E::multiply_add(moments[k][u], left, phi[u][2 * n], phi[u][2 * n + 1]);
          }
        } else {
          auto* words = reinterpret_cast<const uint32_t*>(memory + shared.phi) + own_u * phi_size +
                        octet * p.granules * 32 + lane();
          const int pairs = steps > 0 ? steps : p.granules / 2;
          PGCONV_UNROLL_FEW
          for (int n = 0; n < pairs; ++n) {
            uint32_t left[4];
            load_matrices(left, window + offsets[2 * n + lane() / 16]);
            PGCONV_UNROLL
            for (int u = 0; u < U; ++u) {
              const uint32_t* pair = words + u * phi_size + n * 64;
              E::multiply_add(moments[k][u], left, pair[0], pair[32]);
            }
          }
        }
      }
      uint32_t left[U][4];
      PGCONV_UNROLL
      for (int u = 0; u < U; ++u)
        PGCONV_UNROLL
        for (int k = 0; k < 2; ++k) {
          left[u][2 * k] = E::pack(moments[k][u][0], moments[k][u][1]);
          left[u][2 * k + 1] = E::pack(moments[k][u][2], moments[k][u][3]);
        }
      PGCONV_UNROLL
      for (int n = 0; n < N / 2; ++n) {
        uint32_t w[4];
        load_matrices(w, stage + shared.head + own_head + 16 * n * kChainRow + 32 * q);
        PGCONV_UNROLL
        for (int u = 0; u < U; ++u) {
          E::multiply_add(sums[u][2 * n], left[u], w[0], w[1]);
          E::multiply_add(sums[u][2 * n + 1], left[u], w[2], w[3]);
        }
      }
    }
    sync_block();
  }

  PGCONV_UNROLL
  for (int k = 0; k < 4; ++k) {
    int own = warp_row * 16 + g + k / 2 * 8;
    int y = y0 + own / p.tile_width, x = x0 + own % p.tile_width;
    if (y >= p.out_height || x >= p.out_width) continue;
    PGCONV_UNROLL
    for (int u = 0; u < U; ++u) {
      if (u0 + own_u + u >= p.Nu) continue;
      PGCONV_UNROLL
      for (int n = 0; n < N; ++n) {
        int64_t o = o0 + 8 * n + 2 * t + k % 2;
        if (o < p.O)
          p.out[(((b * p.O + o) * p.Nu + u0 + own_u + u) * p.out_height + y) * p.out_width + x] =
              uint16_t(E::pack(sums[u][n][k], 0.0f));
      }
    }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
