// Kernel-net features as operators on CUDA tensors.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "features.h"
#include "ops.h"

namespace pgconv {
namespace {

using namespace PGCONV_ISA;

// Calls f with a zero of the tensor's C++ type.
template <class F>
auto dispatch_float(const char* op, const Tensor& t, const NetShape& shape, F&& f) {
  if (!t.is_cuda()) fail(op, ": expected CUDA tensors");
  int bytes = t.scalar_type() == ScalarType::Float ? 4 : t.scalar_type() == ScalarType::Double ? 8 : 0;
  if (bytes == 0) fail(op, ": expected float32 or float64 tensors");
  if (const char* reason = why_not_net(shape, bytes)) fail(op, ": ", reason);
  if (bytes == 4) return f(float{});
  return f(double{});
}

Tensor net(const Tensor& coords, const Tensor& params, const std::string& text) {
  const char* op = "kernel_net";
  NetShape shape = parse_net(op, text);
  return dispatch_float(op, coords, shape, [&](auto zero) {
    using T = decltype(zero);
    check_tensor(op, "coords", coords, {-1, shape.coord_dim}, coords.scalar_type());
    check_tensor(op, "params", params, {num_params(shape)}, coords.scalar_type());
    check_device(op, "params", params, coords);
    TorchMachine machine(coords);
    Tensor out = torch::stable::new_empty(coords, {coords.size(0), shape.hidden});
    kernel_net<T>(machine, shape, coords.size(0), data<T>(coords), data<T>(params), mutable_data<T>(out));
    return out;
  });
}

std::tuple<Tensor, Tensor> net_backward(const Tensor& grad, const Tensor& coords, const Tensor& params,
                                        const std::string& text) {
  const char* op = "kernel_net_backward";
  NetShape shape = parse_net(op, text);
  return dispatch_float(op, coords, shape, [&](auto zero) {
    using T = decltype(zero);
    check_tensor(op, "coords", coords, {-1, shape.coord_dim}, coords.scalar_type());
    check_tensor(op, "grad", grad, {coords.size(0), shape.hidden}, coords.scalar_type());
    check_tensor(op, "params", params, {num_params(shape)}, coords.scalar_type());
    check_device(op, "grad", grad, coords);
    check_device(op, "params", params, coords);
    TorchMachine machine(coords);
    Tensor grad_coords = torch::stable::empty_like(coords), grad_params = torch::stable::empty_like(params);
    kernel_net_backward<T>(machine, shape, coords.size(0), data<T>(grad), data<T>(coords), data<T>(params),
                           mutable_data<T>(grad_coords), mutable_data<T>(grad_params));
    return std::make_tuple(grad_coords, grad_params);
  });
}

Tensor relative(const Tensor& v, const Tensor& u, const Tensor& params, const std::string& group, const std::string& chart,
                const std::string& part, const std::string& form, const std::string& net) {
  const char* op = "relative_features";
  auto call = make_call(op, v, u, params, group, chart, part, form, net);
  return dispatch_float(op, v, call.shape, [&](auto zero) {
    using T = decltype(zero);
    TorchMachine machine(v);
    Tensor out = torch::stable::new_empty(v, {call.S, call.Nu, call.Nv, call.shape.hidden});
    relative_features<T>(machine, call, data<T>(v), data<T>(u), data<T>(params), mutable_data<T>(out));
    return out;
  });
}

std::tuple<Tensor, Tensor, Tensor> relative_backward(const Tensor& grad, const Tensor& v, const Tensor& u,
                                                     const Tensor& params, const std::string& group,
                                                     const std::string& chart, const std::string& part,
                                                     const std::string& form, const std::string& net) {
  const char* op = "relative_features_backward";
  auto call = make_call(op, v, u, params, group, chart, part, form, net);
  check_device(op, "grad", grad, v);
  return dispatch_float(op, v, call.shape, [&](auto zero) {
    using T = decltype(zero);
    check_tensor(op, "grad", grad, {call.S, call.Nu, call.Nv, call.shape.hidden}, v.scalar_type());
    TorchMachine machine(v);
    Tensor gv = torch::stable::empty_like(v), gu = torch::stable::empty_like(u), gp = torch::stable::empty_like(params);
    relative_features_backward<T>(machine, call, data<T>(grad), data<T>(v), data<T>(u), data<T>(params),
                                  mutable_data<T>(gv), mutable_data<T>(gu), mutable_data<T>(gp));
    return std::make_tuple(gv, gu, gp);
  });
}

// Empty where kernels take the net, else the reason.
std::string why_not(const std::string& net, int64_t bytes) {
  return reason_text(why_not_net(parse_net("cuda_why_not_net", net), int(bytes)));
}

std::string architectures() { return PGCONV_CUDA_ARCHITECTURES; }

// Empty where the driver runs the CUDA runtime inside this library, else the reason. No driver at all is none.
std::string why_not_driver() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "";
  if (driver / 1000 >= CUDART_VERSION / 1000) return "";
  return "the GPU driver is made for CUDA " + std::to_string(driver / 1000) + ", the CUDA library needs one for " +
         std::to_string(CUDART_VERSION / 1000);
}

int64_t capability(int64_t device) { return compute_capability(int(device)); }

}  // namespace
}  // namespace pgconv

STABLE_TORCH_LIBRARY_FRAGMENT(pgconv_C, m) {
  m.def("cuda_why_not_net(str net, int bytes) -> str");
  m.def("cuda_architectures() -> str");
  m.def("cuda_why_not_driver() -> str");
  m.def("cuda_capability(int device) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CUDA, m) {
  m.impl("kernel_net", TORCH_BOX(&pgconv::net));
  m.impl("kernel_net_backward", TORCH_BOX(&pgconv::net_backward));
  m.impl("relative_features", TORCH_BOX(&pgconv::relative));
  m.impl("relative_features_backward", TORCH_BOX(&pgconv::relative_backward));
}

// Without tensor arguments there is no device to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cuda_why_not_net", TORCH_BOX(&pgconv::why_not));
  m.impl("cuda_architectures", TORCH_BOX(&pgconv::architectures));
  m.impl("cuda_why_not_driver", TORCH_BOX(&pgconv::why_not_driver));
  m.impl("cuda_capability", TORCH_BOX(&pgconv::capability));
}
