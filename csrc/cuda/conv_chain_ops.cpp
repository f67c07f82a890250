// The planar convolution as an operator on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "conv_chain.h"
#include "group_last.h"
#include "ops.h"

namespace pgconv {
namespace {

using namespace PGCONV_ISA;

constexpr int64_t kOctet = 8;

// Sizes as they are stored; sizes of tensors and geometry are within 32 bits.
ConvChain chain(const char* op, int64_t vectors, int64_t octets, int64_t O, const std::vector<int64_t>& taps,
                const std::vector<int64_t>& geometry) {
  if (geometry.size() != 6) fail(op, ": geometry: expected stride, padding and output size, a pair each");
  ConvChain p{};
  p.O = O;
  p.octets = int(octets);
  p.vectors = int(vectors);
  int* const numbers[] = {&p.stride_y, &p.stride_x, &p.pad_y, &p.pad_x, &p.out_height, &p.out_width};
  for (int k = 0; k < 6; ++k) {
    if (geometry[k] < -(1 << 20) || geometry[k] > (1 << 20)) fail(op, ": geometry: out of range");
    *numbers[k] = int(geometry[k]);
  }
  if (p.stride_y < 1 || p.stride_x < 1 || p.out_height < 1 || p.out_width < 1 || p.vectors < 1)
    fail(op, ": geometry: expected strides and sizes of at least 1");
  if (const char* wrong = set_taps(p, taps.data(), int64_t(taps.size()) / 2)) fail(op, ": taps: ", wrong);
  return p;
}

Tensor conv(const Tensor& f, const Tensor& phi, const Tensor& weight, std::vector<int64_t> taps,
            std::vector<int64_t> geometry) {
  const char* op = "conv_chain";
  if (!f.is_cuda()) fail(op, ": expected CUDA tensors");
  bool half = f.scalar_type() == ScalarType::Half;
  if (!half && f.scalar_type() != ScalarType::BFloat16) fail(op, ": f: expected float16 or bfloat16");
  check_tensor(op, "f", f, {-1, -1, -1, -1, -1}, f.scalar_type());
  check_tensor(op, "phi", phi, {-1, -1, -1, -1, kOctet, kOctet}, f.scalar_type());
  check_device(op, "phi", phi, f);
  check_device(op, "weight", weight, f);
  if (f.size(4) % kOctet) fail(op, ": f: expected a multiple of 8 samples, got ", f.size(4));
  ConvChain p = chain(op, f.size(4) / kOctet, phi.size(2), weight.size(0), taps, geometry);
  p.B = f.size(0);
  p.C = f.size(1);
  p.height = int(f.size(2));
  p.width = int(f.size(3));
  p.S = phi.size(0);
  p.Nu = phi.size(1);
  if (p.S != 1 && p.S != p.B) fail(op, ": phi: expected 1 or ", p.B, " sets of features, got ", p.S);
  if (phi.size(3) != p.granules) fail(op, ": phi: expected ", p.granules, " granules, got ", phi.size(3));
  check_tensor(op, "weight", weight, {p.O, p.C, kOctet * p.octets}, f.scalar_type());
  check_aligned(op, "f", f);
  check_aligned(op, "phi", phi);
  check_aligned(op, "weight", weight);
  TorchMachine machine(f);
  if (const char* reason = why_not_chain(p, machine.capability)) fail(op, ": ", reason);
  Tensor out = torch::stable::new_empty(f, {p.B, p.O, p.Nu, p.out_height, p.out_width});
  p.f = data<uint16_t>(f);
  p.phi = data<uint16_t>(phi);
  p.weight = data<uint16_t>(weight);
  p.out = mutable_data<uint16_t>(out);
  conv_chain_of(machine, p, half ? kFloat16 : kBfloat16Type);
  return out;
}

Tensor last(const Tensor& f) {
  const char* op = "group_last";
  if (!f.is_cuda()) fail(op, ": expected CUDA tensors");
  if (f.scalar_type() != ScalarType::Half && f.scalar_type() != ScalarType::BFloat16) fail(op, ": f: expected float16 or bfloat16");
  check_tensor(op, "f", f, {-1, -1, -1, -1, -1}, f.scalar_type());
  const int64_t vectors = (f.size(2) + kOctet - 1) / kOctet;
  TorchMachine machine(f);
  Tensor out = torch::stable::new_empty(f, {f.size(0), f.size(1), f.size(3), f.size(4), kOctet * vectors});
  const int64_t planes = f.size(0) * f.size(1), pixels = f.size(3) * f.size(4);
  group_last_of(machine, {planes, pixels, int(f.size(2)), int(vectors), data<uint16_t>(f), mutable_data<uint16_t>(out)});
  return out;
}

// Empty where a kernel takes the shape on a GPU of that compute capability, times ten; else the reason.
std::string why_not(int64_t vectors, int64_t octets, int64_t outputs, std::vector<int64_t> taps, std::vector<int64_t> geometry,
                    int64_t capability) {
  return reason_text(why_not_chain(chain("cuda_why_not_chain", vectors, octets, outputs, taps, geometry), int(capability)));
}

}  // namespace
}  // namespace pgconv

STABLE_TORCH_LIBRARY_FRAGMENT(pgconv_C, m) {
  // out [B, O, Nu, Ho, Wo] of f [B, C, H, W, 8 vectors] (samples last), phi [S, Nu, octets, granules, 8, 8] and weight
  // [O, C, 8 octets], all float16 or bfloat16, see csrc/cuda/conv_chain.h. taps: rows and columns, counted from the window's first;
  // geometry: stride, padding, output size, a pair each.
  m.def("conv_chain(Tensor f, Tensor phi, Tensor weight, int[] taps, int[] geometry) -> Tensor");
  // [B, C, H, W, 8 vectors] of f [B, C, N, H, W] in 16 bits: samples last, zeros behind them.
  m.def("group_last(Tensor f) -> Tensor");
  m.def("cuda_why_not_chain(int vectors, int octets, int outputs, int[] taps, int[] geometry, int capability) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CUDA, m) {
  m.impl("conv_chain", TORCH_BOX(&pgconv::conv));
  m.impl("group_last", TORCH_BOX(&pgconv::last));
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cuda_why_not_chain", TORCH_BOX(&pgconv::why_not));
}
