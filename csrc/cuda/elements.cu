#include "elements.h"

#include "relative.cuh"

namespace pgconv {
namespace PGCONV_ISA {

void group_table(GroupInfo (&to)[kGroupCount]) { group_infos(to); }

template <class T>
Relative<T>::Relative(Machine& machine, const FeaturesCall& call, const T* v, const T* u)
    : machine_(machine), call_(call), v_(v), u_(u) {
  GroupInfo groups[kGroupCount];
  group_table(groups);
  info_ = groups[call.group];
  int64_t v_count = call.Sv * call.Nv, u_count = call.Su * call.Nu;
  elements_ = {call.group, call.chart, call.part, call.orbit, call.correlation, call.S, call.Nu, call.Nv, v_count, u_count,
               call.Sv == 1 ? 0 : call.Nv, call.Su == 1 ? 0 : call.Nu, prepared(v, v_count), prepared(u, u_count)};
}

template <class T>
const T* Relative<T>::prepared(const T* elements, int64_t count) {
  T* to = machine_.take<T>(count * (info_.fields + call_.orbit));
  launch(machine_, group_kernels<T>(call_.group).prepare, grid_for(count),
         PrepareElements<T>{call_.orbit, count, elements, to});
  return to;
}

template <class T>
T* Relative<T>::coordinates() {
  T* coords = machine_.take<T>(pairs() * call_.shape.coord_dim);
  launch(machine_, group_kernels<T>(call_.group).coordinates, grid_for(pairs()),
         RelativeCall<T>{elements_, own(), coords, nullptr, nullptr});
  return coords;
}

template <class T>
void Relative<T>::gradients(T* grad_coords, T* grad_v, T* grad_u) {
  auto kernels = group_kernels<T>(call_.group);
  launch(machine_, kernels.gradients_v, grid_for(elements_.v_count * kWarp),
         RelativeCall<T>{elements_, own(), grad_coords, v_, grad_v});
  launch(machine_, kernels.gradients_u, grid_for(elements_.u_count * kWarp),
         RelativeCall<T>{elements_, own(), grad_coords, u_, grad_u});
}

template <class T>
void Relative<T>::finish_v(const T* sums, int64_t parts, T* grad_v) {
  launch(machine_, group_kernels<T>(call_.group).finish, grid_for(elements_.v_count),
         FinishElements<T>{call_.orbit, v_fields(), call_.S, parts, call_.Nv, call_.Sv == 1 ? call_.S : 1, sums, v_, grad_v});
}
template <class T>
void Relative<T>::finish_u(const T* sums, int64_t parts, T* grad_u) {
  launch(machine_, group_kernels<T>(call_.group).finish, grid_for(elements_.u_count),
         FinishElements<T>{call_.orbit, u_fields(), call_.S, parts, call_.Nu, call_.Su == 1 ? call_.S : 1, sums, u_, grad_u});
}

template class Relative<float>;
template class Relative<double>;

}  // namespace PGCONV_ISA
}  // namespace pgconv
