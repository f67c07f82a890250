#include "point_lists.h"

#include "elements.h"
#include "point_lists.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Few pairs at a time where registers or memory are short. Blocks are small, so that few warps wait for the longest list.
using NarrowLists = PointTile<2, 4, 1, 4, 4, 32, 32>;
using WideLists = PointTile<2, 8, 1, 4, 3, 32, 32>;
using DeepLists = PointTile<4, 4, 1, 4, 2, 16, 16>;
using ExactLists = PointTile<2, 4, 2, 4, 3, 16, 16>;
using ExactDeepLists = PointTile<4, 4, 2, 4, 2, 16, 16>;

template <class E, class Tile, class Net>
void run_lists(Machine& machine, const FeaturesCall& call, const ListMoments& problem, const float* params) {
  ListMoments p = problem;
  constexpr bool exact = Tile::parts == 2;
  p.net = packed_half_net(machine, call.shape, Tile::width, exact || needs_split<E>(call.shape), exact, params);
  const auto shared = ListShared<Tile>::of(p.net, p.v_fields, p.u_fields);
  // One fits wherever the net fits into a block of point_moments.cu.
  p.warps = Tile::warps;
  while (p.warps > 1 && shared.size(p.warps) > kMostSharedBytes) --p.warps;
  p.row_blocks = ceil_div(call.Nu, p.warps);
  p.column_blocks = ceil_div(int64_t(p.images) * p.C, Tile::channels);
  Grid grid{call.S * p.row_blocks * p.column_blocks, p.warps * kWarp, shared.size(p.warps)};
  launch(machine, list_moments<E, Tile, Net>, grid, p);
}

template <class E>
void choose_lists(Machine& machine, const FeaturesCall& call, const ListMoments& problem, const float* params) {
  const NetShape& shape = call.shape;
  auto with = [&](auto tile, auto net) { run_lists<E, decltype(tile), decltype(net)>(machine, call, problem, params); };
  if (shape.hidden > NarrowLists::width) return with(DeepLists{}, KnownNet<>{});
  constexpr bool half = !E::wide;
  bool known = shape.activation == kSin && shape.hidden_layers == 2 && row_steps(shape.coord_dim) == kShortSteps;
  if (!known) return with(WideLists{}, KnownNet<>{});
  if (int64_t(problem.images) * problem.C > NarrowLists::channels) return with(WideLists{}, KnownNet<kSin, 2, kShortSteps, half>{});
  with(NarrowLists{}, KnownNet<kSin, 2, kShortSteps, half>{});
}

void choose_exact_lists(Machine& machine, const FeaturesCall& call, const ListMoments& problem, const float* params) {
  using Net = KnownNet<kAny, kAny, kAny, true>;
  if (call.shape.hidden > ExactLists::width) return run_lists<Half, ExactDeepLists, Net>(machine, call, problem, params);
  run_lists<Half, ExactLists, Net>(machine, call, problem, params);
}

}  // namespace

void point_list_moments_of(Machine& machine, const FeaturesCall& call, const PointLists& lists, int64_t B, int64_t C, HalfType type,
                           const uint16_t* f, const float* v, const float* u, const float* params, float* moments) {
  Relative<float> relative(machine, call, v, u);
  ListMoments problem{};
  problem.elements = relative.elements();
  problem.lists = lists;
  problem.own = relative.own();
  problem.v_fields = relative.v_fields();
  problem.u_fields = relative.u_fields();
  problem.images = call.S > 0 ? int(B / call.S) : 0;
  problem.C = int(C);
  problem.f = f;
  problem.moments = moments;
  if (type == kFloat16Parts)
    choose_exact_lists(machine, call, problem, params);
  else if (type == kFloat16)
    choose_lists<Half>(machine, call, problem, params);
  else
    choose_lists<Bfloat16>(machine, call, problem, params);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
