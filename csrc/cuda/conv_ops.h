// What the operators of the planar convolution share: operands as the kernels want them, checked.
#pragma once

#include "conv_chain.h"
#include "ops.h"

namespace pgconv {

using namespace PGCONV_ISA;

constexpr int64_t kOctet = 8;

inline HalfType half_type(const char* op, const char* name, const Tensor& t) {
  if (!t.is_cuda()) fail(op, ": expected CUDA tensors");
  bool half = t.scalar_type() == ScalarType::Half;
  if (!half && t.scalar_type() != ScalarType::BFloat16) fail(op, ": ", name, ": expected float16 or bfloat16");
  return half ? kFloat16 : kBfloat16Type;
}

// Octets of samples of [B, C, H, W, 8 octets].
inline int64_t sample_octets(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  check_device(op, name, t, like);
  check_tensor(op, name, t, {-1, -1, -1, -1, -1}, like.scalar_type());
  check_aligned(op, name, t);
  if (t.size(4) % kOctet) fail(op, ": ", name, ": expected a multiple of 8 samples, got ", t.size(4));
  return t.size(4) / kOctet;
}

// Sizes as they are stored; sizes of tensors and geometry are within 32 bits.
inline ConvChain described_conv(const char* op, int64_t vectors, int64_t octets, int64_t O, const std::vector<int64_t>& taps,
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

inline void set_signal(ConvChain& p, const Tensor& f) {
  p.B = f.size(0);
  p.C = f.size(1);
  p.height = int(f.size(2));
  p.width = int(f.size(3));
  p.f = data<uint16_t>(f);
}

// phi [S, Nu, octets, granules, 8, 8]
inline int64_t feature_octets(const char* op, const Tensor& phi, const Tensor& f) {
  check_device(op, "phi", phi, f);
  check_tensor(op, "phi", phi, {-1, -1, -1, -1, kOctet, kOctet}, f.scalar_type());
  check_aligned(op, "phi", phi);
  return phi.size(2);
}
inline void set_features(const char* op, ConvChain& p, const Tensor& phi) {
  p.S = phi.size(0);
  p.Nu = phi.size(1);
  if (p.S != 1 && p.S != p.B) fail(op, ": phi: expected 1 or ", p.B, " sets of features, got ", p.S);
  if (phi.size(3) != p.granules) fail(op, ": phi: expected ", p.granules, " granules, got ", phi.size(3));
  p.phi = data<uint16_t>(phi);
}

inline void set_head(const char* op, ConvChain& p, const Tensor& weight, const Tensor& f) {
  check_device(op, "weight", weight, f);
  check_tensor(op, "weight", weight, {p.O, p.C, kOctet * p.octets}, f.scalar_type());
  check_aligned(op, "weight", weight);
  p.weight = data<uint16_t>(weight);
}

}  // namespace pgconv
