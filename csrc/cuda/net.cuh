// Kernel nets on a GPU: features of given coordinates, and the way back.
//
// A warp takes 32 pairs at a time, one for each lane, through all layers; buffers are [number][pair] in its own part of
// shared memory, so that warps never wait for each other. A lane computes kSide features side by side: of each input number
// it then takes 1 load of its own and kSide / 4 of weights, the same for all lanes, to kSide multiply-adds.
//
// Per pair and with L hidden layers the forward takes 2 H (D + (L - 1) H) FLOPs; the backward computes them again and adds
// twice as many. In float32 and float64, with the activations of the CPU: these kernels also make the features of the image
// convolution, where they are few, so accuracy comes before the last microsecond.
#pragma once

#include "../common/activations.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kSide = 8;
// Distance of rows: consecutive numbers of one pair lie in different banks, too.
constexpr int kNetRow = kWarp + 1;

// A net's parameters in the order the kernels read them; layer l has `in(l)` inputs. Padded features have weights 0.
struct NetPanels {
  NetShape shape;

  PGCONV_INLINE int up(int n) { return (n + kSide - 1) / kSide * kSide; }
  PGCONV_EVERYWHERE int in(int l) const { return l == 0 ? shape.coord_dim : shape.hidden; }
  PGCONV_EVERYWHERE int width() const { return up(shape.hidden); }
  // forward [in][width], bias [width], backward [hidden][in rounded up]
  PGCONV_EVERYWHERE int64_t layer(int l) const { return l == 0 ? 0 : size(0) + (l - 1) * size(1); }
  PGCONV_EVERYWHERE int64_t bias(int l) const { return layer(l) + int64_t(in(l)) * width(); }
  PGCONV_EVERYWHERE int64_t backward(int l) const { return bias(l) + width(); }
  PGCONV_EVERYWHERE int64_t size(int l) const {
    return int64_t(in(l) + 1) * width() + int64_t(shape.hidden) * up(in(l));
  }
  PGCONV_EVERYWHERE int64_t size() const { return layer(shape.hidden_layers); }
  // Where the layer's matrix begins in the parameters as they are given; its bias comes behind it.
  PGCONV_EVERYWHERE int64_t param(int l) const {
    int64_t H = shape.hidden;
    return l == 0 ? 0 : H * (shape.coord_dim + 1) + (l - 1) * H * (H + 1);
  }
  PGCONV_EVERYWHERE int64_t params() const { return param(shape.hidden_layers); }  // omega0 not counted
};

template <class T>
struct PackNet {
  NetPanels net;
  const T* params;
  T* panels;
};

template <class T>
PGCONV_KERNEL(256) pack_net(const PackNet<T> p) {
  const NetShape& shape = p.net.shape;
  int H = shape.hidden, width = p.net.width();
  bool sine = shape.activation == kSin;
  double slope = sine ? double(p.params[p.net.params()]) : 1, scale = sine ? slope * Act<kSin>::kScale : 1;
  for (int64_t k = block() * threads() + thread(); k < p.net.size(); k += blocks() * threads()) {
    int l = 0;
    while (l + 1 < shape.hidden_layers && k >= p.net.layer(l + 1)) ++l;
    int in = p.net.in(l), back = NetPanels::up(in);
    const T *matrix = p.params + p.net.param(l), *bias = matrix + int64_t(H) * in;
    double value = 0;
    if (int64_t n = k - p.net.backward(l); n >= 0) {
      if (n % back < in) value = slope * matrix[n / back * in + n % back];
    } else if (int64_t n = k - p.net.bias(l); n >= 0) {
      if (n < H) value = scale * bias[n];
    } else if (int64_t n = k - p.net.layer(l); n % width < H) {
      value = scale * matrix[n % width * in + n / width];
    }
    p.panels[k] = T(value);
  }
}

// kSide numbers on a 16-byte boundary, in as few loads as there can be.
template <class T>
struct alignas(16) Side {
  T of[kSide];
};
template <class T>
PGCONV_DEVICE Side<T> load_side(const T* from) {
  return *reinterpret_cast<const Side<T>*>(from);
}

// f(first number, sums of kSide numbers) of sum_k panel[k][number] x[k] + bias[number], for the lane's pair.
template <class T, class F>
PGCONV_DEVICE void each_side(const T* x, int depth, const T* panel, int width, const T* bias, F&& f) {
  for (int n = 0; n < width; n += kSide) {
    Side<T> sum = {};
    if (bias) sum = load_side(bias + n);
    for (int k = 0; k < depth; ++k) {
      T value = x[k * kNetRow + lane()];
      Side<T> weight = load_side(panel + k * width + n);
      PGCONV_UNROLL
      for (int c = 0; c < kSide; ++c) sum.of[c] += weight.of[c] * value;
    }
    f(n, sum.of);
  }
}

template <int A, class T>
PGCONV_DEVICE void values_of(T (&z)[kSide]) {
  PGCONV_UNROLL
  for (int c = 0; c < kSide; ++c) z[c] = Act<A>::value(z[c]);
}
template <class T>
PGCONV_DEVICE void activate(int activation, T (&z)[kSide]) {
  switch (activation) {
    case kSin: return values_of<kSin>(z);
    case kSilu: return values_of<kSilu>(z);
    case kRelu: return values_of<kRelu>(z);
    case kGelu: return values_of<kGelu>(z);
    default: return values_of<kTanh>(z);
  }
}

// Value of the activation, and the derivative in place of the argument.
template <class T>
PGCONV_DEVICE T activate_both(int activation, T& z) {
  T y, dy;
  switch (activation) {
    case kSin: Act<kSin>::both(z, y, dy); break;
    case kSilu: Act<kSilu>::both(z, y, dy); break;
    case kRelu: Act<kRelu>::both(z, y, dy); break;
    case kGelu: Act<kGelu>::both(z, y, dy); break;
    default: Act<kTanh>::both(z, y, dy);
  }
  z = dy;
  return y;
}

// Warps of a launch and what each has of shared memory: as many to a block as fit, up to kNetWarps.
constexpr int kNetWarps = 4;
struct NetWarps {
  int numbers, warps;  // numbers of a warp, warps of a block

  template <class T>
  static NetWarps of(int rows) {
    int bytes = rows * kNetRow * int(sizeof(T)), most = kMostSharedBytes / bytes;
    return {rows * kNetRow, most < kNetWarps ? most : kNetWarps};
  }
  // Coordinates, and two buffers that layers take turns with.
  template <class T>
  static NetWarps forward(const NetShape& s) {
    return of<T>(s.coord_dim + 2 * s.hidden);
  }
  // Coordinates, phases of every layer, and a buffer for gradients of phases, or of coordinates.
  template <class T>
  static NetWarps backward(const NetShape& s) {
    return of<T>(s.coord_dim + (s.hidden_layers + 1) * s.hidden);
  }
};

template <class T>
struct NetCall {
  NetPanels net;
  int numbers, warps;
  int64_t count;
  const T* panels;
  const T* coords;  // [count, D]
  const T* grad;    // [count, H]
  T* out;           // [count, H]
  T* grad_coords;   // [count, D]
  T* sums;          // [warps of the launch][parameters]
};

// The lane's pair of the 32 that begin with `first`. Beyond the end the first again: finite where the pairs are.
PGCONV_DEVICE int64_t pair_of_lane(int64_t first, int64_t count) {
  return first + lane() < count ? first + lane() : first;
}

template <class T>
PGCONV_DEVICE void load_coords(const NetCall<T>& p, int64_t first, T* x) {
  int D = p.net.shape.coord_dim;
  const T* from = p.coords + pair_of_lane(first, p.count) * D;
  for (int d = 0; d < D; ++d) x[d * kNetRow + lane()] = from[d];
}

template <class T>
PGCONV_KERNEL(kNetWarps * kWarp) net_forward(const NetCall<T> p) {
  const NetShape& shape = p.net.shape;
  int H = shape.hidden;
  T *x = shared_memory<T>() + warp() * p.numbers, *buffers = x + shape.coord_dim * kNetRow;
  int64_t step = blocks() * p.warps * kWarp;
  for (int64_t first = (block() * p.warps + warp()) * kWarp; first < p.count; first += step) {
    load_coords(p, first, x);
    const T* input = x;
    for (int l = 0; l < shape.hidden_layers; ++l) {
      T* to = buffers + l % 2 * H * kNetRow;
      each_side(input, p.net.in(l), p.panels + p.net.layer(l), p.net.width(), p.panels + p.net.bias(l),
                [&](int n, T(&z)[kSide]) {
                  activate(shape.activation, z);
                  for (int c = 0; c < kSide && n + c < H; ++c) to[(n + c) * kNetRow + lane()] = z[c];
                });
      input = to;
    }
    sync_warp();
    int rows = int(p.count - first < kWarp ? p.count - first : kWarp);
    for (int r = 0; r < rows; ++r)
      for (int h = lane(); h < H; h += kWarp) p.out[(first + r) * H + h] = input[h * kNetRow + r];
    sync_warp();
  }
}

// sums[h in + k] += sum over pairs g[h] y[k], and behind the matrix the same for the bias, y = 1. A lane has outputs h and
// kSide inputs side by side.
template <class T>
PGCONV_DEVICE void add_param_gradients(const T* g, const T* y, int H, int in, T* sums) {
  for (int h = lane(); h < H; h += kWarp) {
    const T* own = g + h * kNetRow;
    for (int k = 0; k < in; k += kSide) {
      T sum[kSide] = {};
      for (int r = 0; r < kWarp; ++r)
        PGCONV_UNROLL
        for (int c = 0; c < kSide; ++c) sum[c] += own[r] * y[(k + c < in ? k + c : k) * kNetRow + r];
      for (int c = 0; c < kSide && k + c < in; ++c) sums[int64_t(h) * in + k + c] += sum[c];
    }
    T sum = 0;
    for (int r = 0; r < kWarp; ++r) sum += own[r];
    sums[int64_t(H) * in + h] += sum;
  }
}

template <class T>
PGCONV_KERNEL(kNetWarps * kWarp) net_backward(const NetCall<T> p) {
  const NetShape& shape = p.net.shape;
  int H = shape.hidden, D = shape.coord_dim, last = shape.hidden_layers - 1;
  T *x = shared_memory<T>() + warp() * p.numbers, *phases = x + D * kNetRow;
  T* sums = p.sums + (block() * p.warps + warp()) * p.net.params();
  for (int64_t k = lane(); k < p.net.params(); k += kWarp) sums[k] = 0;
  sync_warp();
  int64_t step = blocks() * p.warps * kWarp;
  for (int64_t first = (block() * p.warps + warp()) * kWarp; first < p.count; first += step) {
    load_coords(p, first, x);
    // Values of a layer are needed by the next one alone, so they take turns in what becomes the gradients' buffer.
    T* spare = phases + (last + 1) * H * kNetRow;
    const T* input = x;
    for (int l = 0; l <= last; ++l) {
      T* to = phases + l * H * kNetRow;
      each_side(input, p.net.in(l), p.panels + p.net.layer(l), p.net.width(), p.panels + p.net.bias(l),
                [&](int n, T(&z)[kSide]) {
                  for (int c = 0; c < kSide && n + c < H; ++c) to[(n + c) * kNetRow + lane()] = z[c];
                });
      if (l == last) break;
      for (int h = 0; h < H; ++h) {
        T z = to[h * kNetRow + lane()];
        spare[h * kNetRow + lane()] = activate_both(shape.activation, z);
      }
      input = spare;
    }

    // g: gradients of the last phases, in their place.
    T* g = phases + last * H * kNetRow;
    sync_warp();
    int rows = int(p.count - first < kWarp ? p.count - first : kWarp);
    for (int r = 0; r < kWarp; ++r)
      for (int h = lane(); h < H; h += kWarp) {
        T z = g[h * kNetRow + r];
        activate_both(shape.activation, z);
        g[h * kNetRow + r] = r < rows ? p.grad[(first + r) * H + h] * z : T(0);
      }
    sync_warp();

    for (int l = last; l > 0; --l) {
      // Of the layer before: values in place of its phases, gradients into the spare buffer.
      T* y = phases + (l - 1) * H * kNetRow;
      each_side(g, H, p.panels + p.net.backward(l), NetPanels::up(H), static_cast<const T*>(nullptr),
                [&](int n, T(&sum)[kSide]) {
                  for (int c = 0; c < kSide && n + c < H; ++c) {
                    int at = (n + c) * kNetRow + lane();
                    T z = y[at];
                    y[at] = activate_both(shape.activation, z);
                    spare[at] = sum[c] * z;
                  }
                });
      sync_warp();
      add_param_gradients(g, y, H, H, sums + p.net.param(l));
      sync_warp();
      T* taken = g;
      g = spare;
      spare = taken;
    }
    add_param_gradients(g, x, H, D, sums);
    if (lane() < rows)
      each_side(g, H, p.panels + p.net.backward(0), NetPanels::up(D), static_cast<const T*>(nullptr),
                [&](int n, T(&sum)[kSide]) {
                  for (int c = 0; c < kSide && n + c < D; ++c) p.grad_coords[(first + lane()) * D + n + c] = sum[c];
                });
    sync_warp();
  }
}

template <class T>
struct NetTotals {
  NetPanels net;
  int64_t parts;
  const T* sums;    // [parts][parameters]
  const T* params;
  double* totals;   // [parameters]
  T* grad;          // of the parameters as they are given
};

// Sums are gradients with respect to omega0 (A h + b) for "sin": omega0's own gradient is their inner product with the
// parameters.
template <class T>
PGCONV_KERNEL(256) finish_net(const NetTotals<T> p) {
  int64_t count = p.net.params();
  double slope = p.net.shape.activation == kSin ? double(p.params[count]) : 1;
  for (int64_t k = block() * threads() + thread(); k < count; k += blocks() * threads()) {
    double sum = 0;
    for (int64_t n = 0; n < p.parts; ++n) sum += p.sums[n * count + k];
    p.totals[k] = sum;
    p.grad[k] = T(slope * sum);
  }
}
template <class T>
PGCONV_KERNEL(kWarp) finish_omega(const NetTotals<T> p) {
  int64_t count = p.net.params();
  double sum = 0;
  for (int64_t k = lane(); k < count; k += kWarp) sum += p.totals[k] * p.params[k];
  sum = sum_of_lanes(sum);
  if (lane() == 0) p.grad[count] = T(sum);
}

// The host side.

template <class T>
const T* packed_net(Machine& machine, const NetPanels& net, const T* params) {
  T* panels = machine.take<T>(net.size());
  launch(machine, pack_net<T>, grid_for(net.size()), PackNet<T>{net, params, panels});
  return panels;
}

template <class T>
NetCall<T> net_call(const NetPanels& net, NetWarps w, int64_t count, const T* panels, const T* coords) {
  return {net, w.numbers, w.warps, count, panels, coords, nullptr, nullptr, nullptr, nullptr};
}
template <class T>
Grid net_grid(NetWarps w, int64_t count, int64_t most_warps) {
  int64_t warps = (count + kWarp - 1) / kWarp, blocks = ((warps < most_warps ? warps : most_warps) + w.warps - 1) / w.warps;
  return {blocks, w.warps * kWarp, w.warps * w.numbers * int(sizeof(T))};
}

// out [count, H] of coords [count, D].
template <class T>
void net_values(Machine& machine, const NetShape& shape, int64_t count, const T* coords, const T* params, T* out) {
  NetPanels net{shape};
  NetWarps w = NetWarps::forward<T>(shape);
  NetCall<T> p = net_call(net, w, count, packed_net(machine, net, params), coords);
  p.out = out;
  launch(machine, net_forward<T>, net_grid<T>(w, count, 1 << 16), p);
}

// Gradients of the coordinates and of the parameters from grad [count, H].
template <class T>
void net_gradients(Machine& machine, const NetShape& shape, int64_t count, const T* coords, const T* params,
                   const T* grad, T* grad_coords, T* grad_params) {
  NetPanels net{shape};
  NetWarps w = NetWarps::backward<T>(shape);
  // Every warp has sums of its own, of 32 MB together at most. Their number depends on the shape alone, and so do the sums.
  int64_t most = (32 << 20) / (int64_t(sizeof(T)) * net.params());
  Grid grid = net_grid<T>(w, count, most < kNetWarps ? kNetWarps : most < 1024 ? most : 1024);
  NetCall<T> p = net_call(net, w, count, packed_net(machine, net, params), coords);
  p.grad = grad;
  p.grad_coords = grad_coords;
  int64_t parts = grid.blocks * w.warps;
  p.sums = machine.take<T>(parts * net.params());
  launch(machine, net_backward<T>, grid, p);
  NetTotals<T> totals{net, parts, p.sums, params, machine.take<double>(net.params()), grad_params};
  launch(machine, finish_net<T>, grid_for(net.params()), totals);
  if (shape.activation == kSin) launch(machine, finish_omega<T>, Grid{1, kWarp, 0}, totals);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
