// Elements of a call with kernel-net features as fields prepared for the kernels.
#pragma once

#include "host.h"
#include "kernel_net.h"

namespace pgconv {

inline int64_t fields(const KernelTable& table, const FeaturesCall& call) {
  return table.groups[call.group].fields + call.orbit;
}

// That the numbers of all fields can be counted.
inline void check_fields(const char* op, const KernelTable& table, const FeaturesCall& call) {
  check_product(op, {call.S, call.Nu, fields(table, call)});
  check_product(op, {call.S, call.Nv, fields(table, call)});
}

// Fields of all elements, and the description of the pairs that points to them.
template <class T>
struct PreparedElements {
  Buffer<T> v, u;
  Features<T> problem;

  PreparedElements(const KernelTable& table, const FeaturesCall& call, const Tensor& tv, const Tensor& tu)
      : v(fields(table, call) * call.Sv * call.Nv), u(fields(table, call) * call.Su * call.Nu) {
    const auto& k = kernels_of<T>(table);
    int64_t v_count = call.Sv * call.Nv, u_count = call.Su * call.Nu;
    k.prepare(call.group, call.orbit, static_cast<const T*>(tv.const_data_ptr()), v_count, v.get());
    k.prepare(call.group, call.orbit, static_cast<const T*>(tu.const_data_ptr()), u_count, u.get());
    problem = {call.group, call.chart, call.part, call.orbit, call.correlation, call.S, call.Nu, call.Nv, v_count, u_count,
               call.Sv == 1 ? 0 : call.Nv, call.Su == 1 ? 0 : call.Nu, v.get(), u.get()};
  }
};

}  // namespace pgconv
