// Every schema of namespace pgconv_C, the raw kernels behind pgconv/backends. No autograd and no arithmetic here; the
// definitions are in <device>/<op>.cpp. Shapes: v [Sv, Nv, e], u [Su, Nu, e] with Sv, Su in {1, S}; params [P] and net
// as in pgconv/kernel_nets/packing.py; all tensors contiguous and of one type (CPU: float32, float64).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(pgconv_C, m) {
  // phi [S, Nu, Nv, H]: features of the relative elements v_j^-1 u_i ("convolution") or u_i^-1 v_j ("correlation").
  m.def(
      "relative_features(Tensor v, Tensor u, Tensor params, str group, str chart, str part, str form, str net) "
      "-> Tensor");
  m.def(
      "relative_features_backward(Tensor grad, Tensor v, Tensor u, Tensor params, str group, str chart, str part, "
      "str form, str net) -> (Tensor, Tensor, Tensor)");

  // [M, D] -> [M, H]
  m.def("kernel_net(Tensor coords, Tensor params, str net) -> Tensor");
  m.def("kernel_net_backward(Tensor grad, Tensor coords, Tensor params, str net) -> (Tensor, Tensor)");

  // y [B, O, Nu, Ho, Wo] from f [B, C, Nv, H, W] (also bfloat16 beside float32), phi [S, Nu, Nv, T, Hd], S = 1 or B, and weight
  // [O, C, Hd]. taps [T, 2], int64: rows and columns counted from the window's first; geometry: stride, padding, dilation, a
  // pair each; order: aggregate, direct, spectral, spectral-aggregate, or mix (stride 1). needs: bits for f, phi, weight.
  m.def("group_conv2d(Tensor f, Tensor phi, Tensor weight, Tensor taps, int[] geometry, str order) -> Tensor");
  m.def(
      "group_conv2d_backward(Tensor grad, Tensor f, Tensor phi, Tensor weight, Tensor taps, int[] geometry, str order, "
      "int needs) -> (Tensor, Tensor, Tensor)");

  // out [B, Nu, O] from f [B, Nv, C], elements v, u as above with S = 1 or B, weight [O, C, H] and bias [O, C] (depthwise [C, H]
  // and [C]). Pairs: all; or those of rowptr [Nu + 1] (the same for all examples) or [B Nu + 1], with the numbers of their
  // inputs in index [pairs], or of consecutive inputs from first [rows]. needs: bits for f, for v, u and params, for weight
  // and bias.
  m.def(
      "point_conv(Tensor f, Tensor v, Tensor u, Tensor params, Tensor weight, Tensor? bias, Tensor? rowptr, "
      "Tensor? index, Tensor? first, bool depthwise, str group, str chart, str part, str form, str net) -> Tensor");
  m.def(
      "point_conv_backward(Tensor grad, Tensor f, Tensor v, Tensor u, Tensor params, Tensor weight, Tensor? bias, "
      "Tensor? rowptr, Tensor? index, Tensor? first, bool depthwise, str group, str chart, str part, str form, str net, "
      "int needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // FLOP/s of float32 multiply-adds on registers, all threads together; with bfloat16 those of bfloat16 pairs where the
  // instruction set in use has them.
  m.def("fma_rate(int milliseconds, bool bfloat16) -> float");

  // Instruction-set levels: base, avx2, avx512, avx512bf16.
  m.def("cpu_isa() -> str");
  m.def("cpu_isa_supported() -> str");  // comma-separated, ascending
  m.def("set_cpu_isa(str level) -> ()");
}
