#include "conv_head_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Pairs of granules of the disc in a 3 x 3 window with up to 8 samples.
constexpr int kHeadSteps = 3;

bool head_held(const ConvGradient& p) { return p.conv.granules == 2 * kHeadSteps; }
int head_outputs(const ConvGradient& p) { return p.conv.O > 64 ? 128 : 64; }

bool set_head_tiles(ConvGradient& p, int capability) {
  const int features = head_held(p) ? 0 : kHeadFeatures * p.conv.granules * 128;
  return cut_into_tiles(p, kHeadChannels, head_outputs(p), p.conv.granules, features, capability);
}

template <class E>
auto head_kernel(const ConvGradient& p) {
  if (head_outputs(p) == 128) return head_held(p) ? conv_head_gradient<E, 16, kHeadSteps> : conv_head_gradient<E, 16, 0>;
  return head_held(p) ? conv_head_gradient<E, 8, kHeadSteps> : conv_head_gradient<E, 8, 0>;
}

}  // namespace

const char* why_not_head_gradient(ConvGradient p, int capability) {
  if (const char* reason = why_not_tiles(p.conv)) return reason;
  return set_head_tiles(p, capability) ? nullptr : "the window does not fit a block's shared memory";
}

void head_gradient_of(Machine& machine, ConvGradient p, HalfType type, float* out) {
  set_head_tiles(p, machine.capability);
  p.c_blocks = int(ceil_div(p.conv.C, p.tiles.channels));
  p.o_blocks = int(ceil_div(p.conv.O, head_outputs(p)));
  int64_t blocks = int64_t(p.c_blocks) * p.conv.octets * p.o_blocks;
  p.units = p.tiles.tiles_y * p.tiles.tiles_x * p.conv.B * p.u_vectors;
  p.parts = parts_of_walk(p, blocks, kTilePixels * 8);
  SumConvParts sum{p.conv.C * p.conv.octets * 8 * p.conv.O, int64_t(p.parts) * p.tiles.pixel_groups, nullptr, out};
  auto kernel = type == kFloat16 ? head_kernel<Half>(p) : head_kernel<Bfloat16>(p);
  launch_walk(machine, kernel, p, Grid{blocks, kTileWarps * kWarp, p.tiles.size}, sum);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
