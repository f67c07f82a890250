// The planar convolution as an operator on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

#include "conv_ops.h"
#include "group_last.h"

namespace pgconv {
namespace {

void conv(Tensor out, const Tensor& f, const Tensor& phi, const Tensor& weight, std::vector<int64_t> taps,
          std::vector<int64_t> geometry, bool samples_last, std::optional<Tensor> factor) {
  const char* op = "conv_chain";
  HalfType type = half_type(op, "f", f);
  int64_t vectors = sample_octets(op, "f", f, f), octets = feature_octets(op, phi, f);
  ConvChain p = described_conv(op, vectors, octets, weight.dim() > 0 ? weight.size(0) : 0, taps, geometry);
  set_signal(p, f);
  set_features(op, p, phi);
  set_head(op, p, weight, f);
  TorchMachine machine(f);
  if (const char* reason = why_not_chain(p, machine.capability)) fail(op, ": ", reason);
  p.samples_last = samples_last;
  std::vector<int64_t> sizes{p.B, p.O, p.Nu, p.out_height, p.out_width};
  if (samples_last) std::rotate(sizes.begin() + 2, sizes.begin() + 3, sizes.end());
  check_device(op, "out", out, f);
  check_tensor(op, "out", out, sizes, factor ? ScalarType::Float : f.scalar_type());
  if (factor) {
    check_device(op, "factor", *factor, f);
    check_tensor(op, "factor", *factor, {}, ScalarType::Float);
    p.factor = data<float>(*factor);
    p.numbers = mutable_data<float>(out);
  } else {
    p.out = mutable_data<uint16_t>(out);
  }
  conv_chain_of(machine, p, type);
}

Tensor last(const Tensor& f, std::optional<Tensor> factor) {
  const char* op = "group_last";
  if (factor) {
    if (!f.is_cuda()) fail(op, ": expected CUDA tensors");
    if (f.scalar_type() != ScalarType::Float) fail(op, ": f: expected float32 where there is a factor");
    check_device(op, "factor", *factor, f);
    check_tensor(op, "factor", *factor, {}, ScalarType::Float);
  } else {
    half_type(op, "f", f);
  }
  check_tensor(op, "f", f, {-1, -1, -1, -1, -1}, f.scalar_type());
  const int64_t vectors = (f.size(2) + kOctet - 1) / kOctet;
  TorchMachine machine(f);
  Tensor out = torch::stable::new_empty(f, {f.size(0), f.size(1), f.size(3), f.size(4), kOctet * vectors},
                                        factor ? ScalarType::Half : f.scalar_type());
  const int64_t planes = f.size(0) * f.size(1), pixels = f.size(3) * f.size(4);
  group_last_of(machine, {planes, pixels, int(f.size(2)), int(vectors), f.const_data_ptr(), factor ? data<float>(*factor) : nullptr,
                          mutable_data<uint16_t>(out)});
  return out;
}

// Empty where a kernel takes the shape on a GPU of that compute capability, times ten; else the reason.
std::string why_not(int64_t vectors, int64_t octets, int64_t outputs, std::vector<int64_t> taps, std::vector<int64_t> geometry,
                    int64_t capability) {
  return reason_text(why_not_chain(described_conv("cuda_why_not_chain", vectors, octets, outputs, taps, geometry), int(capability)));
}

}  // namespace
}  // namespace pgconv

STABLE_TORCH_LIBRARY_FRAGMENT(pgconv_C, m) {
  // Writes out [B, O, Nu, Ho, Wo], or [B, O, Ho, Wo, Nu] (samples last), of f [B, C, H, W, 8 vectors] (samples last), phi [S, Nu,
  // octets, granules, 8, 8] and weight [O, C, 8 octets], all float16 or bfloat16, see csrc/cuda/conv_chain.h. taps: rows and
  // columns, counted from the window's first; geometry: stride, padding, output size, a pair each. With a factor, one number of
  // float32, out is float32, times the factor.
  m.def(
      "conv_chain(Tensor(a!) out, Tensor f, Tensor phi, Tensor weight, int[] taps, int[] geometry, bool samples_last, Tensor? factor) "
      "-> ()");
  // [B, C, H, W, 8 vectors] of f [B, C, N, H, W] in 16 bits: samples last, zeros behind them. With a factor f is float32, and the
  // result float16, of f times the factor.
  m.def("group_last(Tensor f, Tensor? factor) -> Tensor");
  m.def("cuda_why_not_chain(int vectors, int octets, int outputs, int[] taps, int[] geometry, int capability) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CUDA, m) {
  m.impl("conv_chain", TORCH_BOX(&pgconv::conv));
  m.impl("group_last", TORCH_BOX(&pgconv::last));
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cuda_why_not_chain", TORCH_BOX(&pgconv::why_not));
}
