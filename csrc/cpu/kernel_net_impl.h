// Kernel nets on tiles of kTile pairs, forward and backward.
//
// Buffers are pair-major, [pair][padded features], so every product has its vectors along features: nothing is ever
// transposed, the last layer is stored as it comes, and pairs, of which there are always plenty, need no padding.
// Coordinates are [D][pair], as the group code makes them. Padded features are 0 and stay 0: their weights and biases
// are 0 and every activation maps 0 to 0.
//
// Per pair and with L hidden layers the forward takes 2 H (D + (L-1) H) FLOPs and L H activations and writes H numbers;
// the backward recomputes it (nothing is saved) and adds twice its FLOPs for the two gradients of every product.
#pragma once

#include "../common/activations.h"
#include "product.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Tiles whose parameter gradients are summed in T before they are added to the double totals: 1024 pairs keep the
// rounding of the sum near that of its terms, and make the conversion cost nothing.
constexpr int kFlushTiles = 16;

template <class T>
struct NetLayout {
  static constexpr int W = Traits<Native<T>>::width;
  NetShape shape;
  int64_t width;         // padded features
  int64_t coords_width;  // padded coordinates in the backward panel of the first layer
  bool narrow;           // that panel is read by 16-byte vectors

  PGCONV_INLINE NetLayout of(const NetShape& s) {
    bool narrow = s.coord_dim <= 4;
    return {s, round_up(s.hidden, W), narrow ? 4 : round_up(s.coord_dim, W), narrow};
  }
  int64_t in(int l) const { return l == 0 ? shape.coord_dim : shape.hidden; }
  int64_t in_width(int l) const { return l == 0 ? coords_width : width; }
  // Per layer: forward panel [in][width], bias [width], backward panel [hidden][in_width].
  int64_t forward_panel(int l) const {
    int64_t first = (in(0) + 1) * width + shape.hidden * coords_width;
    return l == 0 ? 0 : first + (l - 1) * ((shape.hidden + 1) * width + shape.hidden * width);
  }
  int64_t bias(int l) const { return forward_panel(l) + in(l) * width; }
  int64_t backward_panel(int l) const { return bias(l) + width; }
  int64_t packed_size() const { return forward_panel(shape.hidden_layers); }
  // Per layer: gradients of the transposed weights [in][width], then of the bias [width].
  int64_t total(int l) const { return l == 0 ? 0 : (in(0) + 1 + (l - 1) * (shape.hidden + 1)) * width; }
  int64_t totals_size() const { return total(shape.hidden_layers); }
  // Holds [kTile][width] or, for the gradient of the coordinates, [kTile][coords_width].
  int64_t buffer() const { return kTile * (width > coords_width ? width : coords_width); }
  int64_t coords_buffer() const {
    return kTile * (round_up(kMaxCoords, 16) > round_up(shape.coord_dim, 16) ? round_up(kMaxCoords, 16)
                                                                            : round_up(shape.coord_dim, 16));
  }
  // Coordinates and their gradients; per layer features and derivatives, and two gradients (the forward uses two of
  // them); sums of parameter gradients; fields of a tile's pairs and their gradients.
  int64_t workspace_size() const {
    return 2 * coords_buffer() + (2 * shape.hidden_layers + 2) * buffer() + totals_size() + 4 * kMaxFields * kTile;
  }
};

template <class T>
struct Net {
  using V = Native<T>;
  using Small = typename NativeOf<T>::Small;
  static constexpr int W = Traits<V>::width;

  static void pack(const NetShape& shape, const T* params, T* packed) {
    auto layout = NetLayout<T>::of(shape);
    int64_t H = shape.hidden, stride = layout.width;
    const T* omega = params + H * (shape.coord_dim + 1) + (shape.hidden_layers - 1) * H * (H + 1);
    bool sine = shape.activation == kSin;
    double slope = sine ? double(*omega) : 1, scale = sine ? slope * Act<kSin>::kScale : 1;
    for (int64_t k = 0; k < layout.packed_size(); ++k) packed[k] = 0;
    for (int l = 0; l < shape.hidden_layers; ++l) {
      int64_t in = layout.in(l);
      T *forward = packed + layout.forward_panel(l), *backward = packed + layout.backward_panel(l);
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t k = 0; k < in; ++k) {
          forward[k * stride + h] = T(scale * params[h * in + k]);
          backward[h * layout.in_width(l) + k] = T(slope * params[h * in + k]);
        }
        packed[layout.bias(l) + h] = T(scale * params[H * in + h]);
      }
      params += H * (in + 1);
    }
  }

  // Totals are gradients with respect to omega0 (A h + b) for "sin": omega0's own gradient is their inner product with
  // the parameters.
  static void unpack_totals(const NetShape& shape, const T* params, const double* totals, T* grad) {
    auto layout = NetLayout<T>::of(shape);
    int64_t H = shape.hidden, stride = layout.width;
    int64_t count = H * (shape.coord_dim + 1) + (shape.hidden_layers - 1) * H * (H + 1);
    bool sine = shape.activation == kSin;
    double slope = sine ? double(params[count]) : 1, grad_omega = 0;
    for (int l = 0; l < shape.hidden_layers; ++l) {
      int64_t in = layout.in(l);
      const double* total = totals + layout.total(l);
      for (int64_t h = 0; h < H; ++h)
        for (int64_t k = 0; k <= in; ++k) {
          int64_t index = k < in ? h * in + k : H * in + h;
          double g = total[k * stride + h];
          grad_omega += g * params[index];
          grad[index] = T(slope * g);
        }
      params += H * (in + 1);
      grad += H * (in + 1);
    }
    if (sine) *grad = T(grad_omega);
  }

  // x [D][kTile] -> last [kTile][width]
  template <int A>
  static void evaluate(const NetLayout<T>& layout, const T* packed, const T* x, T* buffers, T* last) {
    int64_t stride = layout.width;
    const T* input = x;
    int64_t input_row = 1, input_column = kTile;
    for (int l = 0; l < layout.shape.hidden_layers; ++l) {
      T* h = l == layout.shape.hidden_layers - 1 ? last : buffers + (l % 2) * layout.buffer();
      product<V, false>(kTile, int(stride), input, input_row, input_column, packed + layout.forward_panel(l), stride,
                        packed + layout.bias(l), int(layout.in(l)), [&](int r, int c, V z)
                            __attribute__((always_inline)) { store<V>(h + r * stride + c, Act<A>::value(z)); });
      input = h;
      input_row = stride;
      input_column = 1;
    }
  }

  // Column sums of g [kTile][stride], added to sum [stride]. Four partial sums, since one chain of 64 additions would
  // wait for each.
  PGCONV_INLINE void add_column_sums(const T* g, int64_t stride, T* sum) {
    for (int64_t c = 0; c < stride; c += W) {
      V s[4] = {};
      for (int r = 0; r < kTile; r += 4)
        for (int q = 0; q < 4; ++q) s[q] += load<V>(g + (r + q) * stride + c);
      store<V>(sum + c, load<V>(sum + c) + ((s[0] + s[1]) + (s[2] + s[3])));
    }
  }

  // Gradient of the coordinates, [D][kTile] from the phase gradients g of the first layer.
  template <class X>
  PGCONV_INLINE void coords_gradient(const NetLayout<T>& layout, const T* packed, const T* g, T* rows, T* gx) {
    int64_t D = layout.shape.coord_dim, n = layout.coords_width;
    product<X, false>(kTile, int(n), g, layout.width, 1, packed + layout.backward_panel(0), n, nullptr,
                      layout.shape.hidden,
                      [&](int r, int c, X z) __attribute__((always_inline)) { store<X>(rows + r * n + c, z); });
    for (int64_t d = 0; d < D; ++d)
      for (int r = 0; r < kTile; ++r) gx[d * kTile + r] = rows[r * n + d];
  }

  // Places of a recorded tile in the buffers, [kTile][width] each: features and derivatives of every layer, and the
  // gradients of the last layer's phases that reverse() starts from.
  static T* features(const NetLayout<T>& layout, T* buffers, int l) { return buffers + 2 * l * layout.buffer(); }
  static T* slopes(const NetLayout<T>& layout, T* buffers, int l) { return features(layout, buffers, l) + layout.buffer(); }
  static T* gradient(const NetLayout<T>& layout, T* buffers) {
    return features(layout, buffers, layout.shape.hidden_layers);
  }

  // x [D][kTile] -> features and derivatives of all layers.
  template <int A>
  static void record(const NetLayout<T>& layout, const T* packed, const T* x, T* buffers) {
    int64_t stride = layout.width;
    for (int l = 0; l < layout.shape.hidden_layers; ++l) {
      const T* input = l == 0 ? x : features(layout, buffers, l - 1);
      int64_t row = l == 0 ? 1 : stride, column = l == 0 ? kTile : 1;
      T *h = features(layout, buffers, l), *d = slopes(layout, buffers, l);
      product<V, false>(kTile, int(stride), input, row, column, packed + layout.forward_panel(l), stride,
                        packed + layout.bias(l), int(layout.in(l)), [&](int r, int c, V z)
                            __attribute__((always_inline)) {
                              V y, dy;
                              Act<A>::both(z, y, dy);
                              store<V>(h + r * stride + c, y);
                              store<V>(d + r * stride + c, dy);
                            });
    }
  }

  // From gradient() of a recorded tile: adds the parameter gradients to sums, and gx [D][kTile]. All of x must be finite
  // where the pairs are; rows beyond them repeat a pair and have gradient 0. Uses up the gradients.
  static void reverse(const NetLayout<T>& layout, const T* packed, const T* x, T* buffers, T* sums, T* gx) {
    int H = layout.shape.hidden;
    int64_t stride = layout.width;
    T *g = gradient(layout, buffers), *g_next = g + layout.buffer();
    for (int l = layout.shape.hidden_layers - 1;; --l) {
      T* sum = sums + layout.total(l);
      auto add = [&](int r, int c, V z) __attribute__((always_inline)) {
        T* p = sum + r * stride + c;
        store<V>(p, load<V>(p) + z);
      };
      add_column_sums(g, stride, sum + layout.in(l) * stride);
      if (l == 0) {
        product<V, true>(layout.shape.coord_dim, int(stride), x, kTile, 1, g, stride, nullptr, kTile, add);
        break;
      }
      product<V, true>(H, int(stride), features(layout, buffers, l - 1), 1, stride, g, stride, nullptr, kTile, add);
      const T* d = slopes(layout, buffers, l - 1);
      product<V, false>(kTile, int(stride), g, stride, 1, packed + layout.backward_panel(l), stride, nullptr, H,
                        [&](int r, int c, V z) __attribute__((always_inline)) {
                          store<V>(g_next + r * stride + c, z * load<V>(d + r * stride + c));
                        });
      T* swap = g;
      g = g_next;
      g_next = swap;
    }
    if (layout.narrow)
      coords_gradient<Small>(layout, packed, g, g_next, gx);
    else
      coords_gradient<V>(layout, packed, g, g_next, gx);
  }

  // Gradient of the phases from grad [count][H] of the features; rows from count on are 0.
  static void load_gradient(const NetLayout<T>& layout, const T* grad, int count, T* buffers) {
    int64_t H = layout.shape.hidden, stride = layout.width;
    const T* d = slopes(layout, buffers, layout.shape.hidden_layers - 1);
    T* g = gradient(layout, buffers);
    for (int r = 0; r < kTile; ++r) {
      int64_t n = r < count ? H : 0;
      for (int64_t c = 0; c < n; ++c) g[r * stride + c] = grad[r * H + c] * d[r * stride + c];
      __builtin_memset(g + r * stride + n, 0, sizeof(T) * (stride - n));
    }
  }

  static void flush(const NetLayout<T>& layout, T* sums, double* totals) {
    for (int64_t k = 0; k < layout.totals_size(); ++k) {
      totals[k] += sums[k];
      sums[k] = 0;
    }
  }

  using Evaluate = void (*)(const NetLayout<T>&, const T*, const T*, T*, T*);
  using Record = void (*)(const NetLayout<T>&, const T*, const T*, T*);

  static Evaluate evaluate_for(int activation) {
    constexpr Evaluate table[kNumActivations] = {evaluate<kSin>, evaluate<kSilu>, evaluate<kRelu>, evaluate<kGelu>,
                                                 evaluate<kTanh>};
    return table[activation];
  }
  static Record record_for(int activation) {
    constexpr Record table[kNumActivations] = {record<kSin>, record<kSilu>, record<kRelu>, record<kGelu>,
                                               record<kTanh>};
    return table[activation];
  }

  // x [D][kTile] -> out [count][H], without padding.
  static void evaluate_to(Evaluate how, const NetLayout<T>& layout, const T* packed, const T* x, int count, T* buffers,
                          T* out) {
    int64_t H = layout.shape.hidden;
    if (count == kTile && H == layout.width) return how(layout, packed, x, buffers, out);
    T* last = buffers + 2 * layout.buffer();
    how(layout, packed, x, buffers, last);
    for (int r = 0; r < count; ++r) __builtin_memcpy(out + r * H, last + r * layout.width, sizeof(T) * H);
  }

  // Parts of a workspace.
  struct Workspace {
    T *x, *gx, *buffers, *sums, *pairs;
    PGCONV_INLINE Workspace of(const NetLayout<T>& layout, T* memory) {
      int64_t coords = layout.coords_buffer();
      T* buffers = memory + 2 * coords;
      T* sums = buffers + (2 * layout.shape.hidden_layers + 2) * layout.buffer();
      return {memory, memory + coords, buffers, sums, sums + layout.totals_size()};
    }
  };

  // Tail rows repeat the first pair, so that they are finite whenever the tile's pairs are.
  static void load_coords(const NetShape& shape, const T* coords, int count, T* x) {
    for (int d = 0; d < shape.coord_dim; ++d)
      for (int r = 0; r < kTile; ++r) x[d * kTile + r] = coords[(r < count ? r : 0) * shape.coord_dim + d];
  }

  static void forward(const NetShape& shape, const T* packed, const T* coords, int64_t begin, int64_t end, T* memory,
                      T* out) {
    auto layout = NetLayout<T>::of(shape);
    auto ws = Workspace::of(layout, memory);
    auto how = evaluate_for(shape.activation);
    for (int64_t p = begin; p < end; p += kTile) {
      int count = int(end - p < kTile ? end - p : kTile);
      load_coords(shape, coords + p * shape.coord_dim, count, ws.x);
      evaluate_to(how, layout, packed, ws.x, count, ws.buffers, out + p * shape.hidden);
    }
  }

  static void backward(const NetShape& shape, const T* packed, const T* coords, const T* grad, int64_t begin,
                       int64_t end, T* memory, double* totals, T* grad_coords) {
    auto layout = NetLayout<T>::of(shape);
    auto ws = Workspace::of(layout, memory);
    auto record_tile = record_for(shape.activation);
    __builtin_memset(ws.sums, 0, sizeof(T) * layout.totals_size());
    int pending = 0;
    for (int64_t p = begin; p < end; p += kTile) {
      int count = int(end - p < kTile ? end - p : kTile);
      load_coords(shape, coords + p * shape.coord_dim, count, ws.x);
      record_tile(layout, packed, ws.x, ws.buffers);
      load_gradient(layout, grad + p * shape.hidden, count, ws.buffers);
      reverse(layout, packed, ws.x, ws.buffers, ws.sums, ws.gx);
      for (int r = 0; r < count; ++r)
        for (int d = 0; d < shape.coord_dim; ++d) grad_coords[(p + r) * shape.coord_dim + d] = ws.gx[d * kTile + r];
      if (++pending == kFlushTiles) {
        flush(layout, ws.sums, totals);
        pending = 0;
      }
    }
    flush(layout, ws.sums, totals);
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
