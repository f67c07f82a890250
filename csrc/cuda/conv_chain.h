// The planar convolution on a GPU: what conv_chain.cu offers the operators.
#pragma once

#include <cstdint>

#include "half_type.h"
#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kMostTaps = 128;

// Output pixel (y, x) reads window pixels (stride y - pad + tap). Pads may be negative.
struct ConvChain {
  int64_t B, S, C, O, Nu;
  int octets;          // of features: 1, 2, 4 or 8
  int vectors;         // octets of samples v
  int real, granules;  // taps * vectors, and that rounded up to even
  int height, width, out_height, out_width;
  int stride_y, stride_x, pad_y, pad_x;
  int reach_y, reach_x;  // largest taps
  int16_t taps[kMostTaps][2];
  const uint16_t* f;       // [B, C, height, width, 8 vectors]
  const uint16_t* phi;     // [S, Nu, octets, granules, 8 h, 8 v]
  const uint16_t* weight;  // [O, C, 8 octets]
  bool samples_last;       // of the result
  uint16_t* out;           // [B, O, Nu, out_height, out_width], or [B, O, out_height, out_width, Nu]
  float* numbers;          // the same in float32 instead, times the factor; or null
  const float* factor;
  // How a block's pixels lie; set by conv_chain_of().
  int tile_width, tiles_y, tiles_x, u_blocks, o_blocks;
  int images;  // whose pixels are counted together, by conv_wide
};

// Sizes and taps, checked: null, or what is wrong with them. taps [count, 2]; geometry: stride, pad, output size.
const char* set_taps(ConvChain& p, const int64_t* taps, int64_t count);
// Why no kernel takes the shape on a GPU of that compute capability, times ten; or null.
const char* why_not_chain(ConvChain p, int capability);
void conv_chain_of(Machine& machine, ConvChain p, HalfType type);

// conv_wide.cu, for many features or taps: whether it takes the shape, and that kernel.
bool wide_takes(const ConvChain& p, int capability);
void conv_wide_of(Machine& machine, const ConvChain& p, HalfType type);

}  // namespace PGCONV_ISA
}  // namespace pgconv
