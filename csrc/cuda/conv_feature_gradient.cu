#include "conv_feature_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Depth steps of 16 outputs and granules of a block. Their numbers are what a thread's registers allow: head 16 K, sums 8 G.
struct FeatureShape {
  int steps, granules;
};
constexpr FeatureShape kFeatureShapes[] = {{8, 5}, {4, 5}, {4, 9}, {2, 15}};

// The shape with the fewest products: for two pixels a warp takes 8 K + 4 G, for each block of outputs and granules.
FeatureShape feature_shape(const ConvGradient& p) {
  auto products = [&](FeatureShape s) {
    return ceil_div(p.conv.O, 16 * s.steps) * ceil_div(p.conv.real, s.granules) * (8 * s.steps + 4 * s.granules);
  };
  FeatureShape best = kFeatureShapes[0];
  for (FeatureShape s : kFeatureShapes)
    if (products(s) < products(best)) best = s;
  return best;
}

bool set_feature_tiles(ConvGradient& p, int capability) {
  FeatureShape shape = feature_shape(p);
  p.granule_blocks = int(ceil_div(p.conv.real, shape.granules));
  if (!cut_into_tiles(p, kFeatureChannels, 16 * shape.steps, shape.granules, 0, capability)) return false;
  int with_sums = p.tiles.stage + feature_sums_bytes(shape.granules);
  if (p.tiles.size < with_sums) p.tiles.size = with_sums;
  return with_sums <= most_shared(capability);
}

template <class E>
auto feature_kernel(const ConvGradient& p) {
  FeatureShape shape = feature_shape(p);
  if (shape.steps == 8) return conv_feature_gradient<E, 8, 5>;
  if (shape.steps == 2) return conv_feature_gradient<E, 2, 15>;
  return shape.granules == 5 ? conv_feature_gradient<E, 4, 5> : conv_feature_gradient<E, 4, 9>;
}

}  // namespace

const char* why_not_feature_gradient(ConvGradient p, int capability) {
  if (const char* reason = why_not_tiles(p.conv)) return reason;
  return set_feature_tiles(p, capability) ? nullptr : "the window does not fit a block's shared memory";
}

void feature_gradient_of(Machine& machine, ConvGradient p, HalfType type, float* out) {
  const ConvChain& conv = p.conv;
  set_feature_tiles(p, machine.capability);
  // At least one, since sums of nothing are 0.
  p.c_blocks = int(ceil_div(conv.C > 0 ? conv.C : 1, p.tiles.channels));
  p.o_blocks = int(ceil_div(conv.O > 0 ? conv.O : 1, 16 * feature_shape(p).steps));
  int64_t blocks = conv.S * p.u_vectors * p.o_blocks * p.granule_blocks * conv.octets * p.c_blocks;
  p.units = p.tiles.tiles_y * p.tiles.tiles_x * (conv.S > 1 ? 1 : conv.B);
  p.parts = parts_of_walk(p, blocks, kTilePixels * 16);
  SumConvParts sum{conv.S * conv.Nu * conv.octets * conv.real * 64, int64_t(p.parts) * p.o_blocks * p.c_blocks, nullptr, out};
  auto kernel = type == kFloat16 ? feature_kernel<Half>(p) : feature_kernel<Bfloat16>(p);
  launch_walk(machine, kernel, p, Grid{blocks, kTileWarps * kWarp, p.tiles.size}, sum);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
