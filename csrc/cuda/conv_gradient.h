// Gradients of head and features of the planar convolution on a GPU, and of the kernel they make: what conv_head_gradient.cu,
// conv_feature_gradient.cu and conv_kernel_gradient.cu offer the operators.
#pragma once

#include "conv_chain.h"

namespace pgconv {
namespace PGCONV_ISA {

// How an image is cut into tiles of output pixels, and what a block holds of one in shared memory, see conv_tiles.cuh.
struct ConvTiles {
  int height, width;              // of a tile in pixels
  int shift, mask;                // a pixel's row and column in it: number >> shift, number & mask
  int64_t tiles_y, tiles_x;       // of an image
  // Bytes from one row, and one channel, of the signal to the next, from one output of the gradient to the next, and of both from
  // one tile of a row of tiles to the next.
  int64_t row, plane, out_plane, window_step, grad_step;
  int halo_width;                 // of a tile's window
  int granules;                   // whose offsets a block holds
  int positions, window;          // granules of a channel's window, and the bytes from one channel to the next
  int row_step, pixel_step;       // bytes from a pixel's granule to that of the next row, the next pixel
  int channels;                   // of a block
  int pixel_groups;               // warps that differ in their pixels only: 1, 2 or 4
  int places, offsets, features;  // where things begin, in bytes
  int stage, grad, head, stage_size, size;  // `grad` and `head` in a stage
  int ahead;  // tiles on their way; a block has stages for them and one more, a power of two
};

struct ConvGradient {
  ConvChain conv;        // its `out`, and of `phi` and `weight` that whose gradient is taken, are not used
  int u_vectors;         // octets of samples u
  const uint16_t* grad;  // [B, O, out_height, out_width, 8 u_vectors], 0 behind Nu
  int most_parts;        // of the walk over the tiles; 0: as many as keep a GPU busy
  // Set by the drivers: tiles are the units of work, those of an octet of u and a set of images cut into parts.
  ConvTiles tiles;
  int c_blocks, o_blocks, granule_blocks, parts;
  int64_t units;
  float* sums;  // of each part
};

// Why no kernel takes the shape on a GPU of that compute capability, times ten; or null.
const char* why_not_head_gradient(ConvGradient p, int capability);
// out [C, 8 octets, O]
void head_gradient_of(Machine& machine, ConvGradient p, HalfType type, float* out);

const char* why_not_feature_gradient(ConvGradient p, int capability);
// out [S, Nu, octets, taps * vectors, 8 h, 8 v]
void feature_gradient_of(Machine& machine, ConvGradient p, HalfType type, float* out);

// Where all images share features; B and C are set.
const char* why_not_kernel_gradient(const ConvGradient& p, int capability);
// out [u_vectors, O, C, taps * vectors, 8 u, 8 v]
void kernel_gradient_of(Machine& machine, const ConvGradient& p, HalfType type, float* out);

}  // namespace PGCONV_ISA
}  // namespace pgconv
