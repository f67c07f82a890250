// Host side that all orders of the planar convolution share: arguments, the two roles of the operands, splitting of pixels,
// and the way from double sums to gradients.
#pragma once

#include <tuple>

#include "host.h"
#include "isa.h"

namespace pgconv {

// One call: sizes and operands in the forward direction's names, see conv_params.h.
struct ConvCall {
  const char* op;
  Tensor f, phi, weight;
  int64_t B, C, Nv, H, W, S, Nu, T, Hd, O, Ho, Wo;
  int64_t stride[2], padding[2], dilation[2];
  std::vector<int64_t> taps;  // [T][2], rows and columns counted from the first of the window
  int64_t reach[2];           // window size minus 1, dilated

  static ConvCall make(const char* op, const Tensor& f, const Tensor& phi, const Tensor& weight, const Tensor& taps,
                       const std::vector<int64_t>& geometry);
  // Whether outputs are sums of nothing, or of padding alone, which the kernels do not know.
  bool empty_sums() const { return C == 0 || Nv == 0 || H == 0 || W == 0 || T == 0 || Hd == 0; }
  bool bfloat16() const { return f.scalar_type() == ScalarType::BFloat16; }
};

// Role of the operands: straight reads the signal through the taps and walks over the output's pixels; adjoint reads the
// output through the mirrored taps and walks over the signal's pixels, which needs stride 1.
enum class Role { kStraight, kAdjoint };

// The description handed to kernels, with the tables it points to.
template <class T>
struct ConvSetup {
  ConvProblem<T> problem;
  std::vector<int64_t> offsets;
  const ConvKernels<T>& kernels;
  int64_t threads;  // worth starting for this call

  ConvSetup(const ConvCall& call, Role role, const KernelTable& table, const void* signal, const void* output);
  ConvSetup(const ConvSetup&) = delete;
};

// Splits images x pixels for a direction without sums: enough parts of every image to keep all threads evenly busy, and
// strips small enough that their padded planes stay within `most_bytes`.
template <class T>
struct PixelSplit {
  int64_t parts, strip_pixels;

  PixelSplit(const ConvSetup<T>& setup, int64_t planes, int64_t most_bytes) {
    const ConvProblem<T>& p = setup.problem;
    int64_t panel = setup.kernels.panel, panels = (p.grid.pixels() + panel - 1) / panel;
    int64_t threads = setup.threads;
    parts = 1;
    auto waste = [&](int64_t n) {
      int64_t tasks = p.B * n;
      return double((tasks + threads - 1) / threads * threads) / double(tasks);
    };
    while (waste(parts) > 1.1 && parts < panels && parts < 4 * threads) ++parts;
    int64_t row_bytes = planes * p.grid.pitch * p.grid.stride_y * int64_t(sizeof(T));
    int64_t rows = std::max<int64_t>(most_bytes / std::max<int64_t>(row_bytes, 1), 2 * p.grid.reach_y + 1);
    strip_pixels = std::max(rows * p.grid.out_width / panel * panel, panel);
    strip_pixels = std::min(strip_pixels, (panels + parts - 1) / parts * panel);
  }
  int64_t tasks(int64_t batch) const { return batch * parts; }
  ConvTask task(const ConvProblem<T>& p, int64_t panel, int64_t i) const {
    Range pixels = part_of(p.grid.pixels(), parts, i % parts, panel);
    return {i / parts, i / parts + 1, 0, p.C, pixels.begin, pixels.end, strip_pixels};
  }
};

// Packs the head for the chunks of every channel range: a chunk never reaches over the end of its range.
template <class T, class Pack>
void pack_chunks(const ConvSetup<T>& setup, int64_t chunk, int64_t ranges, const Pack& pack) {
  const ConvProblem<T>& p = setup.problem;
  std::vector<Range> chunks;
  for (int64_t i = 0; i < ranges; ++i) {
    Range range = part_of(p.C, ranges, i);
    for (int64_t c = range.begin; c < range.end; c += chunk) chunks.push_back({c, std::min(c + chunk, range.end)});
  }
  parallel_each(setup.threads, int64_t(chunks.size()), [&](int64_t i) { pack(chunks[i].begin, chunks[i].end); });
}

// Features gradient [S, Nu, Nv, T, H] from sums [slot][set][u][h][lanes], added up over `slots` slots.
template <class T>
void finish_phi(const ConvSetup<T>& setup, const double* sums, int64_t slots, int64_t lanes, T* grad) {
  const ConvProblem<T>& p = setup.problem;
  int64_t block = p.Nu * p.H * lanes;
  parallel_each(setup.threads, p.S * p.Nu, [&](int64_t i) {
    int64_t s = i / p.Nu, u = i % p.Nu;
    for (int64_t v = 0; v < p.Nv; ++v)
      for (int64_t t = 0; t < p.grid.taps; ++t)
        for (int64_t h = 0; h < p.H; ++h) {
          double sum = 0;
          for (int64_t k = 0; k < slots; ++k)
            sum += sums[(k * p.S + s) * block + (u * p.H + h) * lanes + v * p.grid.taps + t];
          grad[s * p.phi_s + u * p.phi_u + v * p.phi_v + t * p.H + h] = T(sum);
        }
  });
}

// Head gradient from sums [slot][c][h][lanes of o].
template <class T>
void finish_head(const ConvSetup<T>& setup, const double* sums, int64_t slots, int64_t lanes, T* grad) {
  const ConvProblem<T>& p = setup.problem;
  int64_t block = p.C * p.H * lanes;
  parallel_each(setup.threads, p.C, [&](int64_t c) {
    for (int64_t o = 0; o < p.O; ++o)
      for (int64_t h = 0; h < p.H; ++h) {
        double sum = 0;
        for (int64_t k = 0; k < slots; ++k) sum += sums[k * block + (c * p.H + h) * lanes + o];
        grad[o * p.weight_o + c * p.weight_c + h] = T(sum);
      }
  });
}

// The orders. `out` is the pixel side in the problem's storage; gradients that are not needed may be null. The window
// side's gradient is in the kernels' number type.
template <class T>
void aggregate_forward(const ConvSetup<T>& setup, void* out);
// The aggregate order has the window side's gradient in the problem's storage.
template <class T>
void aggregate_backward(const ConvSetup<T>& setup, ConvNeeds needs, void* grad_window, T* grad_phi, T* grad_weight);
template <class T>
void direct_forward(const ConvSetup<T>& setup, void* out);
template <class T>
void direct_backward(const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window, T* grad_phi, T* grad_weight);
// The spectral order from kernel values, and its aggregate form from features.
template <class T>
void spectral_forward(const ConvCall& call, const ConvSetup<T>& setup, void* out);
template <class T>
void spectral_backward(const ConvCall& call, const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window, T* grad_phi,
                       T* grad_weight);
template <class T>
void spectral_aggregate_forward(const ConvCall& call, const ConvSetup<T>& setup, void* out);
template <class T>
void spectral_aggregate_backward(const ConvCall& call, const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window,
                                 T* grad_phi, T* grad_weight);

}  // namespace pgconv
