#include "elements.h"
#include "net.cuh"
#include "parts.h"
#include "point_conv.h"
#include "point_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {

namespace {

using Kernel = void (*)(PointGradient);

// A kernel, the tiles of numbers that it has, and whether it splits layers.
struct Choice {
  Kernel kernel;
  int tiles;
  bool split;
};

template <class E, class Net, int tiles>
Choice chosen() {
  return {point_gradient<E, Net, tiles>, tiles, Net::split == 1};
}

// Common nets are known to kernels of their own, as long as there are few coordinates; with up to 4 the first layer's operands stay
// in registers.
template <class E, int activation, bool split>
Choice choose_known(const NetShape& shape, int tiles) {
  using Short = KnownNet<activation, 2, kShortSteps, split>;
  if (row_steps(shape.coord_dim) > kShortSteps) return chosen<E, KnownNet<activation, 2, kAny, split>, 2>();
  return tiles == 1 ? chosen<E, Short, 1>() : chosen<E, Short, 2>();
}

template <class E>
Choice choose(const NetShape& shape) {
  const int tiles = number_tiles(shape.coord_dim);
  if (tiles <= 2 && shape.hidden_layers == 2) {
    if (shape.activation == kSin) return choose_known<E, kSin, std::is_same<E, Half>::value>(shape, tiles);
    if (shape.activation == kSilu) return choose_known<E, kSilu, false>(shape, tiles);
  }
  using Any = KnownNet<kAny, kAny, kAny, true>;
  return tiles > 2 ? chosen<E, Any, 4>() : chosen<E, Any, 2>();
}

// Outputs of a stage: as many as there is memory for, up to 8; 0 if for none.
int stage_outputs(const NetShape& shape, int64_t columns, int v_fields, int u_fields) {
  const int tiles = number_tiles(shape.coord_dim);
  for (int outputs = 8; outputs > 0; outputs /= 2) {
    // Of the kernel with more tiles of numbers where there are two.
    auto shared = GradientShared::of(shape, tiles == 1 ? 2 : tiles, int(columns), outputs, v_fields, u_fields);
    if (shared.size <= kMostSharedBytes) return outputs;
  }
  return 0;
}

}  // namespace

const char* why_not_gradient(const NetShape& shape, int fields, int64_t columns) {
  bool takes = shape.hidden <= kGradientWidth && shape.hidden_layers <= 2 && shape.coord_dim < kGradientCoords &&
               columns <= kGradientColumns && stage_outputs(shape, columns, fields, fields) > 0;
  return takes ? nullptr : "gradients of elements and net have a kernel for up to 32 features, two hidden layers, 96 columns, and what fits a block";
}

void point_features_gradient(Machine& machine, const FeaturesCall& call, int64_t B, int64_t C, HalfType type,
                             const uint16_t* grad_moments, const uint16_t* f, const float* v, const float* u,
                             const float* params, float* grad_v, float* grad_u, float* grad_params) {
  const NetShape& shape = call.shape;
  Relative<float> relative(machine, call, v, u);
  PackGradientNet pack{shape, params, machine.take<uint16_t>(2 * kGradientWidth * kGradientWidth),
                       machine.take<uint16_t>(2 * kGradientWidth * kGradientCoords)};
  launch(machine, type == kFloat16 ? pack_gradient_net<Half> : pack_gradient_net<Bfloat16>,
         grid_for(2 * kGradientWidth * (kGradientWidth + kGradientCoords)), pack);

  PointGradient p{};
  p.elements = relative.elements();
  const Choice choice = type == kFloat16 ? choose<Half>(shape) : choose<Bfloat16>(shape);
  p.net = packed_half_net(machine, shape, kGradientWidth, choice.split, false, params);
  p.matrix = pack.matrix;
  p.first = pack.first;
  p.own = relative.own();
  p.v_fields = relative.v_fields();
  p.u_fields = relative.u_fields();
  p.images = call.S > 0 ? int(B / call.S) : 0;
  p.C = int(C);
  p.outputs = stage_outputs(shape, p.images * C, p.v_fields, p.u_fields);
  p.input_blocks = ceil_div(call.Nv, kGradientInputs);
  Parts splits(call.Nu, call.S * p.input_blocks, 16, p.outputs);
  p.splits = splits.parts;
  p.split_outputs = splits.size;
  p.f = f;
  p.moments = grad_moments;
  int64_t blocks = call.S * p.input_blocks * p.splits, parts = blocks * kPointWarps;
  p.params = machine.take<float>(parts * kGradientParams);
  p.v = machine.take<float>(call.S * p.splits * p.v_fields * call.Nv);
  p.u = machine.take<float>(call.S * p.input_blocks * p.u_fields * call.Nu);
  int shared =
      GradientShared::of(shape, choice.tiles, int(p.images * C), p.outputs, p.v_fields, p.u_fields).size;
  launch(machine, choice.kernel, Grid{blocks, kPointWarps * kWarp, shared}, p);

  relative.finish_v(p.v, p.splits, grad_v);
  relative.finish_u(p.u, p.input_blocks, grad_u);
  NetPanels net{shape};
  double* totals = machine.take<double>(net.params());
  SumGradientNet sum{shape, parts, p.params, params, totals, grad_params};
  launch(machine, sum_gradient_net, Grid{ceil_div(sum.count(), kWarp), kSumWarps * kWarp, kSumWarps * kWarp * 8}, sum);
  if (shape.activation == kSin)
    launch(machine, finish_omega<float>, Grid{1, kWarp, 0}, NetTotals<float>{net, parts, nullptr, params, totals, grad_params});
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
