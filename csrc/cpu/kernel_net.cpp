#include "kernel_net.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace pgconv {

Tensor kernel_net(const Tensor& coords, const Tensor& params, const std::string& net) {
  const char* op = "kernel_net";
  NetShape shape = parse_net(op, net);
  return dispatch_float(op, coords, [&](auto zero) {
    using T = decltype(zero);
    check_tensor(op, "coords", coords, {-1, shape.coord_dim}, coords.scalar_type());
    check_tensor(op, "params", params, {num_params(shape)}, coords.scalar_type());
    const KernelTable& table = kernels();
    const auto& k = kernels_of<T>(table);
    int64_t M = coords.size(0);
    Tensor out = torch::stable::new_empty(coords, {M, shape.hidden});
    auto packed = pack_params<T>(table, shape, params);
    auto in = static_cast<const T*>(coords.const_data_ptr());
    auto to = static_cast<T*>(out.mutable_data_ptr());
    for_pairs(M, [&](int64_t begin, int64_t end) {
      Buffer<T> workspace(k.workspace_size(shape));
      k.net_forward(shape, packed.get(), in, begin, end, workspace.get(), to);
    });
    return out;
  });
}

std::tuple<Tensor, Tensor> kernel_net_backward(const Tensor& grad, const Tensor& coords, const Tensor& params,
                                               const std::string& net) {
  const char* op = "kernel_net_backward";
  NetShape shape = parse_net(op, net);
  return dispatch_float(op, coords, [&](auto zero) {
    using T = decltype(zero);
    int64_t M = coords.dim() == 2 ? coords.size(0) : 0;
    check_tensor(op, "coords", coords, {M, shape.coord_dim}, coords.scalar_type());
    check_tensor(op, "grad", grad, {M, shape.hidden}, coords.scalar_type());
    check_tensor(op, "params", params, {num_params(shape)}, coords.scalar_type());
    const KernelTable& table = kernels();
    const auto& k = kernels_of<T>(table);
    Tensor grad_coords = torch::stable::new_empty(coords, {M, shape.coord_dim});
    Tensor grad_params = torch::stable::new_empty(params, {num_params(shape)});
    auto packed = pack_params<T>(table, shape, params);
    auto in = static_cast<const T*>(coords.const_data_ptr());
    auto up = static_cast<const T*>(grad.const_data_ptr());
    auto to = static_cast<T*>(grad_coords.mutable_data_ptr());
    auto totals = sum_over_pairs(M, k.totals_size(shape), [&](int64_t begin, int64_t end, double* own) {
      Buffer<T> workspace(k.workspace_size(shape));
      k.net_backward(shape, packed.get(), in, up, begin, end, workspace.get(), own, to);
    });
    k.unpack_totals(shape, static_cast<const T*>(params.const_data_ptr()), totals.get(),
                    static_cast<T*>(grad_params.mutable_data_ptr()));
    return std::make_tuple(grad_coords, grad_params);
  });
}

std::string cpu_isa() { return level_name(current_level()); }

std::string cpu_isa_supported() {
  std::string names;
  for (int level = 0; level < kLevels; ++level)
    if (level_supported(level)) names += std::string(names.empty() ? "" : ",") + level_name(level);
  return names;
}

void set_cpu_isa(std::string name) {
  int level = level_from_name(name.c_str());
  if (level < 0 || !level_supported(level))
    fail("set_cpu_isa: level: expected one of ", cpu_isa_supported(), ", got '", name, "'");
  set_current_level(level);
}

}  // namespace pgconv

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CPU, m) {
  m.impl("kernel_net", TORCH_BOX(&pgconv::kernel_net));
  m.impl("kernel_net_backward", TORCH_BOX(&pgconv::kernel_net_backward));
}

// Without tensor arguments there is no device to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&pgconv::cpu_isa));
  m.impl("cpu_isa_supported", TORCH_BOX(&pgconv::cpu_isa_supported));
  m.impl("set_cpu_isa", TORCH_BOX(&pgconv::set_cpu_isa));
}
