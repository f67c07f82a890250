#include "conv_host.h"

namespace pgconv {
namespace {

// Of taps, padding and dilation, so that their products and sums with sizes of images do not overflow.
constexpr int64_t kMost = int64_t(1) << 31;

}  // namespace

ConvCall ConvCall::make(const char* op, const Tensor& f, const Tensor& phi, const Tensor& weight, const Tensor& taps,
                        const std::vector<int64_t>& geometry) {
  if (!f.is_cpu() || !phi.is_cpu() || !weight.is_cpu() || !taps.is_cpu()) fail(op, ": expected CPU tensors");
  ScalarType type = phi.scalar_type();
  if (type != ScalarType::Float && type != ScalarType::Double) fail(op, ": phi: expected float32 or float64");
  bool narrow = f.scalar_type() == ScalarType::BFloat16 && type == ScalarType::Float;
  check_tensor(op, "f", f, {-1, -1, -1, -1, -1}, narrow ? ScalarType::BFloat16 : type);
  check_tensor(op, "phi", phi, {-1, -1, f.size(2), -1, -1}, type);
  check_tensor(op, "weight", weight, {-1, f.size(1), phi.size(4)}, type);
  check_tensor(op, "taps", taps, {phi.size(3), 2}, ScalarType::Long);
  if (geometry.size() != 6) fail(op, ": geometry: expected stride, padding and dilation, 6 numbers");
  ConvCall call{op, f, phi, weight, f.size(0), f.size(1), f.size(2), f.size(3), f.size(4), phi.size(0), phi.size(1),
                phi.size(3), phi.size(4), weight.size(0), 0, 0, {}, {}, {}, {}, {}};
  if (call.S != 1 && call.S != call.B) fail(op, ": phi: expected 1 or ", call.B, " sets, got ", call.S);
  auto at = data_of<int64_t>(taps);
  call.taps.assign(at, at + 2 * call.T);
  // The window is odd and its support contains the last row and column at least in the middle.
  int64_t size[2] = {0, 0}, image[2] = {call.H, call.W}, out[2];
  for (int64_t t = 0; t < call.T; ++t)
    for (int axis = 0; axis < 2; ++axis) {
      if (call.taps[2 * t + axis] < 0 || call.taps[2 * t + axis] > kMost)
        fail(op, ": taps: expected numbers >= 0, 2^31 at most");
      size[axis] = std::max(size[axis], call.taps[2 * t + axis]);
    }
  for (int axis = 0; axis < 2; ++axis) {
    call.padding[axis] = geometry[2 + axis];
    call.dilation[axis] = geometry[4 + axis];
    if (geometry[axis] < 1 || call.padding[axis] < 0 || call.dilation[axis] < 1)
      fail(op, ": geometry: expected stride >= 1, padding >= 0, dilation >= 1");
    if (std::max({call.padding[axis], call.dilation[axis], image[axis]}) > kMost)
      fail(op, ": geometry: expected padding, dilation and images of 2^31 at most");
    call.reach[axis] = size[axis] * call.dilation[axis];
    out[axis] = image[axis] + 2 * call.padding[axis] - call.reach[axis];
    if (out[axis] < 1) fail(op, ": the window does not fit the padded image");
    // A step beyond the last pixel leads nowhere, but planes are laid out in whole steps.
    call.stride[axis] = std::min(geometry[axis], out[axis]);
    out[axis] = (out[axis] - 1) / call.stride[axis] + 1;
  }
  call.Ho = out[0];
  call.Wo = out[1];
  int64_t padded[2] = {call.H + 2 * call.padding[0], call.W + 2 * call.padding[1]};
  check_product(op, {call.B, call.C, call.Nv, padded[0], padded[1]});
  check_product(op, {call.B, call.O, call.Nu, padded[0], padded[1]});
  check_product(op, {call.C, call.Nv, call.O, call.Nu, call.T});
  check_product(op, {call.C, call.Nv, call.Nu, call.Hd});
  check_product(op, {call.S, call.Nu, call.Nv, call.T, call.Hd});
  check_product(op, {call.O, call.C, call.Hd});
  return call;
}

template <class T>
ConvSetup<T>::ConvSetup(const ConvCall& call, Role role, const KernelTable& table, const void* signal,
                        const void* output)
    : problem{}, kernels(kernels_of<T>(table).conv), threads(1) {
  bool straight = role == Role::kStraight;
  ConvGrid& g = problem.grid;
  g.height = straight ? call.H : call.Ho;
  g.width = straight ? call.W : call.Wo;
  g.out_height = straight ? call.Ho : call.H;
  g.out_width = straight ? call.Wo : call.W;
  g.pad_y = straight ? call.padding[0] : call.reach[0] - call.padding[0];
  g.pad_x = straight ? call.padding[1] : call.reach[1] - call.padding[1];
  g.stride_y = straight ? call.stride[0] : 1;
  g.stride_x = straight ? call.stride[1] : 1;
  g.reach_y = call.reach[0];
  g.columns = ((g.out_width - 1) * g.stride_x + call.reach[1]) / g.stride_x + 1;
  g.pitch = g.columns * g.stride_x;
  g.taps = call.T;
  for (int64_t t = 0; t < call.T; ++t) {
    int64_t y = call.dilation[0] * call.taps[2 * t], x = call.dilation[1] * call.taps[2 * t + 1];
    if (!straight) {
      y = call.reach[0] - y;
      x = call.reach[1] - x;
    }
    offsets.push_back(y * g.pitch + x % g.stride_x * g.columns + x / g.stride_x);
  }
  g.offsets = offsets.data();

  problem.B = call.B;
  problem.C = straight ? call.C : call.O;
  problem.O = straight ? call.O : call.C;
  problem.Nv = straight ? call.Nv : call.Nu;
  problem.Nu = straight ? call.Nu : call.Nv;
  problem.H = call.Hd;
  problem.S = call.S;
  problem.storage = call.bfloat16() ? kBfloat16 : kNative;
  problem.window = straight ? signal : output;
  problem.pixel = straight ? output : signal;
  problem.phi = data_of<T>(call.phi);
  int64_t row = call.T * call.Hd;
  problem.phi_s = call.Nu * call.Nv * row;
  problem.phi_u = straight ? call.Nv * row : row;
  problem.phi_v = straight ? row : call.Nv * row;
  problem.weight = data_of<T>(call.weight);
  problem.weight_o = straight ? call.C * call.Hd : call.Hd;
  problem.weight_c = straight ? call.Hd : call.C * call.Hd;

  // A thread costs some microseconds to wake, which is what half a million multiply-adds take.
  double work = double(call.B * call.O * call.Nu) * double(call.C * call.Nv) * double(call.T * call.Ho * call.Wo);
  threads = std::max<int64_t>(1, std::min(thread_count(), int64_t(work / double(1 << 19))));
}

template struct ConvSetup<float>;
template struct ConvSetup<double>;

}  // namespace pgconv
