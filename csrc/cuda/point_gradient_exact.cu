#include "point_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {

namespace {

template <class Net, int tiles>
GradientKernel kernel() {
  return {point_gradient<InParts, Net, tiles>, tiles, true};
}

// Registers are enough for up to seven coordinates; common nets are known to kernels of their own, with up to four for less.
template <int activation>
GradientKernel known(const NetShape& shape) {
  if (row_steps(shape.coord_dim) > kShortSteps) return kernel<KnownNet<activation, 2, kAny, true>, 3>();
  return kernel<KnownNet<activation, 2, kShortSteps, true>, 2>();
}

}  // namespace

GradientKernel exact_gradient(const NetShape& shape) {
  if (shape.hidden_layers == 1) return kernel<KnownNet<kAny, 1, kAny, true>, 3>();
  if (shape.activation == kSin) return known<kSin>(shape);
  if (shape.activation == kSilu) return known<kSilu>(shape);
  return kernel<KnownNet<kAny, 2, kAny, true>, 3>();
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
