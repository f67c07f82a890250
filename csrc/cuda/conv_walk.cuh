// What all gradients of the planar convolution share: walks over tiles of pixels in parts, whose sums are added up.
#pragma once

#include "conv_gradient.h"
#include "device.h"
#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {

// Sums over more terms than in other kernels, since they end in 16 bits: at most 2^-13 of a sum without cancellation is lost.
constexpr int64_t kMostGradientTerms = 8 * kMostTerms;

// The walk over p.units, `terms` of each in a sum, in parts so many that `blocks` of them come as close below kEnoughBlocks as they
// can.
inline int parts_of_walk(const ConvGradient& p, int64_t blocks, int64_t terms) {
  int64_t wanted = kEnoughBlocks / (blocks > 0 ? blocks : 1), least = ceil_div(p.units * terms, kMostGradientTerms);
  if (p.most_parts > 0 && wanted > p.most_parts) wanted = p.most_parts;
  if (wanted > p.units) wanted = p.units;
  if (wanted < least) wanted = least;
  return wanted > 1 ? int(wanted) : 1;
}

// Sums of `count` numbers over the parts, in the same order whatever the grid: 8 threads take every eighth part of a number.
struct SumConvParts {
  int64_t count, parts;
  const float* from;
  float* to;
};
constexpr int kSumSlices = 8;

static PGCONV_KERNEL(kSumSlices * kWarp) sum_conv_parts(const SumConvParts p) {
  float* sums = shared_memory<float>();
  const int64_t k = block() * kWarp + lane();
  float sum = 0;
  if (k < p.count)
    for (int64_t n = warp(); n < p.parts; n += kSumSlices) sum += p.from[n * p.count + k];
  sums[thread()] = sum;
  sync_block();
  if (warp() > 0 || k >= p.count) return;
  for (int n = 1; n < kSumSlices; ++n) sum += sums[n * kWarp + lane()];
  p.to[k] = sum;
}

// All parts of a walk, whose sums are added up where there are several. The grid is that of one part.
template <class P>
void launch_walk(Machine& machine, void (*kernel)(P), P p, Grid grid, SumConvParts sum) {
  sum.from = p.sums = sum.parts > 1 ? machine.take<float>(sum.parts * sum.count) : sum.to;
  grid.blocks *= p.parts;
  launch(machine, kernel, grid, p);
  if (sum.parts < 2) return;
  constexpr int threads = kSumSlices * kWarp;
  launch(machine, sum_conv_parts, Grid{(sum.count + kWarp - 1) / kWarp, threads, threads * int(sizeof(float))}, sum);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
