#include "point_conv.h"

#include <type_traits>

#include "elements.h"
#include "parts.h"
#include "point_moments.cuh"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// What a lane sums up are 32 numbers, or 64, beside as many of the net; and a multiprocessor has registers for so many blocks.
using Narrow = PointTile<2, 4, 1, 8, 2, 64, 32>;
using Wide = PointTile<2, 8, 1, 4, 3, 64, 32>;
using Deep = PointTile<4, 4, 1, 4, 2, 32, 16>;
using Exact = PointTile<2, 4, 2, 4, 3, 64, 32>;
using ExactDeep = PointTile<4, 4, 2, 4, 2, 32, 16>;

constexpr int64_t kLeastInputs = 128;

template <class Tile>
bool fits(const NetShape& shape) {
  HalfNet net{shape, Tile::width, true, nullptr, nullptr, nullptr};
  return shape.hidden <= Tile::width && PointShared<Tile>::of(net, kMaxFields, kMaxFields).size <= kMostSharedBytes;
}

template <class E, class Tile, class Net>
void run(Machine& machine, const FeaturesCall& call, const PointMoments& problem, const float* params, float* moments) {
  const NetShape& shape = call.shape;
  PointMoments p = problem;
  constexpr bool exact = Tile::parts == 2;
  p.net = packed_half_net(machine, shape, Tile::width, exact || needs_split<E>(shape), exact, params);
  p.row_blocks = ceil_div(call.Nu, Tile::warps);
  p.column_blocks = ceil_div(int64_t(p.images) * p.C, Tile::channels);
  int64_t blocks = call.S * p.row_blocks * p.column_blocks;
  Parts splits(call.Nv, blocks, kLeastInputs, Tile::stage);
  p.splits = splits.parts;
  p.split_inputs = splits.size;
  int64_t count = call.S * p.images * call.Nu * shape.hidden * p.C;
  p.moments = p.splits > 1 ? machine.take<float>(p.splits * count) : moments;
  int shared = PointShared<Tile>::of(p.net, p.v_fields, p.u_fields).size;
  launch(machine, point_moments<E, Tile, Net>, Grid{blocks * p.splits, Tile::threads, shared}, p);
  if (p.splits > 1) launch(machine, sum_parts, grid_for(count), SumParts{count, p.splits, p.moments, moments});
}

template <class E>
void choose(Machine& machine, const FeaturesCall& call, const PointMoments& problem, const float* params,
            float* moments) {
  const NetShape& shape = call.shape;
  auto with = [&](auto tile, auto net) { run<E, decltype(tile), decltype(net)>(machine, call, problem, params, moments); };
  auto tiled = [&](auto net) {
    if (int64_t(problem.images) * problem.C > Narrow::channels) return with(Wide{}, net);
    with(Narrow{}, net);
  };
  if (shape.hidden > Narrow::width) return with(Deep{}, KnownNet<>{});
  constexpr bool half = std::is_same<E, Half>::value;
  int steps = shape.hidden_layers == 2 ? row_steps(shape.coord_dim) : kAny;
  if (shape.activation == kSin && steps == 2) return tiled(KnownNet<kSin, 2, 2, half>{});
  if (shape.activation == kSin && steps == 3) return tiled(KnownNet<kSin, 2, 3, half>{});
  if (shape.activation == kSilu && steps == 2) return tiled(KnownNet<kSilu, 2, 2, false>{});
  tiled(KnownNet<>{});
}

void choose_exact(Machine& machine, const FeaturesCall& call, const PointMoments& problem, const float* params,
                  float* moments) {
  auto with = [&](auto tile, auto net) { run<Half, decltype(tile), decltype(net)>(machine, call, problem, params, moments); };
  const NetShape& shape = call.shape;
  if (shape.hidden > Exact::width) return with(ExactDeep{}, KnownNet<kAny, kAny, kAny, true>{});
  if (shape.activation == kSin && shape.hidden_layers == 2 && row_steps(shape.coord_dim) == 2)
    return with(Exact{}, KnownNet<kSin, 2, 2, true>{});
  with(Exact{}, KnownNet<kAny, kAny, kAny, true>{});
}

}  // namespace

const char* why_not_moments(const NetShape& shape) {
  bool all = shape.hidden > Narrow::width ? fits<Deep>(shape) && fits<ExactDeep>(shape)
                                          : fits<Narrow>(shape) && fits<Wide>(shape) && fits<Exact>(shape);
  return all ? nullptr : "the kernel net is too wide (over 64 features) or too deep for a block's shared memory";
}

void point_moments_of(Machine& machine, const FeaturesCall& call, int64_t B, int64_t C, HalfType type, const uint16_t* f,
                      const float* v, const float* u, const float* params, float* moments) {
  Relative<float> relative(machine, call, v, u);
  PointMoments problem{};
  problem.elements = relative.elements();
  problem.own = relative.own();
  problem.v_fields = relative.v_fields();
  problem.u_fields = relative.u_fields();
  problem.images = call.S > 0 ? int(B / call.S) : 0;
  problem.C = int(C);
  problem.f = f;
  if (type == kFloat16Parts)
    choose_exact(machine, call, problem, params, moments);
  else if (type == kFloat16)
    choose<Half>(machine, call, problem, params, moments);
  else
    choose<Bfloat16>(machine, call, problem, params, moments);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
