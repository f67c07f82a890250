// The host side of pairs of elements on a GPU: fields prepared for the kernels, and coordinates of the relative elements.
#pragma once

#include "../common/params.h"
#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

void group_table(GroupInfo (&to)[kGroupCount]);

template <class T>
class Relative {
 public:
  // v [Sv, Nv, e], u [Su, Nu, e], memory of the machine as everything here.
  Relative(Machine& machine, const FeaturesCall& call, const T* v, const T* u);

  const Features<T>& elements() const { return elements_; }
  int64_t pairs() const { return call_.S * call_.Nu * call_.Nv; }
  // Coordinates of the relative element without those of orbits, and the fields of v (u) that are read for them.
  int own() const { return call_.shape.coord_dim - 2 * call_.orbit; }
  int v_fields() const { return call_.orbit + (call_.correlation ? info_.element : info_.fields); }
  int u_fields() const { return call_.orbit + (call_.correlation ? info_.fields : info_.element); }

  // [S, Nu, Nv, D]
  T* coordinates();
  // Gradients of v and u from that of the coordinates.
  void gradients(T* grad_coords, T* grad_v, T* grad_u);
  // The same from gradients of the fields read, [S][parts][fields][Nv or Nu].
  void finish_v(const T* sums, int64_t parts, T* grad_v);
  void finish_u(const T* sums, int64_t parts, T* grad_u);

 private:
  const T* prepared(const T* elements, int64_t count);

  Machine& machine_;
  const FeaturesCall& call_;
  const T *v_, *u_;
  GroupInfo info_;
  Features<T> elements_;
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
