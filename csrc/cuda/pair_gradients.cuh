// Back from coordinates of pairs to the fields of their elements: a lane has an input of its warp and every other output of a
// stage.
#pragma once

#include "pair_rows.cuh"

namespace pgconv {
namespace PGCONV_ISA {

// Fields are at a distance of as many numbers, inputs of a warp or outputs of a stage.
constexpr int kFieldRow = 16;

// Fields of v and u, the lane's input and the first output, and gradients of the coordinates [d][most][16], those of the lane's
// input of output 0. Sums of the warp's inputs are written for u, and added for v.
struct StageGradients {
  const float *v, *u, *coords;
  int outputs, most;
  float *grad_v, *grad_u;

  PGCONV_DEVICE float coordinate(const StageGradients& s, int d, int output) {
    return s.coords[(d * s.most + output) * kFieldRow];
  }
  PGCONV_DEVICE void add_v(const StageGradients& s, int field, float sum) {
    sum += exchange(sum, 16);
    if (lane() < 16) s.grad_v[field * kFieldRow] += sum;
  }
  PGCONV_DEVICE void write_u(const StageGradients& s, int field, int output, float sum) {
    for (int mask = 8; mask > 0; mask /= 2) sum += exchange(sum, mask);
    if (lane() % 16 == 0 && output < s.outputs) s.grad_u[field * kFieldRow + output] = sum;
  }
};

// f(output, known) for the lane's outputs, the same number for all lanes: a last one that is not known is another's, for which
// gradients are 0.
template <class F>
PGCONV_DEVICE void for_own_outputs(int outputs, F f) {
  PGCONV_ROLLED
  for (int n = 0; n < outputs; n += 2) f(n + lane() / 16, n + lane() / 16 < outputs);
}

template <class G>
PGCONV_DEVICE void group_gradients(const Features<float>& e, int own, const StageGradients& s) {
  float sum_v[G::fields] = {};
  const int orbit = e.orbit * kFieldRow;
  for_own_outputs(s.outputs, [&](int output, bool known) {
    const float *v = s.v + orbit, *u = s.u + orbit + (known ? output : 0);
    const float *a = e.correlation ? u : v, *b = e.correlation ? v : u;
    float fa[G::fields], fb[G::fields] = {}, g[G::element], x[G::max_coords] = {};
    float gg[G::element] = {}, ga[G::fields] = {}, gb[G::fields] = {};
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c) fa[c] = a[c * kFieldRow];
    PGCONV_UNROLL
    for (int c = 0; c < G::element; ++c) fb[c] = b[c * kFieldRow];
    PGCONV_UNROLL
    for (int c = 0; c < G::max_coords; ++c)
      if (c < own && known) x[c] = StageGradients::coordinate(s, c, output);
    G::relative(fa, fb, g);
    G::coordinates_backward(e.chart, e.part, g, x, gg);
    G::relative_backward(fa, fb, gg, ga, gb);
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c) {
      sum_v[c] += e.correlation ? gb[c] : ga[c];
      // Of b the fields behind the element are not read, and have no place.
      if (c < G::element || e.correlation) StageGradients::write_u(s, e.orbit + c, output, e.correlation ? ga[c] : gb[c]);
    }
  });
  PGCONV_UNROLL
  for (int c = 0; c < G::fields; ++c)
    if (c < G::element || !e.correlation) StageGradients::add_v(s, e.orbit + c, sum_v[c]);
}

// Back from the coordinates of lane_coordinates().
PGCONV_DEVICE void lane_gradients(const Features<float>& e, int own, const StageGradients& s) {
  with_group(e.group, [&](auto group) { group_gradients<decltype(group)>(e, own, s); });
  for (int c = 0; c < e.orbit; ++c) {
    const int of_a = own + c, of_b = of_a + e.orbit;
    float sum_v = 0;
    for_own_outputs(s.outputs, [&](int output, bool known) {
      if (known) sum_v += StageGradients::coordinate(s, e.correlation ? of_b : of_a, output);
      float of_u = known ? StageGradients::coordinate(s, e.correlation ? of_a : of_b, output) : 0.0f;
      StageGradients::write_u(s, c, output, of_u);
    });
    StageGradients::add_v(s, c, sum_v);
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
