// Gradients of head and features of the planar convolution as operators on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "conv_gradient.h"
#include "conv_ops.h"

namespace pgconv {
namespace {

// The signal and the gradient of the output, and the geometry, all but features and head.
ConvGradient described_gradient(const char* op, const Tensor& grad, const Tensor& f, int64_t octets, const std::vector<int64_t>& taps,
                                const std::vector<int64_t>& geometry) {
  int64_t vectors = sample_octets(op, "f", f, f);
  ConvGradient p{};
  p.u_vectors = int(sample_octets(op, "grad", grad, f));
  p.conv = described_conv(op, vectors, octets, grad.size(1), taps, geometry);
  set_signal(p.conv, f);
  check_tensor(op, "grad", grad, {p.conv.B, p.conv.O, p.conv.out_height, p.conv.out_width, kOctet * p.u_vectors}, f.scalar_type());
  p.grad = data<uint16_t>(grad);
  return p;
}

void check_samples(const char* op, const ConvGradient& p) {
  if (p.u_vectors != (p.conv.Nu + kOctet - 1) / kOctet) fail(op, ": grad: expected ", p.conv.Nu, " samples in octets");
}

Tensor head_gradient(const Tensor& grad, const Tensor& f, const Tensor& phi, std::vector<int64_t> taps,
                     std::vector<int64_t> geometry) {
  const char* op = "conv_head_gradient";
  HalfType type = half_type(op, "f", f);
  ConvGradient p = described_gradient(op, grad, f, feature_octets(op, phi, f), taps, geometry);
  set_features(op, p.conv, phi);
  check_samples(op, p);
  TorchMachine machine(f);
  if (const char* reason = why_not_head_gradient(p, machine.capability)) fail(op, ": ", reason);
  Tensor out = torch::stable::new_empty(f, {p.conv.C, kOctet * p.conv.octets, p.conv.O}, ScalarType::Float);
  head_gradient_of(machine, p, type, mutable_data<float>(out));
  return out;
}

Tensor feature_gradient(const Tensor& grad, const Tensor& f, const Tensor& weight, int64_t sets, int64_t samples,
                        std::vector<int64_t> taps, std::vector<int64_t> geometry) {
  const char* op = "conv_feature_gradient";
  HalfType type = half_type(op, "f", f);
  ConvGradient p = described_gradient(op, grad, f, weight.dim() == 3 ? weight.size(2) / kOctet : 0, taps, geometry);
  set_head(op, p.conv, weight, f);
  if (sets != 1 && sets != p.conv.B) fail(op, ": sets: expected 1 or ", p.conv.B, ", got ", sets);
  p.conv.S = sets;
  p.conv.Nu = samples;
  check_samples(op, p);
  TorchMachine machine(f);
  if (const char* reason = why_not_feature_gradient(p, machine.capability)) fail(op, ": ", reason);
  Tensor out = torch::stable::new_empty(f, {sets, samples, p.conv.octets, p.conv.real, kOctet, kOctet}, ScalarType::Float);
  feature_gradient_of(machine, p, type, mutable_data<float>(out));
  return out;
}

Tensor kernel_gradient(const Tensor& grad, const Tensor& f, std::vector<int64_t> taps, std::vector<int64_t> geometry) {
  const char* op = "conv_kernel_gradient";
  HalfType type = half_type(op, "f", f);
  ConvGradient p = described_gradient(op, grad, f, 1, taps, geometry);
  TorchMachine machine(f);
  if (const char* reason = why_not_kernel_gradient(p, machine.capability)) fail(op, ": ", reason);
  Tensor out = torch::stable::new_empty(f, {p.u_vectors, p.conv.O, p.conv.C, p.conv.real, kOctet, kOctet}, ScalarType::Float);
  kernel_gradient_of(machine, p, type, mutable_data<float>(out));
  return out;
}

ConvGradient shape(const char* op, int64_t vectors, int64_t octets, int64_t outputs, const std::vector<int64_t>& taps,
                   const std::vector<int64_t>& geometry) {
  ConvGradient p{};
  p.conv = described_conv(op, vectors, octets, outputs, taps, geometry);
  return p;
}

// Empty where a kernel takes the shape on a GPU of that compute capability, times ten; else the reason.
std::string why_not_head(int64_t vectors, int64_t octets, int64_t outputs, std::vector<int64_t> taps, std::vector<int64_t> geometry,
                         int64_t capability) {
  auto p = shape("cuda_why_not_head_gradient", vectors, octets, outputs, taps, geometry);
  return reason_text(why_not_head_gradient(p, int(capability)));
}

std::string why_not_features(int64_t vectors, int64_t octets, int64_t outputs, std::vector<int64_t> taps,
                             std::vector<int64_t> geometry, int64_t capability) {
  auto p = shape("cuda_why_not_feature_gradient", vectors, octets, outputs, taps, geometry);
  return reason_text(why_not_feature_gradient(p, int(capability)));
}

std::string why_not_kernel(int64_t vectors, int64_t images, int64_t inputs, int64_t outputs, std::vector<int64_t> taps,
                           std::vector<int64_t> geometry, int64_t capability) {
  auto p = shape("cuda_why_not_kernel_gradient", vectors, 1, outputs, taps, geometry);
  p.conv.B = images;
  p.conv.C = inputs;
  return reason_text(why_not_kernel_gradient(p, int(capability)));
}

}  // namespace
}  // namespace pgconv

STABLE_TORCH_LIBRARY_FRAGMENT(pgconv_C, m) {
  // Operands as conv_chain's, and the gradient of its output with samples last, grad [B, O, Ho, Wo, 8 octets of u]; float32
  // [C, 8 octets of h, O].
  m.def("conv_head_gradient(Tensor grad, Tensor f, Tensor phi, int[] taps, int[] geometry) -> Tensor");
  // With the head instead of the features, which have `sets` sets of `samples` samples u; float32 [sets, samples, octets,
  // taps * octets of v, 8 h, 8 v].
  m.def(
      "conv_feature_gradient(Tensor grad, Tensor f, Tensor weight, int sets, int samples, int[] taps, int[] geometry) -> Tensor");
  // With neither, of images that share features; float32 [octets of u, O, C, taps * octets of v, 8 u, 8 v].
  m.def("conv_kernel_gradient(Tensor grad, Tensor f, int[] taps, int[] geometry) -> Tensor");
  m.def("cuda_why_not_head_gradient(int vectors, int octets, int outputs, int[] taps, int[] geometry, int capability) -> str");
  m.def("cuda_why_not_feature_gradient(int vectors, int octets, int outputs, int[] taps, int[] geometry, int capability) -> str");
  m.def(
      "cuda_why_not_kernel_gradient(int vectors, int images, int inputs, int outputs, int[] taps, int[] geometry, int capability) "
      "-> str");
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CUDA, m) {
  m.impl("conv_head_gradient", TORCH_BOX(&pgconv::head_gradient));
  m.impl("conv_feature_gradient", TORCH_BOX(&pgconv::feature_gradient));
  m.impl("conv_kernel_gradient", TORCH_BOX(&pgconv::kernel_gradient));
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cuda_why_not_head_gradient", TORCH_BOX(&pgconv::why_not_head));
  m.impl("cuda_why_not_feature_gradient", TORCH_BOX(&pgconv::why_not_features));
  m.impl("cuda_why_not_kernel_gradient", TORCH_BOX(&pgconv::why_not_kernel));
}
