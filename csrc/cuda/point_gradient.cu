#include "elements.h"
#include "gradient_net.cuh"
#include "net.cuh"
#include "parts.h"
#include "point_conv.h"
#include "point_gradient.cuh"

namespace pgconv {
namespace PGCONV_ISA {

namespace {

template <class E, class Net, int tiles>
GradientKernel chosen() {
  return {point_gradient<Rounded<E>, Net, tiles>, tiles, Net::split == 1};
}

// Common nets are known to kernels of their own, as long as there are few coordinates; with up to 4 the first layer's operands stay
// in registers.
template <class E, int activation, bool split>
GradientKernel choose_known(const NetShape& shape, int tiles) {
  using Short = KnownNet<activation, 2, kShortSteps, split>;
  if (row_steps(shape.coord_dim) > kShortSteps) return chosen<E, KnownNet<activation, 2, kAny, split>, 2>();
  return tiles == 1 ? chosen<E, Short, 1>() : chosen<E, Short, 2>();
}

template <class E>
GradientKernel choose(const NetShape& shape) {
  const int tiles = number_tiles(shape.coord_dim, Rounded<E>::input_parts);
  if (tiles <= 2 && shape.hidden_layers == 2) {
    if (shape.activation == kSin) return choose_known<E, kSin, std::is_same<E, Half>::value>(shape, tiles);
    if (shape.activation == kSilu) return choose_known<E, kSilu, false>(shape, tiles);
  }
  using Any = KnownNet<kAny, kAny, kAny, true>;
  return tiles > 2 ? chosen<E, Any, 4>() : chosen<E, Any, 2>();
}

GradientKernel kernel_for(HalfType type, const NetShape& shape) {
  return type == kFloat16Parts ? exact_gradient(shape) : type == kFloat16 ? choose<Half>(shape) : choose<Bfloat16>(shape);
}

// f(Type{}) for how the numbers of a signal go into the products.
template <class F>
auto with_type(HalfType type, F f) {
  return type == kFloat16Parts ? f(InParts{}) : type == kFloat16 ? f(Rounded<Half>{}) : f(Rounded<Bfloat16>{});
}

int shared_bytes(HalfType type, const NetShape& shape, int tiles, int64_t columns, int outputs, int v_fields, int u_fields) {
  return with_type(type, [&](auto of) {
    return GradientShared::of<decltype(of)>(shape, tiles, int(columns), outputs, v_fields, u_fields).size;
  });
}

int most_coords(HalfType type, int tiles) {
  int parts = with_type(type, [](auto of) { return decltype(of)::input_parts; });
  int most = (8 * tiles - 1) / parts;
  return most < kGradientCoords ? most : kGradientCoords - 1;
}

// Outputs of a stage: as many as there is memory for, up to 8; 0 if for none.
int stage_outputs(HalfType type, const NetShape& shape, int tiles, int64_t columns, int v_fields, int u_fields, int most) {
  for (int outputs = 8; outputs > 0; outputs /= 2)
    if (shared_bytes(type, shape, tiles, columns, outputs, v_fields, u_fields) <= most) return outputs;
  return 0;
}

}  // namespace

const char* why_not_gradient(HalfType type, const NetShape& shape, int fields, int64_t columns, int capability) {
  const int tiles = kernel_for(type, shape).tiles;
  bool takes = shape.hidden <= kGradientWidth && shape.hidden_layers <= 2 && shape.coord_dim <= most_coords(type, tiles) &&
               columns <= kGradientColumns && stage_outputs(type, shape, tiles, columns, fields, fields, most_shared(capability)) > 0;
  return takes ? nullptr
               : "gradients of elements and net have a kernel for up to 32 features, two hidden layers, 15 coordinates (float32: 7), "
                 "96 columns, and what fits a block";
}

void point_features_gradient(Machine& machine, const FeaturesCall& call, int64_t B, int64_t C, HalfType type,
                             int most_parts, const uint16_t* grad_moments, const uint16_t* f, const float* factor, const float* v,
                             const float* u, const float* params, float* grad_v, float* grad_u, float* grad_params) {
  const NetShape& shape = call.shape;
  Relative<float> relative(machine, call, v, u);
  PointGradient p{};
  with_type(type, [&](auto of) {
    using Type = decltype(of);
    PackGradientNet pack{shape, params, machine.take<uint16_t>(2 * kGradientWidth * kGradientWidth),
                         machine.take<uint16_t>(Type::input_parts * kGradientWidth * kGradientCoords),
                         Type::exact ? machine.take<float>(1) : nullptr, Type::input_parts};
    launch(machine, pack_gradient_net<typename Type::Number, typename Type::First>, grid_for(pack.count()), pack);
    p.matrix = pack.matrix;
    p.first = pack.first;
    p.power = pack.power;
  });

  p.elements = relative.elements();
  const GradientKernel choice = kernel_for(type, shape);
  p.net = packed_half_net(machine, shape, kGradientWidth, choice.split, type == kFloat16Parts, params);
  p.own = relative.own();
  p.v_fields = relative.v_fields();
  p.u_fields = relative.u_fields();
  p.images = call.S > 0 ? int(B / call.S) : 0;
  p.C = int(C);
  p.outputs = stage_outputs(type, shape, choice.tiles, p.images * C, p.v_fields, p.u_fields, most_shared(machine.capability));
  p.input_blocks = ceil_div(call.Nv, kGradientInputs);
  Parts splits(call.Nu, call.S * p.input_blocks, 16, p.outputs, most_parts);
  p.splits = splits.parts;
  p.split_outputs = splits.size;
  p.f = f;
  p.moments = grad_moments;
  p.factor = factor;
  int64_t blocks = call.S * p.input_blocks * p.splits, parts = blocks * kPointWarps;
  p.params = machine.take<float>(parts * kGradientParams);
  p.v = machine.take<float>(call.S * p.splits * p.v_fields * call.Nv);
  p.u = machine.take<float>(call.S * p.input_blocks * p.u_fields * call.Nu);
  int shared = shared_bytes(type, shape, choice.tiles, p.images * C, p.outputs, p.v_fields, p.u_fields);
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
