#include <torch/csrc/stable/library.h>

#include <tuple>

#include "features_host.h"

namespace pgconv {

Tensor relative_features(const Tensor& v, const Tensor& u, const Tensor& params, const std::string& group,
                         const std::string& chart, const std::string& part, const std::string& form,
                         const std::string& net) {
  const char* op = "relative_features";
  const KernelTable& table = kernels();
  auto call = parse_features(op, table.groups, v, u, params, group, chart, part, form, net);
  check_fields(op, table, call);
  check_product(op, {call.S, call.Nu, call.Nv, call.shape.hidden});
  return dispatch_float(op, v, [&](auto zero) {
    using T = decltype(zero);
    const auto& k = kernels_of<T>(table);
    Tensor out = torch::stable::new_empty(v, {call.S, call.Nu, call.Nv, call.shape.hidden});
    PreparedElements<T> prepared(table, call, v, u);
    auto packed = pack_params<T>(table, call.shape, params);
    auto to = static_cast<T*>(out.mutable_data_ptr());
    for_pairs(call.S * call.Nu * call.Nv, [&](int64_t begin, int64_t end) {
      Buffer<T> workspace(k.workspace_size(call.shape));
      k.features_forward(prepared.problem, call.shape, packed.get(), begin, end, workspace.get(), to);
    });
    return out;
  });
}

std::tuple<Tensor, Tensor, Tensor> relative_features_backward(const Tensor& grad, const Tensor& v, const Tensor& u,
                                                              const Tensor& params, const std::string& group,
                                                              const std::string& chart, const std::string& part,
                                                              const std::string& form, const std::string& net) {
  const char* op = "relative_features_backward";
  const KernelTable& table = kernels();
  auto call = parse_features(op, table.groups, v, u, params, group, chart, part, form, net);
  check_fields(op, table, call);
  check_product(op, {call.S, call.Nu, call.Nv, call.shape.hidden});
  check_tensor(op, "grad", grad, {call.S, call.Nu, call.Nv, call.shape.hidden}, v.scalar_type());
  return dispatch_float(op, v, [&](auto zero) {
    using T = decltype(zero);
    const auto& k = kernels_of<T>(table);
    auto data = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    auto mutable_data = [](Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); };
    Tensor gv = torch::stable::empty_like(v), gu = torch::stable::empty_like(u);
    Tensor gparams = torch::stable::empty_like(params);
    PreparedElements<T> prepared(table, call, v, u);
    auto packed = pack_params<T>(table, call.shape, params);

    int64_t fields = pgconv::fields(table, call), totals = k.totals_size(call.shape);
    int64_t v_size = fields * prepared.problem.v_count, u_size = fields * prepared.problem.u_count;
    int64_t pairs = call.S * call.Nu * call.Nv;
    auto sums = sum_over_pairs(pairs, totals + v_size + u_size, [&](int64_t begin, int64_t end, double* own) {
      Buffer<T> workspace(k.workspace_size(call.shape));
      k.features_backward(prepared.problem, call.shape, packed.get(), data(grad), begin, end, workspace.get(), own,
                          own + totals, own + totals + v_size);
    });
    k.unpack_totals(call.shape, data(params), sums.get(), mutable_data(gparams));
    k.prepare_backward(call.group, call.orbit, data(v), sums.get() + totals, prepared.problem.v_count, mutable_data(gv));
    k.prepare_backward(call.group, call.orbit, data(u), sums.get() + totals + v_size, prepared.problem.u_count, mutable_data(gu));
    return std::make_tuple(gv, gu, gparams);
  });
}

}  // namespace pgconv

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CPU, m) {
  m.impl("relative_features", TORCH_BOX(&pgconv::relative_features));
  m.impl("relative_features_backward", TORCH_BOX(&pgconv::relative_features_backward));
}
