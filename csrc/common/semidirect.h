// R^d x| H for the linear groups of group_actions.h, and the twelve named groups. Everything that is not specific to a
// linear group is written once here: relative elements, chart parts, prepared fields.
#pragma once

#include "group_actions.h"

namespace pgconv {
namespace PGCONV_ISA {

template <int D, class H>
struct SemidirectProduct {
  static constexpr int translation = D;
  static constexpr int element = D + H::element;
  static constexpr int matrix = D > 0 && H::element > 0 ? D * D : 0;
  static constexpr int fields = element + matrix;
  static constexpr int max_coords = D + H::coords(kEmbed);
  static_assert(matrix == 0 || D == H::dimension, "the linear part acts on the translations");
  static_assert(fields <= kMaxFields - kMaxOrbit && max_coords <= kMaxCoords - 2 * kMaxOrbit, "buffers too small");

  static constexpr int stabilizer_coords(int chart) {
    // The image convention (row, column) needs a plane.
    return chart == kRelease && D != 0 && D != 2 ? -1 : H::coords(chart);
  }

  template <class S>
  PGCONV_INLINE void prepare(const S* g, S* fields) {
    for (int k = 0; k < element; ++k) fields[k] = g[k];
    if constexpr (matrix > 0) H::inverse_matrix(g + D, fields + element);
  }
  template <class S>
  PGCONV_INLINE void prepare_backward(const S* g, const double* g_fields, double* gg) {
    for (int k = 0; k < element; ++k) gg[k] = g_fields[k];
    if constexpr (matrix > 0) H::inverse_matrix_backward(g + D, g_fields + element, gg + D);
  }

  // a^-1 b: of a all fields are read, of b the element.
  template <class T>
  PGCONV_INLINE void relative(const T* a, const T* b, T* g) {
    T d[D + 1];
    for (int k = 0; k < D; ++k) d[k] = b[k] - a[k];
    for (int k = 0; k < D; ++k) {
      g[k] = d[k];
      if constexpr (matrix > 0) {
        g[k] = a[element + k * D] * d[0];
        for (int n = 1; n < D; ++n) g[k] += a[element + k * D + n] * d[n];
      }
    }
    H::relative(a + D, b + D, g + D);
  }
  template <class T>
  PGCONV_INLINE void relative_backward(const T* a, const T* b, const T* gg, T* ga, T* gb) {
    for (int n = 0; n < D; ++n) {
      T gd = gg[n];
      if constexpr (matrix > 0) {
        gd = a[element + n] * gg[0];
        for (int k = 1; k < D; ++k) gd += a[element + k * D + n] * gg[k];
        for (int k = 0; k < D; ++k) ga[element + k * D + n] += (b[n] - a[n]) * gg[k];
      }
      ga[n] -= gd;
      gb[n] += gd;
    }
    H::relative_backward(a + D, b + D, gg + D, ga + D, gb + D);
  }

  // The stabilizer's coordinates begin at one of two places that the compiler knows: see Planar::coordinates.
  template <class T>
  PGCONV_INLINE void coordinates(int chart, int part, const T* g, T* x) {
    if (D == 0 || part == kStabilizer) {
      if (part != kTranslation) H::coordinates(chart, g + D, x);
      return;
    }
    bool solve = chart == kLie && part == kAll;
    if constexpr (D == 2) {
      if (chart == kRelease) {
        x[0] = -g[1];
        x[1] = g[0];
      }
    }
    if constexpr (matrix > 0) {
      if (solve) H::solve_jacobian(g + D, g, x);
    }
    if (chart != kRelease && (matrix == 0 || !solve))
      for (int k = 0; k < D; ++k) x[k] = g[k];
    if (part != kTranslation) H::coordinates(chart, g + D, x + D);
  }
  template <class T>
  PGCONV_INLINE void coordinates_backward(int chart, int part, const T* g, const T* gx, T* gg) {
    if (D == 0 || part == kStabilizer) {
      if (part != kTranslation) H::coordinates_backward(chart, g + D, gx, gg + D);
      return;
    }
    bool solve = chart == kLie && part == kAll;
    if constexpr (D == 2) {
      if (chart == kRelease) {
        gg[0] += gx[1];
        gg[1] -= gx[0];
      }
    }
    if constexpr (matrix > 0) {
      if (solve) H::solve_jacobian_backward(g + D, g, gx, gg + D, gg);
    }
    if (chart != kRelease && (matrix == 0 || !solve))
      for (int k = 0; k < D; ++k) gg[k] += gx[k];
    if (part != kTranslation) H::coordinates_backward(chart, g + D, gx + D, gg + D);
  }
};

using Trivial = Planar<false, false, false>;
using Mirror = Planar<false, true, false>;
using Rotations = Planar<true, false, false>;
using Orthogonal = Planar<true, true, false>;
using ScaledRotations = Planar<true, false, true>;

// The groups in the order that is the numbering used between host and kernels.
template <int number, class First, class... Rest>
struct ListedGroup {
  using Group = typename ListedGroup<number - 1, Rest...>::Group;
};
template <class First, class... Rest>
struct ListedGroup<0, First, Rest...> {
  using Group = First;
};
template <int number>
using GroupAt = typename ListedGroup<
    number, SemidirectProduct<1, Trivial>, SemidirectProduct<2, Trivial>, SemidirectProduct<3, Trivial>,
    SemidirectProduct<2, Mirror>, SemidirectProduct<0, Rotations>, SemidirectProduct<0, Orthogonal>,
    SemidirectProduct<2, Rotations>, SemidirectProduct<2, Orthogonal>, SemidirectProduct<0, Spatial>,
    SemidirectProduct<3, Spatial>, SemidirectProduct<0, ScaledRotations>, SemidirectProduct<2, ScaledRotations>>::Group;

// Calls f(name, group) for every group. f is host code.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class F>
constexpr PGCONV_INLINE void for_each_group(F&& f) {
  f("T(1)", GroupAt<0>{});
  f("T(2)", GroupAt<1>{});
  f("T(3)", GroupAt<2>{});
  f("M(2)", GroupAt<3>{});
  f("SO(2)", GroupAt<4>{});
  f("O(2)", GroupAt<5>{});
  f("SE(2)", GroupAt<6>{});
  f("E(2)", GroupAt<7>{});
  f("SO(3)", GroupAt<8>{});
  f("SE(3)", GroupAt<9>{});
  f("R+xSO(2)", GroupAt<10>{});
  f("Sim(2)", GroupAt<11>{});
}

constexpr PGCONV_INLINE void group_infos(GroupInfo (&to)[kGroupCount]) {
  int index = 0;
  for_each_group([&](const char* name, auto g) constexpr {
    using G = decltype(g);
    GroupInfo& info = to[index++];
    info = {name, G::element, G::translation, G::fields, {}};
    for (int chart = 0; chart < kNumCharts; ++chart) info.stabilizer_coords[chart] = G::stabilizer_coords(chart);
  });
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
