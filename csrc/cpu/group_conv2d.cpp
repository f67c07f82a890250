// The planar convolution as raw operators: dispatch on number type and order. "mix" is the aggregate order of the adjoint:
// it applies the head to the signal first and distributes the result through the taps.
#include <torch/csrc/stable/library.h>

#include <chrono>

#include "conv_host.h"

namespace pgconv {
namespace {

enum class Order { kAggregate, kDirect, kMix, kSpectral, kSpectralAggregate };

Order parse_order(const char* op, const std::string& order, const ConvCall& call) {
  if (order == "aggregate") return Order::kAggregate;
  if (order == "direct") return Order::kDirect;
  if (order == "spectral") return Order::kSpectral;
  if (order == "spectral-aggregate") return Order::kSpectralAggregate;
  if (order != "mix") fail(op, ": order: expected aggregate, direct, mix, spectral or spectral-aggregate, got '", order, "'");
  if (call.stride[0] != 1 || call.stride[1] != 1) fail(op, ": order: mix needs stride 1");
  return Order::kMix;
}

template <class F>
auto with_type(const ConvCall& call, F&& f) {
  return call.phi.scalar_type() == ScalarType::Double ? f(double{}) : f(float{});
}

}  // namespace

// [B, O, Nu, Ho, Wo], in f's type.
Tensor group_conv2d(const Tensor& f, const Tensor& phi, const Tensor& weight, const Tensor& taps,
                    std::vector<int64_t> geometry, std::string order) {
  const char* op = "group_conv2d";
  ConvCall call = ConvCall::make(op, f, phi, weight, taps, geometry);
  Order how = parse_order(op, order, call);
  const KernelTable& table = kernels();
  Tensor out = new_output(f, {call.B, call.O, call.Nu, call.Ho, call.Wo}, f.scalar_type());
  if (out.numel() == 0) return out;
  return with_type(call, [&](auto zero) {
    using T = decltype(zero);
    if (call.empty_sums()) {
      torch::stable::zero_(out);
      return out;
    }
    Role role = how == Order::kMix ? Role::kAdjoint : Role::kStraight;
    ConvSetup<T> setup(call, role, table, f.const_data_ptr(), nullptr);
    if (how == Order::kAggregate)
      aggregate_forward(setup, out.mutable_data_ptr());
    else if (how == Order::kDirect)
      direct_forward(setup, out.mutable_data_ptr());
    else if (how == Order::kSpectral)
      spectral_forward(call, setup, out.mutable_data_ptr());
    else if (how == Order::kSpectralAggregate)
      spectral_aggregate_forward(call, setup, out.mutable_data_ptr());
    else
      aggregate_backward<T>(setup, {true, false, false}, out.mutable_data_ptr(), nullptr, nullptr);
    return out;
  });
}

// Gradients of f, phi and weight in phi's type; an empty tensor where not needed. "mix" and "aggregate" give that
// of f in f's type.
std::tuple<Tensor, Tensor, Tensor> group_conv2d_backward(const Tensor& grad, const Tensor& f, const Tensor& phi,
                                                         const Tensor& weight, const Tensor& taps,
                                                         std::vector<int64_t> geometry, std::string order,
                                                         int64_t needs_bits) {
  const char* op = "group_conv2d_backward";
  ConvCall call = ConvCall::make(op, f, phi, weight, taps, geometry);
  Order how = parse_order(op, order, call);
  check_tensor(op, "grad", grad, {call.B, call.O, call.Nu, call.Ho, call.Wo}, f.scalar_type());
  const KernelTable& table = kernels();
  bool need_f = needs_bits & 1;
  ConvNeeds needs{need_f, (needs_bits & 2) != 0, (needs_bits & 4) != 0};
  ScalarType type = phi.scalar_type();
  auto sizes = [](const Tensor& t) { return std::vector<int64_t>(t.sizes().begin(), t.sizes().end()); };
  bool stored = how == Order::kMix || how == Order::kAggregate;
  Tensor gf = new_output(f, need_f ? sizes(f) : std::vector<int64_t>{0}, stored ? f.scalar_type() : type);
  Tensor gphi = new_output(phi, needs.phi ? sizes(phi) : std::vector<int64_t>{0}, type);
  Tensor gweight = new_output(weight, needs.weight ? sizes(weight) : std::vector<int64_t>{0}, type);
  if (grad.numel() == 0 || call.empty_sums()) {
    for (Tensor* t : {&gf, &gphi, &gweight}) torch::stable::zero_(*t);
    return {gf, gphi, gweight};
  }
  return with_type(call, [&](auto zero) {
    using T = decltype(zero);
    T* to_phi = needs.phi ? mutable_data_of<T>(gphi) : nullptr;
    T* to_weight = needs.weight ? mutable_data_of<T>(gweight) : nullptr;
    if (how == Order::kMix) {
      ConvSetup<T> setup(call, Role::kAdjoint, table, f.const_data_ptr(), grad.const_data_ptr());
      if (need_f) aggregate_forward(setup, gf.mutable_data_ptr());
      needs.window = false;
      if (needs.kernel()) aggregate_backward<T>(setup, needs, nullptr, to_phi, to_weight);
    } else {
      ConvSetup<T> setup(call, Role::kStraight, table, f.const_data_ptr(), grad.const_data_ptr());
      T* to_f = need_f ? mutable_data_of<T>(gf) : nullptr;
      if (how == Order::kAggregate)
        aggregate_backward(setup, needs, need_f ? gf.mutable_data_ptr() : nullptr, to_phi, to_weight);
      else if (how == Order::kDirect)
        direct_backward(setup, needs, to_f, to_phi, to_weight);
      else if (how == Order::kSpectral)
        spectral_backward(call, setup, needs, to_f, to_phi, to_weight);
      else
        spectral_aggregate_backward(call, setup, needs, to_f, to_phi, to_weight);
    }
    return std::make_tuple(gf, gphi, gweight);
  });
}

// FLOP/s of multiply-adds on registers in float32, or of products of bfloat16 pairs summed in float32, all threads together, measured for about `milliseconds`.
double fma_rate(int64_t milliseconds, bool bfloat16) {
  const KernelTable& table = kernels();
  auto loop = bfloat16 ? table.bfloat16_loop : table.f32.fma_loop;
  using Clock = std::chrono::steady_clock;
  int64_t threads = thread_count();
  std::vector<double> rates(threads, 0.0);
  parallel_each(threads, threads, [&](int64_t i) {
    auto begin = Clock::now();
    double flops = 0, seconds = 0;
    while (seconds < 1e-3 * double(milliseconds)) {
      flops += double(loop(20000));
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    }
    rates[i] = flops / seconds;
  });
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

}  // namespace pgconv

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CPU, m) {
  m.impl("group_conv2d", TORCH_BOX(&pgconv::group_conv2d));
  m.impl("group_conv2d_backward", TORCH_BOX(&pgconv::group_conv2d_backward));
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("fma_rate", TORCH_BOX(&pgconv::fma_rate));
}
