// The gradient of the planar convolution's features on a GPU, for 16-bit operands:
//
//     dphi[u, v, t, h] = sum_{b, p, c} G[u, p, c, h] window[c, v, p + t],      G[u, p, c, h] = sum_o grad[o, u, p] W[o, c, h]
//
// chained in registers. For two pixels p, p' the gradient, samples u last, is the left operand of the first product, rows (p, u) and
// (p', u), and the head of 16 channels and one h the right one. Its sums (u, c), rounded to words, are as they lie the left operand
// of the second, for one pixel: rows are the samples of two features h, the depth is the channels; the window's granule (pixel, tap,
// octet of v) is its right operand. Outputs and granules beyond those of a block belong to other blocks, whose G are parts of the sum
// over o.
//
// A warp owns 16 channels, 4 features, 16 K outputs, whose head stays in registers, and G granules; a block of 8 warps 64 channels
// (or 32, 16 with two or four warps that share the pixels of a tile), 8 features, 8 samples u and the same outputs and granules. It
// walks over tiles.
//
// Per pixel, sample, channel and feature: 2 O FLOPs, then 2 V T; nothing is padded but to whole octets, since a granule is a product's
// column tile. For two pixels a warp takes 8 K + 4 G products, K + G loads of four matrices and 16 of rounding: with 128 outputs and 5
// taps 84, 13 and 16. A block loads 16 (24 * 64 / 8 + 128) bytes a pixel (3 x 3 taps, tiles of 4 x 2) for 4 * 84 products.
#pragma once

#include "conv_tiles.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kFeatureChannels = 64;  // of a block
constexpr int kFeatureGroups = kTileWarps / 2;  // of two warps with the same features
// Shared memory for a block's sums over G granules.
constexpr int feature_sums_bytes(int G) { return 2 * kWarp * 8 * G * int(sizeof(float)); }

// What of the problem is a block's. Consecutive blocks share the gradient: channels first.
struct FeatureBlock {
  int c_block, octet, granule_block, o_block, u_octet, part, s;

  PGCONV_DEVICE FeatureBlock of(const ConvGradient& p, int64_t number) {
    int at = int(number);
    auto next = [&at](int count) {
      const int k = at % count;
      at /= count;
      return k;
    };
    FeatureBlock block;
    block.c_block = next(p.c_blocks);
    block.octet = next(p.conv.octets);
    block.granule_block = next(p.granule_blocks);
    block.o_block = next(p.o_blocks);
    block.u_octet = next(p.u_vectors);
    block.part = next(p.parts);
    block.s = at;
    return block;
  }
};

template <class E, int K, int G>
PGCONV_KERNEL(kTileWarps * kWarp) conv_feature_gradient(const ConvGradient p) {
  constexpr int H = 4;
  const ConvChain& conv = p.conv;
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4;
  const int own_c = warp() / 2 % (p.tiles.channels / 16) * 16;

  const FeatureBlock at = FeatureBlock::of(p, block());
  const int c0 = at.c_block * p.tiles.channels, o0 = at.o_block * (16 * K);
  const int64_t begin = at.part * p.units / p.parts, end = (at.part + 1) * p.units / p.parts;

  // Of feature h of the warp's and channel own_c + 8 j + g: outputs (2 t, 2 t + 1), and 8 further on, of 16.
  uint32_t head[H][2][K][2];
  PGCONV_UNROLL
  for (int k = 0; k < 2 * K; ++k)
    PGCONV_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int o = o0 + 8 * k + 2 * t, c = c0 + own_c + 8 * j + g;
      uint64_t four[2];
      PGCONV_UNROLL
      for (int n = 0; n < 2; ++n) {
        auto* from = reinterpret_cast<const uint64_t*>(conv.weight) + (((o + n) * conv.C + c) * conv.octets + at.octet) * 2;
        four[n] = o + n < conv.O && c < conv.C ? from[warp() % 2] : 0;
      }
      PGCONV_UNROLL
      for (int h = 0; h < H; ++h)
        head[h][j][k / 2][k % 2] = uint32_t(four[0] >> (16 * h) & 0xffff) | uint32_t(four[1] >> (16 * h) & 0xffff) << 16;
      // All of them under way at once would need twice the registers.
      sync_warp();
    }

  begin_tiles(p, memory, at.granule_block * G);
  // What a lane reads: the gradient at output lane % 8 + lane / 16 * 8 of 16, pixel lane / 8 % 2; the window at channel
  // lane % 16, pixel lane / 16.
  auto* offsets = reinterpret_cast<const int*>(memory + p.tiles.offsets);
  const int own_grad = p.tiles.grad + (lane() % 8 + lane() / 16 * 8) * kTileRow + lane() / 8 % 2 * 16;
  const int pixel = lane() / 16, own_window = (own_c + lane() % 16) * p.tiles.window;

  float sums[H / 2][G][4] = {};
  auto loader = TileLoader::at(p, c0, o0, conv.S > 1 ? at.s : 0, at.u_octet, begin);
  loader.begin<kFeatureChannels, 16 * K>(memory, int(end - begin));
  PGCONV_ROLLED
  for (int left = int(end - begin); left > 0; --left) {
    wait_for_tile(p.tiles);
    sync_block();
    const unsigned char* stage = memory + stage_of(p.tiles, left);
    const auto& tile = *reinterpret_cast<const TileHead*>(stage + p.tiles.head);
    const int own_pair = thread_anew() / (2 * kWarp) * p.tiles.pixel_groups / kFeatureGroups;
    PGCONV_ROLLED
    for (int pair = own_pair; pair < kTilePairs; pair += p.tiles.pixel_groups) {
      if (pair == TileLoader::pair(p, own_pair)) loader.next<kFeatureChannels, 16 * K>(memory, left);
      float parts[H][2][4] = {};
      PGCONV_UNROLL
      for (int k = 0; k < K; ++k) {
        uint32_t left[4];
        load_matrices_transposed(left, stage + own_grad + pair * 32 + k * 16 * kTileRow);
        PGCONV_UNROLL
        for (int h = 0; h < H; ++h)
          PGCONV_UNROLL
          for (int j = 0; j < 2; ++j) E::multiply_add(parts[h][j], left, head[h][j][k][0], head[h][j][k][1]);
      }
      uint32_t left[2][H / 2][4];
      PGCONV_UNROLL
      for (int q = 0; q < 2; ++q)
        PGCONV_UNROLL
        for (int m = 0; m < H / 2; ++m)
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) {
            const float* two = parts[2 * m + k % 2][k / 2] + 2 * q;
            left[q][m][k] = E::pack(two[0], two[1]);
          }
      const unsigned char* window = stage + own_window + tile.window_of(2 * pair + pixel, p.tiles);
      PGCONV_UNROLL
      for (int n = 0; n < G; ++n) {
        uint32_t right[4];
        load_matrices_transposed(right, window + offsets[n]);
        PGCONV_UNROLL
        for (int q = 0; q < 2; ++q)
          PGCONV_UNROLL
          for (int m = 0; m < H / 2; ++m) E::multiply_add(sums[m][n], left[q][m], right[2 * q], right[2 * q + 1]);
      }
    }
  }

  // The sums of warps with the same features, one after the other on top of those before; the last ones write them.
  const int number = thread_anew(), own_group = number / (2 * kWarp);
  float* before = reinterpret_cast<float*>(memory + p.tiles.stage) + number % (2 * kWarp);
  PGCONV_ROLLED
  for (int turn = 0; turn < kFeatureGroups; ++turn) {
    sync_block();
    if (turn != own_group) continue;
    PGCONV_UNROLL
    for (int m = 0; m < H / 2; ++m)
      PGCONV_UNROLL
      for (int n = 0; n < G; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          float& sum = before[((m * G + n) * 4 + k) * (2 * kWarp)];
          if (turn > 0) sums[m][n][k] += sum;
          sum = sums[m][n][k];
        }
  }
  const FeatureBlock of = FeatureBlock::of(p, block_anew());
  const int u = 8 * of.u_octet + number % kWarp / 4, first_granule = of.granule_block * G;
  if (own_group < kFeatureGroups - 1 || u >= conv.Nu) return;
  const int64_t own_part = (int64_t(of.part) * p.o_blocks + of.o_block) * p.c_blocks + of.c_block;
  const int64_t row = ((own_part * conv.S + of.s) * conv.Nu + u) * conv.octets + of.octet;
  float* to = p.sums + (row * conv.real + first_granule) * 64 + number / kWarp % 2 * (8 * H) + number % 4 * 2;
  PGCONV_UNROLL
  for (int n = 0; n < G; ++n)
    if (first_granule + n < conv.real)
      PGCONV_UNROLL
      for (int h = 0; h < H; ++h)
        PGCONV_UNROLL
        for (int k = 0; k < 2; ++k) to[n * 64 + h * 8 + k] = sums[h / 2][n][h % 2 * 2 + k];
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
