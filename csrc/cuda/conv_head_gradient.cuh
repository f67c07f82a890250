// The gradient of the planar convolution's head on a GPU, for 16-bit operands:
//
//     dW[o, c, h] = sum_{b, u, p} S[c, h, u, p] grad[o, u, p],      S[c, h, u, p] = sum_{v, t} window[c, v, p + t] phi[u, v, t, h]
//
// chained in registers. For two pixels p, p' and 8 channels c, window granules are the left operand of the first product, rows (p, c)
// and (p', c), with as right operand the features of one h, columns u. Its sums (c, u), rounded to words, are as they lie the left
// operand of the second, whose depth is (p, u), (p', u) and whose rows are the channels of two features h; the gradient, samples u
// last, is its right operand.
//
// A warp owns 8 channels, 4 features and 8 N outputs, a block of 8 warps 32 channels (or 16, 8 with two or four warps that share the
// pixels of a tile), 8 features and the same outputs. It walks over tiles.
//
// Per pixel, sample, channel and feature: 2 V T FLOPs (V, T padded), then 2 O. For two pixels a warp takes 4 G / 2 + 4 N products (G
// granules, rounded up to pairs), G / 2 + N / 2 loads of four matrices (with features from shared memory G more) and 8 of
// rounding: with 5 taps and 128 outputs 44, 11 and 8. A block loads 16 (24 * 32 / 8 + 128) bytes a pixel (3 x 3 taps, tiles of 4 x 2)
// for 4 * 44 products. The other chain, with rows (u, h) in the first product and pixels as the depth of the second, takes as many
// products and loads, but a gradient with pixels last, and twice the registers for features.
#pragma once

#include "conv_tiles.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kHeadChannels = 32, kHeadFeatures = 8;  // of a block

// N tiles of 8 outputs; `steps` pairs of granules, whose features are in registers; 0: any, in shared memory
// [8 h][granules][8 u][8 v].
template <class E, int N, int steps>
PGCONV_KERNEL(kTileWarps * kWarp) conv_head_gradient(const ConvGradient p) {
  constexpr int H = 4;
  constexpr bool held = steps > 0;
  const ConvChain& conv = p.conv;
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4;
  const int groups = p.tiles.channels / 8, h0 = warp() % 2 * H, own_c = warp() / 2 % groups * 8, own_pair = warp() / 2 / groups;

  // Consecutive blocks share the gradient: channels first.
  int at = int(block());
  const int c0 = at % p.c_blocks * p.tiles.channels;
  at /= p.c_blocks;
  const int feature_octet = at % conv.octets;
  at /= conv.octets;
  const int o0 = at % p.o_blocks * (8 * N);
  const int64_t part = at / p.o_blocks, begin = part * p.units / p.parts, end = (part + 1) * p.units / p.parts;

  // Where the sums of channel g go, which is all that is left of the block's number during the walk.
  const int c = c0 + own_c + g, own_columns = c < conv.C ? least(int(conv.O) - o0, 8 * N) - 2 * t : 0;
  const int64_t own_part = part * p.tiles.pixel_groups + own_pair;
  float* to = p.sums + (((own_part * conv.C + c) * conv.octets + feature_octet) * 8 + h0) * conv.O + o0 + 2 * t;

  // Of sample u = g, granule k, feature h0 + h: words (2 t, 2 t + 1) of v.
  uint32_t phi[H][held ? 2 * steps : 1] = {};
  auto load_features = [&](const TileHead& tile) {
    const int64_t s = conv.S > 1 ? tile.b : 0;
    if constexpr (held) {
      const int64_t u = tile.octet * 8 + g;
      auto* words = reinterpret_cast<const uint32_t*>(conv.phi) +
                    ((s * conv.Nu + u) * conv.octets + feature_octet) * (2 * steps * 32) + h0 * 4 + t;
      PGCONV_UNROLL
      for (int h = 0; h < H; ++h)
        PGCONV_UNROLL
        for (int k = 0; k < 2 * steps; ++k) phi[h][k] = u < conv.Nu ? words[k * 32 + h * 4] : 0;
    } else {
      sync_block();
      const int rows = conv.granules * 8;
      for (int k = thread(); k < kHeadFeatures * rows; k += threads()) {
        const int h = k / rows, granule = k % rows / 8;
        const int64_t u = tile.octet * 8 + k % 8;
        const bool valid = u < conv.Nu;
        const int64_t from = valid ? (((s * conv.Nu + u) * conv.octets + feature_octet) * conv.granules + granule) * 8 + h : 0;
        copy_async<16>(memory + p.tiles.features + k * 16, conv.phi + from * 8, valid);
      }
      commit_copies();
      wait_copies<0>();
      sync_block();
    }
  };

  begin_tiles(p, memory);
  // What a lane reads: the window at channel lane % 8, pixel lane / 8 % 2, granule lane / 16 of two; the gradient at output
  // lane % 8 + lane / 16 * 8 of 16, pixel lane / 8 % 2.
  auto* offsets = reinterpret_cast<const int*>(memory + p.tiles.offsets) + lane() / 16;
  int own_offsets[held ? steps : 1];
  if constexpr (held) {
    PGCONV_UNROLL
    for (int n = 0; n < steps; ++n) own_offsets[n] = offsets[2 * n];
  }
  const int pixel = lane() / 8 % 2, own_window = (own_c + lane() % 8) * p.tiles.window;
  const int own_grad = p.tiles.grad + (lane() % 8 + lane() / 16 * 8) * kTileRow + pixel * 16;
  const unsigned char* own_phi = memory + p.tiles.features + ((h0 + lane() / 16) * conv.granules * 8 + lane() % 16) * 16;

  float sums[H / 2][N][4] = {};
  auto loader = TileLoader::at(p, c0, o0, 0, 0, begin);
  loader.begin<kHeadChannels, 8 * N>(memory, int(end - begin));
  PGCONV_ROLLED
  for (int left = int(end - begin); left > 0; --left) {
    wait_for_tile(p.tiles);
    sync_block();
    const unsigned char* stage = memory + stage_of(p.tiles, left);
    const auto& tile = *reinterpret_cast<const TileHead*>(stage + p.tiles.head);
    if (tile.begins) load_features(tile);
    PGCONV_ROLLED
    for (int pair = own_pair; pair < kTilePairs; pair += p.tiles.pixel_groups) {
      if (pair == TileLoader::pair(p, own_pair)) loader.next<kHeadChannels, 8 * N>(memory, left);
      const unsigned char* window = stage + own_window + tile.window_of(2 * pair + pixel, p.tiles);
      float moments[H][4] = {};
      if constexpr (held) {
        PGCONV_UNROLL
        for (int n = 0; n < steps; ++n) {
          uint32_t left[4];
          load_matrices(left, window + own_offsets[n]);
          PGCONV_UNROLL
          for (int h = 0; h < H; ++h) E::multiply_add(moments[h], left, phi[h][2 * n], phi[h][2 * n + 1]);
        }
      } else {
        PGCONV_UNROLL_FEW
        for (int n = 0; n < conv.granules / 2; ++n) {
          uint32_t left[4];
          load_matrices(left, window + offsets[2 * n]);
          PGCONV_UNROLL
          for (int h = 0; h < H; h += 2) {
            uint32_t right[4];
            load_matrices(right, own_phi + (h * conv.granules + 2 * n) * 128);
            E::multiply_add(moments[h], left, right[0], right[1]);
            E::multiply_add(moments[h + 1], left, right[2], right[3]);
          }
        }
      }
      uint32_t left[H / 2][4];
      PGCONV_UNROLL
      for (int m = 0; m < H / 2; ++m)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          const float* two = moments[2 * m + k % 2] + k / 2 * 2;
          left[m][k] = E::pack(two[0], two[1]);
        }
      PGCONV_UNROLL
      for (int n = 0; n < N / 2; ++n) {
        uint32_t right[4];
        load_matrices(right, stage + own_grad + pair * 32 + n * 16 * kTileRow);
        PGCONV_UNROLL
        for (int m = 0; m < H / 2; ++m) {
          E::multiply_add(sums[m][2 * n], left[m], right[0], right[1]);
          E::multiply_add(sums[m][2 * n + 1], left[m], right[2], right[3]);
        }
      }
    }
  }

  PGCONV_UNROLL
  for (int h = 0; h < H; ++h)
    PGCONV_UNROLL
    for (int n = 0; n < N; ++n)
      PGCONV_UNROLL
      for (int k = 0; k < 2; ++k)
        if (8 * n + k < own_columns) to[h * conv.O + 8 * n + k] = sums[h / 2][n][h % 2 * 2 + k];
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
