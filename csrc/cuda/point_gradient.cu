#include "elements.h"
#include "net.cuh"
#include "parts.h"
#include "point_conv.h"
#include "point_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {

template <class E>
static auto gradient_kernel(int coord_dim) {
  return 2 * coord_dim + 1 <= 8 ? point_gradient<E, 1> : point_gradient<E, 4>;
}

const char* why_not_gradient(const NetShape& shape, int fields, int64_t columns) {
  bool takes = shape.hidden <= kGradientWidth && shape.hidden_layers <= 2 && shape.coord_dim < kGradientCoords &&
               columns <= kGradientColumns;
  takes = takes && GradientShared::of(shape, int(columns), fields, fields).size <= kMostSharedBytes;
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
  p.net = packed_half_net(machine, shape, kGradientWidth, true, false, params);
  p.matrix = pack.matrix;
  p.first = pack.first;
  p.own = relative.own();
  p.v_fields = relative.v_fields();
  p.u_fields = relative.u_fields();
  p.images = call.S > 0 ? B / call.S : 0;
  p.C = C;
  p.input_blocks = ceil_div(call.Nv, kGradientInputs);
  Parts splits(call.Nu, call.S * p.input_blocks, 8 * kGradientOutputs, kGradientOutputs);
  p.splits = splits.parts;
  p.split_outputs = splits.size;
  p.f = f;
  p.moments = grad_moments;
  int64_t blocks = call.S * p.input_blocks * p.splits, parts = blocks * kPointWarps;
  p.params = machine.take<float>(parts * kGradientParams);
  p.v = machine.take<float>(call.S * p.splits * p.v_fields * call.Nv);
  p.u = machine.take<float>(call.S * p.input_blocks * p.u_fields * call.Nu);
  int shared = GradientShared::of(shape, int(p.images * C), p.v_fields, p.u_fields).size;
  auto kernel = type == kFloat16 ? gradient_kernel<Half>(shape.coord_dim) : gradient_kernel<Bfloat16>(shape.coord_dim);
  launch(machine, kernel, Grid{blocks, kPointWarps * kWarp, shared}, p);

  relative.finish_v(p.v, p.splits, grad_v);
  relative.finish_u(p.u, p.input_blocks, grad_u);
  NetPanels net{shape};
  double* totals = machine.take<double>(net.params());
  launch(machine, sum_gradient_net, grid_for(net.params()), SumGradientNet{shape, parts, p.params, params, totals, grad_params});
  if (shape.activation == kSin)
    launch(machine, finish_omega<float>, Grid{1, kWarp, 0}, NetTotals<float>{net, parts, nullptr, params, totals, grad_params});
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
