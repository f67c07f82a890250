// Elements of a call with kernel-net features: arguments, and fields prepared for the kernels.
#pragma once

#include "kernel_net.h"

namespace pgconv {

// Pairs of elements as an operator receives them: names, tensors v [Sv, Nv, e] and u [Su, Nu, e], params.
struct FeaturesCall {
  int group, orbit, chart, part;
  bool correlation;
  NetShape shape;
  int64_t S, Nu, Nv;

  int64_t fields(const KernelTable& table) const { return table.groups[group].fields + orbit; }

  static FeaturesCall parse(const char* op, const KernelTable& table, const Tensor& v, const Tensor& u,
                            const Tensor& params, const std::string& group, const std::string& chart,
                            const std::string& part, const std::string& form, const std::string& net);
};

// Fields of all elements, and the description of the pairs that points to them.
template <class T>
struct PreparedElements {
  Buffer<T> v, u;
  Features<T> problem;

  PreparedElements(const KernelTable& table, const FeaturesCall& call, const Tensor& tv, const Tensor& tu)
      : v(call.fields(table) * tv.size(0) * call.Nv), u(call.fields(table) * tu.size(0) * call.Nu) {
    const auto& k = kernels_of<T>(table);
    int64_t v_count = tv.size(0) * call.Nv, u_count = tu.size(0) * call.Nu;
    k.prepare(call.group, call.orbit, static_cast<const T*>(tv.const_data_ptr()), v_count, v.get());
    k.prepare(call.group, call.orbit, static_cast<const T*>(tu.const_data_ptr()), u_count, u.get());
    problem = {call.group, call.chart, call.part, call.orbit, call.correlation, call.S, call.Nu, call.Nv, v_count, u_count,
               tv.size(0) == 1 ? 0 : call.Nv, tu.size(0) == 1 ? 0 : call.Nu, v.get(), u.get()};
  }
};

}  // namespace pgconv
