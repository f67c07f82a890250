#include "conv_wide.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Samples, outputs: as many as a warpgroup's registers hold sums of.
struct WideBlock {
  int samples, outputs;
};
constexpr WideBlock kManySamples{8, 32}, kManyOutputs{4, 64};

// Images can be counted together where they share features, and where a block's numbers of granules stay small.
bool together(const ConvWide& p) {
  return p.S == 1 && p.C * p.height * p.width * p.vectors <= INT32_MAX / (kWidePixels + 1);
}

// False where a block does not fit, or where pixels are more than can be counted.
bool arrange(ConvWide& p, WideBlock block) {
  for (int64_t images : {p.B, int64_t(1)}) {
    if (images != 1 && !together(p)) continue;
    set_strips(p, kWidePixels, images);
    p.u_blocks = int(ceil_div(p.Nu, block.samples));
    p.o_blocks = int(ceil_div(p.O, block.outputs));
    p.shared = WideShared::of(p, block.samples, block.outputs);
    if (p.shared.size <= kMostSharedBytes90 && p.shared.strips.countable(p, kWidePixels)) return true;
  }
  return false;
}

// Arranges blocks; their samples, or 0.
int samples_of(ConvWide& p) {
  if (p.O <= kManySamples.outputs && p.Nu > kManyOutputs.samples && arrange(p, kManySamples)) return kManySamples.samples;
  return arrange(p, kManyOutputs) ? kManyOutputs.samples : 0;
}

template <class E, bool two_channels>
auto wide_kernel(int samples) {
  return samples == kManySamples.samples
             ? conv_wide<E, kManySamples.samples, kManySamples.outputs / 8, two_channels>
             : conv_wide<E, kManyOutputs.samples, kManyOutputs.outputs / 8, two_channels>;
}

}  // namespace

bool wide_takes(const ConvChain& chain, int capability) {
  ConvWide p{chain, {}};
  return capability == 90 && p.B > 0 && p.Nu > 0 && p.O > 0 && samples_of(p) > 0;
}

void conv_wide_of(Machine& machine, const ConvChain& chain, HalfType type) {
  ConvWide p{chain, {}};
  const int samples = samples_of(p);
  Grid grid{p.B / p.images * p.tiles_y * p.tiles_x * int64_t(p.u_blocks) * p.o_blocks, kChainThreads, p.shared.size};
  auto kernel = [&](auto e) {
    using E = decltype(e);
    return p.octets == 1 ? wide_kernel<E, true>(samples) : wide_kernel<E, false>(samples);
  };
  launch(machine, type == kFloat16 ? kernel(Half()) : kernel(Bfloat16()), grid, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
