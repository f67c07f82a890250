// The spectral order: the convolution is a product in the frequency domain, and the kernel's spectrum is built there, a few
// channels at a time, from the features' spectrum: K^[(u, o), (c, v)] = sum_h W[o, c, h] phi^[u, v, h] for W frequencies at
// once (W the vector width), consumed from cache by all images.
//
// With n frequencies, per image 6 n C O Nu Nv FLOPs for the complex product (three real ones, see lane_gemm.h) beside
// 4 n C O H Nu Nv for the spectrum of the kernel once for all images. Backward twice and three times that. Transforms:
// about 8 (size)^3 FLOPs a plane.
#pragma once

#include "transform_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Spectral {
  using V = Native<T>;
  using Dft = Transforms<T>;
  static constexpr int W = kWidth<T>;
  static constexpr int64_t kEntry = int64_t(kLaneParts) * W;

  // Rows o of the kernel's spectrum built together, and channels: 64 x (2 x 8) entries of 192 bytes are 196 KB.
  static constexpr int64_t kRows = 64;
  static int64_t row_blocks(const ConvProblem<T>& p) { return (p.O + kRows - 1) / kRows; }
  static int64_t rows_in(const ConvProblem<T>& p, int64_t block) {
    int64_t rest = p.O - block * kRows;
    return rest < kRows ? rest : kRows;
  }
  static int64_t group_channels(const ConvProblem<T>& p) {
    int64_t channels = (16 + p.Nv - 1) / p.Nv;
    return channels < p.C ? channels : p.C;
  }
  static int64_t most_rows(const ConvProblem<T>& p) { return p.O < kRows ? p.O : kRows; }

  static void pack_taps(const SpectralProblem<T>& q, T* taps, T* taps_back) {
    const Spectrum& s = q.spectrum;
    int64_t count = q.conv.grid.taps, half = Dft::half(s), chunks = Dft::chunks(s);
    auto value = [&](int64_t t, int64_t w, bool imaginary) {
      if (w >= Dft::frequencies(s)) return T(0);
      int64_t kx = w / half, ky = w - kx * half;
      int64_t y = ky * q.tap_y[t] % s.size_y, x = kx * q.tap_x[t] % s.size_x;
      return T(imaginary ? s.sin_y[y] * s.cos_x[x] + s.cos_y[y] * s.sin_x[x]
                         : s.cos_y[y] * s.cos_x[x] - s.sin_y[y] * s.sin_x[x]);
    };
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int64_t t = 0; t < count; ++t)
        for (int64_t l = 0; l < 2 * W; ++l)
          taps[(chunk * count + t) * 2 * W + l] = value(t, chunk * W + l % W, l >= W);
    if (taps_back)
      pack_rows(count, chunks * 2 * W, taps_back,
                [&](int64_t t, int64_t k) { return value(t, k / (2 * W) * W + k % W, k % (2 * W) >= W); });
  }

  // Head of channel c: [block][c], rows o, depth h.
  static void pack_head(const SpectralProblem<T>& q, int64_t c, T* to) {
    const ConvProblem<T>& p = q.conv;
    for (int64_t n = 0; n < row_blocks(p); ++n)
      pack_rows(rows_in(p, n), p.H, to + (n * kRows * p.C + c * rows_in(p, n)) * p.H, [&](int64_t o, int64_t h) {
        return p.weight[(n * kRows + o) * p.weight_o + c * p.weight_c + h];
      });
  }

  static void into(const SpectralProblem<T>& q, bool pixel_side, bool left, const void* planes, int64_t begin,
                   int64_t end, T* workspace, int64_t chunk, T* to) {
    with_storage<T>(q.conv.storage, [&](auto storage) {
      using Store = decltype(storage);
      Dft::template into<Store>(q.spectrum, pixel_side ? q.pixel : q.window,
                                pixel_side ? q.packs.pixel_into : q.packs.window_into, left,
                                static_cast<const typename Store::Type*>(planes), begin, end, workspace, chunk, to);
    });
  }
  static void back(const SpectralProblem<T>& q, bool pixel_side, int parts, const T* from, int64_t chunk,
                   int64_t begin, int64_t end, T* workspace, void* planes, bool native) {
    with_storage<T>(native ? kNative : q.conv.storage, [&](auto storage) {
      using Store = decltype(storage);
      Dft::template back<Store>(q.spectrum, pixel_side ? q.pixel : q.window,
                                pixel_side ? q.packs.pixel_back : q.packs.window_back, parts, from, chunk, begin, end,
                                workspace, static_cast<typename Store::Type*>(planes));
    });
  }

  // phi^ [v][h][real | imaginary] of one u in one chunk.
  static void features(const SpectralProblem<T>& q, int64_t chunk, int64_t u, T* to) {
    const ConvProblem<T>& p = q.conv;
    const T* taps = q.packs.taps + chunk * p.grid.taps * 2 * W;
    for (int64_t v = 0; v < p.Nv; ++v)
      multiply_columns<T>({1, p.grid.taps, p.phi + u * p.phi_u + v * p.phi_v, 0, p.H, taps, 0, 2 * W,
                           to + v * p.H * 2 * W, 2 * W, false},
                          p.H, 2);
  }

  // K^ [o][(c, v)] as left factors for `channels` channels from `first` and one block of rows.
  static void kernel(const SpectralProblem<T>& q, int64_t block, int64_t first, int64_t channels, const T* phi, T* to) {
    const ConvProblem<T>& p = q.conv;
    int64_t rows = rows_in(p, block), columns = channels * p.Nv;
    for (int64_t c = 0; c < channels; ++c) {
      const T* head = q.packs.head + (block * kRows * p.C + (first + c) * rows) * p.H;
      for (int64_t v = 0; v < p.Nv; ++v)
        multiply_packed<T>({1, p.H, head, 0, 0, phi + v * p.H * 2 * W, 0, 2 * W, to + (c * p.Nv + v) * kEntry,
                            columns * kEntry, false},
                           rows, 2);
    }
    for (int64_t i = 0; i < rows * columns; ++i) {
      T* entry = to + i * kEntry;
      store<V>(entry + kSum * W, load<V>(entry) + load<V>(entry + W));
    }
  }

  struct ForwardMemory {
    T *phi, *kernel, *y;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t images) {
      phi = arena.take(p.Nv * p.H * 2 * W);
      kernel = arena.take(most_rows(p) * group_channels(p) * p.Nv * kEntry);
      y = arena.take(most_rows(p) * images * kEntry);
    }
  };
  static int64_t forward_workspace(const SpectralProblem<T>& q, int64_t images) {
    Arena<T> arena(nullptr);
    ForwardMemory(arena, q.conv, images);
    return arena.used();
  }

  // One chunk and one u: window spectra [image][(c, v)] (right factors) to pixel spectra [image][(o, u)][2].
  static void forward(const SpectralProblem<T>& q, int64_t images, int64_t chunk, int64_t u, const T* window,
                      T* workspace, T* pixel) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    ForwardMemory m(arena, p, images);
    int64_t image = Dft::image_size(p.C * p.Nv, kLaneParts), out = Dft::image_size(p.O * p.Nu, 2);
    int64_t group = group_channels(p);
    window += chunk * images * image;
    pixel += chunk * images * out;
    features(q, chunk, u, m.phi);
    for (int64_t n = 0; n < row_blocks(p); ++n) {
      int64_t rows = rows_in(p, n);
      for (int64_t first = 0; first < p.C; first += group) {
        int64_t channels = p.C - first < group ? p.C - first : group, columns = channels * p.Nv;
        kernel(q, n, first, channels, m.phi, m.kernel);
        multiply_complex_lanes<T>({1, columns, m.kernel, columns * kEntry, 0, kEntry, window + first * p.Nv * kEntry,
                                   image, 0, kEntry, m.y, images * kEntry, kEntry, first > 0},
                                  rows, images, false);
      }
      for (int64_t o = 0; o < rows; ++o)
        for (int64_t b = 0; b < images; ++b) {
          V real, imaginary;
          complex_of(m.y + (o * images + b) * kEntry, false, real, imaginary);
          T* to = pixel + b * out + ((n * kRows + o) * p.Nu + u) * 2 * W;
          store<V>(to, real);
          store<V>(to + W, imaginary);
        }
    }
  }

  struct BackwardMemory {
    T *phi, *kernel, *grad_phi, *grad_kernel, *products, *grad_window, *head;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t images) {
      int64_t columns = group_channels(p) * p.Nv, rows = most_rows(p);
      phi = arena.take(p.Nu * p.Nv * p.H * 2 * W);
      grad_phi = arena.take(p.Nu * p.Nv * p.H * 2 * W);
      kernel = arena.take(rows * columns * kEntry);
      products = arena.take(columns * rows * kEntry);
      grad_kernel = arena.take(columns * rows * 2 * W);
      grad_window = arena.take(columns * images * kEntry);
      head = arena.take(group_channels(p) * p.H * round_up<T>(p.O) * W);
    }
  };
  static int64_t backward_workspace(const SpectralProblem<T>& q, int64_t images) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, q.conv, images);
    return arena.used();
  }

  // One chunk, from pixel spectra [image][(o, u)] (right factors, weighted) and window spectra (left factors): the
  // window's gradient takes the place of its spectra, that of phi^ goes to phi [u][v][h][chunk][2], the head's is added to
  // head [c][h][o rounded up].
  static void backward(const SpectralProblem<T>& q, ConvNeeds needs, int64_t images, int64_t chunk, T* window,
                       const T* pixel, T* workspace, T* phi, double* head) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    BackwardMemory m(arena, p, images);
    int64_t image = Dft::image_size(p.C * p.Nv, kLaneParts), out = Dft::image_size(p.O * p.Nu, kLaneParts);
    int64_t group = group_channels(p), feature = p.Nv * p.H * 2 * W;
    window += chunk * images * image;
    pixel += chunk * images * out;
    for (int64_t u = 0; u < p.Nu && (needs.window || needs.weight); ++u) features(q, chunk, u, m.phi + u * feature);
    if (needs.phi) __builtin_memset(m.grad_phi, 0, sizeof(T) * p.Nu * feature);
    for (int64_t first = 0; first < p.C; first += group) {
      int64_t channels = p.C - first < group ? p.C - first : group, columns = channels * p.Nv;
      if (needs.weight) __builtin_memset(m.head, 0, sizeof(T) * channels * p.H * round_up<T>(p.O) * W);
      for (int64_t u = 0; u < p.Nu; ++u)
        for (int64_t n = 0; n < row_blocks(p); ++n) {
          int64_t rows = rows_in(p, n);
          const T* grad = pixel + (n * kRows * p.Nu + u) * kEntry;
          if (needs.window) {
            kernel(q, n, first, channels, m.phi + u * feature, m.kernel);
            multiply_complex_lanes<T>({1, rows, m.kernel, kEntry, 0, columns * kEntry, grad, out, 0, p.Nu * kEntry,
                                       m.grad_window, images * kEntry, kEntry, u + n > 0},
                                      columns, images, true);
          }
          if (needs.kernel()) {
            multiply_complex_lanes<T>({1, images, window + first * p.Nv * kEntry, kEntry, 0, image, grad,
                                       p.Nu * kEntry, 0, out, m.products, rows * kEntry, kEntry, false},
                                      columns, rows, true);
            kernel_gradient(p, needs, n, u, first, channels, m);
          }
        }
      if (needs.weight) sum_head(p, first, channels, m.head, head);
      if (needs.window)
        for (int64_t k = 0; k < columns; ++k)
          for (int64_t b = 0; b < images; ++b) {
            V real, imaginary;
            complex_of(m.grad_window + (k * images + b) * kEntry, true, real, imaginary);
            T* to = window + b * image + (first * p.Nv + k) * kEntry;
            store<V>(to, real);
            store<V>(to + W, -imaginary);
          }
    }
    if (needs.phi) {
      int64_t chunks = Dft::chunks(q.spectrum);
      for (int64_t i = 0; i < p.Nu * p.Nv * p.H; ++i)
        for (int part = 0; part < 2; ++part)
          store<V>(phi + (i * chunks + chunk) * 2 * W + part * W, load<V>(m.grad_phi + i * 2 * W + part * W));
    }
  }

  // From the gradient of K^ (c, v; o), conjugated, to the sums of phi^ of this u and of the head's lanes.
  static void kernel_gradient(const ConvProblem<T>& p, ConvNeeds needs, int64_t n, int64_t u, int64_t first,
                              int64_t channels, const BackwardMemory& m) {
    int64_t rows = rows_in(p, n), feature = p.Nv * p.H * 2 * W;
    for (int64_t i = 0; i < channels * p.Nv * rows; ++i) {
      V real, imaginary;
      complex_of(m.products + i * kEntry, true, real, imaginary);
      store<V>(m.grad_kernel + i * 2 * W, real);
      store<V>(m.grad_kernel + i * 2 * W + W, -imaginary);
    }
    if (needs.phi)
      for (int64_t v = 0; v < p.Nv; ++v)
        multiply_columns<T>({channels, rows, p.weight + n * kRows * p.weight_o + first * p.weight_c, p.weight_c,
                             p.weight_o, m.grad_kernel + v * rows * 2 * W, p.Nv * rows * 2 * W, 2 * W,
                             m.grad_phi + u * feature + v * p.H * 2 * W, 2 * W, true},
                            p.H, 2);
    if (needs.weight)
      for (int64_t c = 0; c < channels; ++c)
        for (int part = 0; part < 2; ++part)
          multiply_lanes<T>({1, p.Nv, m.phi + u * feature + part * W, 2 * W, 0, p.H * 2 * W,
                             m.grad_kernel + c * p.Nv * rows * 2 * W + part * W, 2 * W, 0, rows * 2 * W,
                             m.head + (c * p.H * round_up<T>(p.O) + n * kRows) * W, round_up<T>(p.O) * W, W, true},
                            p.H, rows);
  }

  // Adds up the lanes of [c][h][o][W], W values of o at a time.
  static void sum_head(const ConvProblem<T>& p, int64_t first, int64_t channels, const T* from, double* to) {
    int64_t lanes = round_up<T>(p.O);
    T tile[W * W];
    for (int64_t i = 0; i < channels * p.H; ++i)
      for (int64_t o = 0; o < lanes; o += W) {
        transpose_tile<T>(from + (i * lanes + o) * W, W, tile, W);
        V sum = load<V>(tile);
        for (int l = 1; l < W; ++l) sum += load<V>(tile + l * W);
        store<V>(tile, sum);
        for (int l = 0; l < W; ++l) to[(first * p.H + i) * lanes + o + l] += tile[l];
      }
  }

  struct FeaturesMemory {
    T *transposed, *sums;
    FeaturesMemory(Arena<T>& arena, const SpectralProblem<T>& q) {
      int64_t lanes = round_up<T>(q.conv.H);
      transposed = arena.take(Dft::chunks(q.spectrum) * 2 * W * lanes);
      sums = arena.take(q.conv.grid.taps * lanes);
    }
  };
  static int64_t features_workspace(const SpectralProblem<T>& q) {
    Arena<T> arena(nullptr);
    FeaturesMemory(arena, q);
    return arena.used();
  }
  // Gradient of phi[u, v] at the taps, added to sums [h][(v, t) rounded up], from that of its spectrum [h][chunk][2]; `phi` has
  // H rounded up rows.
  static void features_back(const SpectralProblem<T>& q, int64_t u, int64_t v, const T* phi, T* workspace,
                            double* sums) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    FeaturesMemory m(arena, q);
    int64_t depth = Dft::chunks(q.spectrum) * 2 * W, lanes = round_up<T>(p.H), taps = p.grid.taps;
    int64_t row = round_up<T>(p.Nv * taps);
    transpose(phi + (u * p.Nv + v) * p.H * depth, depth, m.transposed, lanes, lanes, depth);
    multiply_packed<T>({1, depth, q.packs.taps_back, 0, 0, m.transposed, 0, lanes, m.sums, lanes, false}, taps,
                       int(lanes / W));
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t h = 0; h < p.H; ++h) sums[(u * p.H + h) * row + v * taps + t] += m.sums[t * lanes + h];
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
