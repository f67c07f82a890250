// The aggregate order in the frequency domain: M^[u, c, h] = sum_v phi^[u, v, h] F^[c, v] for as many frequencies as a vector
// has lanes, then Y^[u, o] = sum_{c, h} W[o, c, h] M^. The head is real and the same for all frequencies, so real and
// imaginary parts are one panel to it. No kernel spectrum is built: it is the order for few images or features of each.
//
// With n frequencies, per image 6 n C H Nu Nv + 4 n O Nu C H FLOPs beside 2 T H Nu Nv n for the spectrum of the features.
// Backward three times the first and twice the second.
#pragma once

#include "aggregate_impl.h"
#include "spectral_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct SpectralAggregate {
  using V = Native<T>;
  using Dft = Transforms<T>;
  using Spatial = Aggregate<NumberArithmetic<T, Stored<T>>>;
  static constexpr int W = kWidth<T>;

  // Features of one set with opposite taps as sums and differences: [u][v][sums | differences][h].
  static void fold(const SpectralProblem<T>& q, int64_t s, T* to) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    for (int64_t u = 0; u < p.Nu; ++u)
      for (int64_t v = 0; v < p.Nv; ++v, to += p.grid.taps * p.H) {
        const T* phi = p.phi + s * p.phi_s + u * p.phi_u + v * p.phi_v;
        for (int64_t k = 0; k < pairs.sums; ++k)
          for (int64_t h = 0; h < p.H; ++h) {
            T a = phi[pairs.first[k] * p.H + h], b = phi[pairs.second[k] * p.H + h];
            to[k * p.H + h] = k < pairs.differences ? a + b : a;
            if (k < pairs.differences) to[(pairs.sums + k) * p.H + h] = a - b;
          }
      }
  }

  static int64_t feature_part(const ConvProblem<T>& p) { return p.Nv * p.H * W; }

  // phi^ of one u in one chunk as left factors [part][v][h], and where `right` is given as right factors.
  static void features(const SpectralProblem<T>& q, int64_t s, int64_t u, int64_t chunk, T* left, T* right) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    const T* folded = q.packs.features + (s * p.Nu + u) * p.Nv * p.grid.taps * p.H;
    const T* cosine = q.packs.cosine + chunk * pairs.sums * W;
    const T* sine = q.packs.sine + chunk * pairs.differences * W;
    int64_t part = feature_part(p);
    for (int64_t v = 0; v < p.Nv; ++v, folded += p.grid.taps * p.H) {
      T* to = left + v * p.H * W;
      multiply_columns<T>({1, pairs.sums, folded, 0, p.H, cosine, 0, W, to, W, false}, p.H, 1);
      multiply_columns<T>({1, pairs.differences, folded + pairs.sums * p.H, 0, p.H, sine, 0, W, to + part, W, false}, p.H,
                          1);
    }
    for (int64_t i = 0; i < part; i += W) {
      V real = load<V>(left + i), imaginary = load<V>(left + part + i);
      store<V>(left + 2 * part + i, real + imaginary);
      if (!right) continue;
      store<V>(right + i, real);
      store<V>(right + part + i, imaginary - real);
      store<V>(right + 2 * part + i, real + imaginary);
    }
  }

  // M^ [(c, h)][real | imaginary] of `channels` channels from their spectra (right factors).
  static void moments(const ConvProblem<T>& p, const T* phi, const T* window, int64_t channels, T* products, T* M) {
    int64_t rows = channels * p.H;
    multiply_complex_lanes<T>({1, p.Nv, phi, W, 0, p.H * W, window, p.Nv * W, 0, W, products, W, p.H * W, false},
                              {feature_part(p), p.C * p.Nv * W, rows * W}, p.H, channels, false);
    for (int64_t i = 0; i < rows; ++i) {
      V real, imaginary;
      complex_of(products + i * W, rows * W, false, real, imaginary);
      store<V>(M + i * 2 * W, real);
      store<V>(M + i * 2 * W + W, imaginary);
    }
  }

  struct ForwardMemory {
    T *phi, *products, *M, *y;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p) {
      int64_t rows = Spatial::chunk_channels(p, false) * p.H;
      phi = arena.take(kLaneParts * feature_part(p));
      products = arena.take(kLaneParts * rows * W);
      M = arena.take(rows * 2 * W);
      y = arena.take(p.O * 2 * W);
    }
  };
  static int64_t forward_workspace(const SpectralProblem<T>& q) {
    Arena<T> arena(nullptr);
    ForwardMemory(arena, q.conv);
    return arena.used();
  }

  // One chunk and one u of images with features `first_set` and up: window spectra [image][part][(c, v)] (right factors) to
  // pixel spectra [image][part][(u, o)].
  static void forward(const SpectralProblem<T>& q, int64_t first_set, int64_t images, int64_t chunk, int64_t u,
                      const T* window, T* workspace, T* pixel) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    ForwardMemory m(arena, p);
    int64_t image = Dft::image_size(p.C * p.Nv, kLaneParts), out = Dft::image_size(p.Nu * p.O, 2);
    int64_t most = Spatial::chunk_channels(p, false);
    window += chunk * images * image;
    pixel += chunk * images * out + u * p.O * W;
    for (int64_t b = 0; b < images; ++b) {
      if (b == 0 || p.S > 1) features(q, p.S > 1 ? first_set + b : 0, u, chunk, m.phi, nullptr);
      for (int64_t first = 0; first < p.C; first += most) {
        int64_t channels = p.C - first < most ? p.C - first : most;
        moments(p, m.phi, window + b * image + first * p.Nv * W, channels, m.products, m.M);
        multiply_packed<T>({1, channels * p.H, q.packs.aggregate.head + first * p.H * p.O, 0, 0, m.M, 0, 2 * W, m.y, 2 * W,
                            first > 0},
                           p.O, kPanelVectors);
      }
      for (int64_t o = 0; o < p.O; ++o) {
        T* to = pixel + b * out + o * W;
        store<V>(to, load<V>(m.y + o * 2 * W));
        store<V>(to + p.Nu * p.O * W, load<V>(m.y + o * 2 * W + W));
      }
    }
  }

  static int64_t tap_lanes(const ConvProblem<T>& p) { return round_up<T>(p.H); }

  struct BackwardMemory {
    T *left, *right, *products, *M, *gM, *g, *gt, *grad_phi, *grad_window, *rows, *transposed, *folded, *head;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p) {
      int64_t chunk_rows = Spatial::chunk_channels(p, true) * p.H, lanes = Spatial::head_lanes(p);
      int64_t blocks = Spatial::head_blocks(p);
      left = arena.take(kLaneParts * feature_part(p));
      right = arena.take(kLaneParts * feature_part(p));
      products = arena.take(kLaneParts * chunk_rows * W);
      M = arena.take(chunk_rows * 2 * W);
      gM = arena.take(chunk_rows * kLaneParts * W);
      g = arena.take(lanes * 2 * W);
      gt = arena.take(blocks * kPanel<T> * kPanel<T>);
      grad_phi = arena.take(kLaneParts * feature_part(p));
      grad_window = arena.take(kLaneParts * p.C * p.Nv * W);
      rows = arena.take(2 * tap_lanes(p) * W);
      transposed = arena.take(2 * W * tap_lanes(p));
      folded = arena.take(p.Nu * p.Nv * p.grid.taps * tap_lanes(p));
      head = arena.take(blocks * p.C * p.H * kPanel<T>);
    }
  };
  static int64_t backward_workspace(const SpectralProblem<T>& q) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, q.conv);
    return arena.used();
  }

  // Chunks [begin, end) of one image (with features s) from pixel spectra [part][(u, o)] (left factors, weighted) and window
  // spectra [part][(c, v)] (right factors), chunk_distance and pixel_distance numbers from chunk to chunk: the window's
  // gradient takes the place of its spectra; the sums of features and head are added to.
  static void backward(const SpectralProblem<T>& q, ConvNeeds needs, int64_t s, int64_t begin, int64_t end, T* window,
                       int64_t chunk_distance, const T* pixel, int64_t pixel_distance, T* workspace, ConvSums sums) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    BackwardMemory m(arena, p);
    int64_t folded = p.Nu * p.Nv * p.grid.taps * tap_lanes(p), most = Spatial::chunk_channels(p, true);
    if (needs.phi) __builtin_memset(m.folded, 0, sizeof(T) * folded);
    if (needs.weight) __builtin_memset(m.head, 0, sizeof(T) * Spatial::head_blocks(p) * p.C * p.H * kPanel<T>);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      T* planes = window + chunk * chunk_distance;
      for (int64_t u = 0; u < p.Nu; ++u) {
        features(q, s, u, chunk, m.left, m.right);
        load_gradient(p, pixel + chunk * pixel_distance + u * p.O * W, needs.weight, m);
        for (int64_t first = 0; first < p.C; first += most)
          channels_backward(q, needs, u, first, p.C - first < most ? p.C - first : most, planes, m);
        if (needs.phi) fold_gradient(q, chunk, u, m);
      }
      for (int64_t k = 0; needs.window && k < p.C * p.Nv; ++k) {
        V real, imaginary;
        complex_of(m.grad_window + k * W, p.C * p.Nv * W, true, real, imaginary);
        store<V>(planes + k * W, real);
        store<V>(planes + (p.C * p.Nv + k) * W, imaginary);
      }
    }
    if (needs.phi) unfold(q, m.folded, sums.phi);
    if (needs.weight) {
      ConvTask all{};
      all.c_end = p.C;
      Spatial::flush_head(p, all, m.head, sums.head);
    }
  }

  // The panel [o][real | imaginary] of one u, and its transpose.
  static void load_gradient(const ConvProblem<T>& p, const T* pixel, bool transposed, const BackwardMemory& m) {
    for (int64_t o = 0; o < p.O; ++o) {
      store<V>(m.g + o * 2 * W, load<V>(pixel + o * W));
      store<V>(m.g + o * 2 * W + W, load<V>(pixel + (p.Nu * p.O + o) * W));
    }
    for (int64_t o = 0; transposed && o < Spatial::head_lanes(p); o += W)
      transpose(m.g + o * 2 * W, kPanel<T>, m.gt + o / kPanel<T> * kPanel<T> * kPanel<T> + o % kPanel<T>, kPanel<T>, W,
                kPanel<T>);
  }

  static void channels_backward(const SpectralProblem<T>& q, ConvNeeds needs, int64_t u, int64_t first,
                                int64_t channels, const T* planes, const BackwardMemory& m) {
    const ConvProblem<T>& p = q.conv;
    int64_t rows = channels * p.H, part = feature_part(p), planes_part = p.C * p.Nv * W, entry = kLaneParts * W;
    const T* window = planes + first * p.Nv * W;
    if (needs.weight) {
      moments(p, m.left, window, channels, m.products, m.M);
      for (int64_t n = 0; n < Spatial::head_blocks(p); ++n) {
        int64_t rest = (Spatial::head_lanes(p) - n * kPanel<T>) / W;
        multiply_panel_rows<T>({1, kPanel<T>, m.M, 0, 0, m.gt + n * kPanel<T> * kPanel<T>, 0, kPanel<T>,
                                m.head + (n * p.C + first) * p.H * kPanel<T>, kPanel<T>, true},
                               rows, int(rest < kPanelVectors ? rest : kPanelVectors));
      }
    }
    if (!needs.phi && !needs.window) return;
    multiply_packed<T>({1, p.O, q.packs.aggregate.head_adjoint + first * p.H * p.O, 0, 0, m.g, 0, 2 * W, m.gM, entry,
                        false},
                       rows, kPanelVectors);
    for (int64_t i = 0; i < rows; ++i)
      store<V>(m.gM + i * entry + kSum * W, load<V>(m.gM + i * entry) + load<V>(m.gM + i * entry + W));
    if (needs.phi)
      multiply_complex_lanes<T>({1, channels, m.gM, entry, 0, p.H * entry, window, W, 0, p.Nv * W, m.grad_phi, W, p.H * W,
                                 first > 0},
                                {W, planes_part, part}, p.H, p.Nv, true);
    if (needs.window)
      multiply_complex_lanes<T>({1, p.H, m.gM, p.H * entry, 0, entry, m.right, p.H * W, 0, W,
                                 m.grad_window + first * p.Nv * W, p.Nv * W, W, u > 0},
                                {W, part, planes_part}, channels, p.Nv, true);
  }

  // Adds what one chunk gives to the gradient of the folded features of one u, [v][sums | differences][h].
  static void fold_gradient(const SpectralProblem<T>& q, int64_t chunk, int64_t u, const BackwardMemory& m) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t lanes = tap_lanes(p);
    for (int64_t v = 0; v < p.Nv; ++v) {
      for (int64_t h = 0; h < p.H; ++h) {
        V real, imaginary;
        complex_of(m.grad_phi + (v * p.H + h) * W, feature_part(p), true, real, imaginary);
        store<V>(m.rows + h * W, real);
        store<V>(m.rows + (lanes + h) * W, imaginary);
      }
      transpose(m.rows, W, m.transposed, lanes, lanes, W);
      transpose(m.rows + lanes * W, W, m.transposed + W * lanes, lanes, lanes, W);
      T* to = m.folded + (u * p.Nv + v) * p.grid.taps * lanes;
      multiply_columns<T>({1, W, q.packs.cosine_rows + chunk * W * pairs.sums, 0, pairs.sums, m.transposed, 0, lanes, to,
                           lanes, true},
                          pairs.sums, int(lanes / W));
      multiply_columns<T>({1, W, q.packs.sine_rows + chunk * W * pairs.differences, 0, pairs.differences,
                           m.transposed + W * lanes, 0, lanes, to + pairs.sums * lanes, lanes, true},
                          pairs.differences, int(lanes / W));
    }
  }

  // Adds the gradient of the folded features to sums [u][h][(v, t) rounded up].
  static void unfold(const SpectralProblem<T>& q, const T* folded, double* sums) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t lanes = tap_lanes(p), row = Spatial::phi_lanes(p), taps = p.grid.taps;
    for (int64_t u = 0; u < p.Nu; ++u)
      for (int64_t v = 0; v < p.Nv; ++v, folded += taps * lanes)
        for (int64_t h = 0; h < p.H; ++h) {
          double* to = sums + (u * p.H + h) * row + v * taps;
          for (int64_t k = 0; k < pairs.sums; ++k) {
            double sum = folded[k * lanes + h];
            double difference = k < pairs.differences ? folded[(pairs.sums + k) * lanes + h] : 0;
            to[pairs.first[k]] += sum + difference;
            if (k < pairs.differences) to[pairs.second[k]] += sum - difference;
          }
        }
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
