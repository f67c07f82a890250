#include "conv_kernel_gradient.cuh"

#include "conv_walk.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Of a pixel's granule on its way into shared memory, the time in which as many products of 8 x 8 samples are done. 20 at 16 bytes
// and 1270 multiply-adds a clock; about half of it is hidden behind products.
constexpr double kProductsOfGranule = 10;

// Cuts the work into blocks of the least cost. False where none fit.
bool arrange(ConvKernelGradient& best, int capability) {
  ConvKernelGradient p = best;
  ConvChain& conv = p.conv;
  bool found = false;
  double least = 0;
  auto try_tiles = [&](int pixels, int widest) {
    p.pixels = pixels;
    set_strips(conv, pixels, conv.B, widest);
    p.strips = Strips::of(conv, pixels);
    if (!p.strips.countable(conv, pixels)) return;
    for (p.warps_o = 1; p.warps_o <= 4; p.warps_o *= 2) {
      p.o_blocks = int(ceil_div(conv.O, p.outputs()));
      p.granule_blocks = int(ceil_div(conv.C * conv.real, p.columns()));
      p.channels = p.columns() % conv.real ? (p.columns() - 2) / conv.real + 2 : p.columns() / conv.real;
      if (p.channels > conv.C) p.channels = int(conv.C);
      const int64_t window = int64_t(p.channels) * p.strips.plane * 16, grad = int64_t(p.outputs()) * p.pixels * 16;
      const int64_t stage = window + grad + p.pixels * 4;
      const int64_t bytes = sizeof(KernelPlace) + 2 * stage;
      if (bytes > most_shared(capability)) continue;
      p.grad_rows = int(window);
      p.places = int(window + grad);
      p.stage_bytes = int(stage);
      p.bytes = int(bytes);
      const double granules = double(stage) / (16 * p.pixels), products = double(p.outputs()) * p.columns();
      const double blocks = p.o_blocks * double(p.granule_blocks), all_pixels = double(conv.tiles_y) * conv.tiles_x * pixels;
      const double cost = blocks * all_pixels * (products + kProductsOfGranule * granules);
      if (!found || cost < least) least = cost, best = p, found = true;
    }
  };
  for (int widest = kWidestStrip; widest >= 16; widest /= 2)
    for (int pixels = 128; pixels >= 32; pixels /= 2) try_tiles(pixels, widest);
  return found;
}

}  // namespace

const char* why_not_kernel_gradient(const ConvGradient& gradient, int capability) {
  if (gradient.conv.vectors > 64) return "samples are too many for a block";
  ConvKernelGradient p{gradient};
  return arrange(p, capability) ? nullptr : "the window does not fit a block's shared memory";
}

void kernel_gradient_of(Machine& machine, const ConvGradient& gradient, HalfType type, float* out) {
  ConvKernelGradient p{gradient};
  const ConvChain& conv = p.conv;
  arrange(p, machine.capability);
  const int64_t blocks = int64_t(p.granule_blocks) * p.o_blocks * p.u_vectors;
  p.units = int64_t(conv.tiles_y) * conv.tiles_x;
  p.parts = parts_of_walk(p, blocks, p.pixels);
  SumConvParts sum{p.u_vectors * conv.O * conv.C * conv.real * 64, p.parts, nullptr, out};
  auto kernel = type == kFloat16 ? conv_kernel_gradient<Half> : conv_kernel_gradient<Bfloat16>;
  launch_walk(machine, kernel, p, Grid{blocks, kKernelThreads, p.bytes}, sum);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
