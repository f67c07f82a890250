// The gradient of the planar convolution's kernel at its taps on a GPU, for 16-bit operands and images that share features:
//
//     dK[o, u, c, v, t] = sum_{b, p} grad[o, u, p] window[c, v, p + t],
//
// of which the gradients of head and features are small products. Where features are many or outputs few, it has fewer FLOPs than the
// chains of conv_head_gradient.cuh and conv_feature_gradient.cuh.
//
// One product over the pixels: rows (o, u) and columns (c, t, v), both in granules of 8 samples as they are stored, loaded as
// transposed matrices of 8 pixels; so a tap is an offset, and nothing is expanded on the way. A warp owns 8 outputs and 12 granules
// of columns, a block of 8 warps 8, 16 or 32 outputs, all with the same columns or not, and walks over tiles of 128 pixels (64, 32
// where less shared memory is), counted along strips (conv_strips.cuh).
//
// Per 16 pixels a warp takes 48 products, 10 loads of four matrices and one of places. Shared memory is busy 40 of the 77 clocks that
// products take at 1270 multiply-adds a clock. A block with 32 outputs brings 32 granules of gradients a pixel and about 3 of each
// channel's window for 7 x 7 taps, with 8 outputs 8 and as many for four times the columns.
#pragma once

#include "conv_gradient.h"
#include "conv_strips.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kKernelWarps = 8, kKernelThreads = kKernelWarps * kWarp;
constexpr int kKernelPixels = 16;                    // of a product
constexpr int kKernelOutputs = 8, kKernelColumns = 12;  // granules of a warp

struct ConvKernelGradient : ConvGradient {
  Strips strips;
  int pixels;              // of a tile
  int warps_o;             // of a block that differ in their outputs; the others differ in their columns
  int channels;            // that a block's columns belong to, at most
  int grad_rows, places;   // where gradients and the pixels' places begin in a stage, in bytes
  int stage_bytes, bytes;  // of a stage, of a block

  constexpr int outputs() const { return kKernelOutputs * warps_o; }
  constexpr int columns() const { return kKernelColumns * (kKernelWarps / warps_o); }
};

// What a block keeps of its place where it takes no registers.
struct alignas(16) KernelPlace {
  int column, o0, octet, part;  // column: the first

  // Consecutive blocks share the gradient: columns first.
  PGCONV_DEVICE KernelPlace of(const ConvKernelGradient& p, int block) {
    KernelPlace place;
    place.column = block % p.granule_blocks * p.columns();
    block /= p.granule_blocks;
    place.o0 = block % p.o_blocks * p.outputs();
    block /= p.o_blocks;
    place.octet = block % p.u_vectors;
    place.part = block / p.u_vectors;
    return place;
  }
};

template <class E>
PGCONV_KERNEL(kKernelThreads) conv_kernel_gradient(const ConvKernelGradient p) {
  constexpr int outputs = kKernelOutputs, pairs = kKernelColumns / 2;
  const ConvChain& conv = p.conv;
  const auto& place = *shared_memory<KernelPlace>();
  unsigned char* stages = shared_memory<unsigned char>() + sizeof(KernelPlace);
  const int all_columns = int(conv.C) * conv.real;

  auto load = [&](int unit, unsigned char* stage) {
    const int strip = unit / conv.tiles_y, number = (unit - strip * conv.tiles_y) * p.pixels;
    const int x0 = strip * conv.tile_width, c0 = place.column / conv.real, own = thread_anew();
    const StripPixel first = StripPixel::of(conv, p.strips, number);
    {
      const int mine = own & (p.pixels - 1), apart = kKernelThreads / p.pixels;
      const StripPixel pixel = StripPixel::of(conv, p.strips, number + mine);
      // Beyond the image a pixel has gradient 0, and the window of the last one: what no output reads is not read, be it NaN.
      const int last = conv.out_width - 1 - x0, x = pixel.x < last ? pixel.x : last;
      const bool valid = !pixel.beyond && pixel.x <= last;
      if (own < p.pixels)
        reinterpret_cast<int*>(stage + p.places)[own] = ((pixel.line - first.line) * p.strips.pitch + x * conv.stride_x) * 16;
      const int64_t plane = int64_t(conv.out_height) * conv.out_width;
      int o = own / p.pixels;
      const uint16_t* from = p.grad + (((pixel.image * conv.O + place.o0 + o) * plane + int64_t(pixel.y) * conv.out_width + x0 + x) * p.u_vectors +
                                       place.octet) * 8;
      unsigned char* to = stage + p.grad_rows + (o * p.pixels + mine) * 16;
      const int64_t step = apart * plane * p.u_vectors * 8;
      const int outputs_left = int(conv.O) - place.o0;
      PGCONV_ROLLED
      for (; o < p.outputs(); o += apart, from += step, to += kKernelThreads * 16)
        copy_async<16>(to, from, o < outputs_left && valid);
    }
    const int64_t plane = int64_t(conv.height) * conv.width * conv.vectors * 8;
    const int channels = int(conv.C) - c0 < p.channels ? int(conv.C) - c0 : p.channels;
    PGCONV_ROLLED
    for (int k = own; k < p.strips.plane; k += kKernelThreads) {
      const StripSource source = StripSource::of(conv, p.strips, first, x0, k);
      const uint16_t* from = conv.f + ((first.image + source.image) * conv.C + c0) * plane +
                             ((int64_t(source.y) * conv.width + source.x) * conv.vectors + source.v) * 8;
      unsigned char* to = stage + k * 16;
      PGCONV_ROLLED
      for (int c = 0; c < channels; ++c, from += plane, to += p.strips.plane * 16) copy_async<16>(to, from, source.inside);
    }
    commit_copies();
  };

  // What a lane reads: the gradient of output lane / 8 % 2 of two at pixel lane % 8 + lane / 16 * 8; the window at pixel lane % 16
  // and of columns lane / 16 of two. Columns that do not exist are the last one, and are not stored.
  const int own_outputs = warp() % p.warps_o * outputs, own_columns = warp() / p.warps_o * kKernelColumns;
  const int own_grad = p.grad_rows + ((own_outputs + lane() / 8 % 2) * p.pixels + lane() % 8 + lane() / 16 * 8) * 16;
  const int own_place = p.places + lane() % 16 * 4;
  int left, end, offsets[pairs];
  {
    const KernelPlace own = KernelPlace::of(p, int(block()));
    PGCONV_UNROLL
    for (int n = 0; n < pairs; ++n) {
      int column = own.column + own_columns + 2 * n + lane() / 16;
      if (column >= all_columns) column = all_columns - 1;
      const int c = column / conv.real;
      offsets[n] = (c - own.column / conv.real) * p.strips.plane * 16 + strip_offset(conv, p.strips, column - c * conv.real);
    }
    end = int((own.part + 1) * p.units / p.parts);
    left = end - int(own.part * p.units / p.parts);
    if (thread() == 0) *shared_memory<KernelPlace>() = own;
  }
  sync_block();

  float sums[outputs / 2][2 * pairs][4] = {};
  const int steps = p.pixels / kKernelPixels;
  if (left > 0) load(end - left, stages + (left & 1) * p.stage_bytes);
  PGCONV_ROLLED
  for (; left > 0; --left) {
    wait_copies<0>();
    sync_block();
    const unsigned char* stage = stages + (left & 1) * p.stage_bytes;
    // Warps that share a scheduler bring their share of the next tile at different times, so that one's products hide the other's
    // addresses.
    const int busy = thread_anew() / (kKernelThreads / 2) * ((steps + 3) / 4);
    PGCONV_ROLLED
    for (int step = 0; step < steps; ++step) {
      if (left > 1 && step == busy) load(end - left + 1, stages + (~left & 1) * p.stage_bytes);
      uint32_t rows[outputs / 2][4];
      PGCONV_UNROLL
      for (int m = 0; m < outputs / 2; ++m)
        load_matrices_transposed(rows[m], stage + own_grad + step * (kKernelPixels * 16) + m * 2 * p.pixels * 16);
      const unsigned char* window = stage + *reinterpret_cast<const int*>(stage + own_place + step * (kKernelPixels * 4));
      PGCONV_UNROLL
      for (int n = 0; n < pairs; ++n) {
        uint32_t columns[4];
        load_matrices_transposed(columns, window + offsets[n]);
        PGCONV_UNROLL
        for (int m = 0; m < outputs / 2; ++m) {
          E::multiply_add(sums[m][2 * n], rows[m], columns[0], columns[1]);
          E::multiply_add(sums[m][2 * n + 1], rows[m], columns[2], columns[3]);
        }
      }
    }
  }

  // [part][octet of u][o][c, t, octet of v][u][v]: a product's sums of an output and column are 64 numbers, one behind the other.
  PGCONV_UNROLL
  for (int m = 0; m < outputs; ++m) {
    const int64_t o = place.o0 + own_outputs + m;
    if (o >= conv.O) continue;
    const int column = place.column + own_columns;
    float* to = p.sums + (((int64_t(place.part) * p.u_vectors + place.octet) * conv.O + o) * all_columns + column) * 64 + lane() * 2;
    PGCONV_UNROLL
    for (int n = 0; n < 2 * pairs; ++n)
      if (column + n < all_columns)
        *reinterpret_cast<TwoNumbers*>(to + n * 64) = {sums[m / 2][n][m % 2 * 2], sums[m / 2][n][m % 2 * 2 + 1]};
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
