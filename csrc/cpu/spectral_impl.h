// The spectral order: the direct order's kernel values, but the sum over taps is a product of spectra. The spectrum of the
// values is built a few channels at a time, for as many frequencies as a vector has lanes, and consumed from cache by all
// images:
//
//     K^[(u, o), (c, v)](w) = sum_t K[(u, o), (c, v), t] exp(i w t),   Y^[(u, o)] = sum_{c, v} K^ F^[(c, v)]
//
// With n frequencies, C O Nu Nv n FLOPs times 6 a image (a complex product as three real ones, see lane_gemm.h) and times
// 2 T for the spectrum, once for all images that share it (see TapPairs). Backward: twice each. A plane's transforms are
// about 8 size^3 FLOPs.
#pragma once

#include "direct_impl.h"
#include "transform_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Spectral {
  using V = Native<T>;
  using Dft = Transforms<T>;
  using Values = Direct<T>;
  static constexpr int W = kWidth<T>;

  // Rows (u, o) of the kernel's spectrum built together, and columns (c, v): 64 x 16 entries of 3 vectors are 196 KB, so the
  // spectra of all images, which no cache but the last holds, are read once for 64 rows.
  static constexpr int64_t kRows = 64, kColumns = 16;
  static int64_t row_blocks(const ConvProblem<T>& p) { return (Values::rows(p) + kRows - 1) / kRows; }
  static int64_t most_rows(const ConvProblem<T>& p) { return Values::rows(p) < kRows ? Values::rows(p) : kRows; }
  struct Rows {
    int64_t first, count;
  };
  static Rows rows_of(const ConvProblem<T>& p, int64_t block) {
    RowBlocks blocks(Values::rows(p), kRows);
    return {blocks.start(int(block)), blocks.height(int(block))};
  }
  static int64_t group_channels(const ConvProblem<T>& p) {
    int64_t channels = (kColumns + p.Nv - 1) / p.Nv;
    return channels < p.C ? channels : p.C;
  }

  static void pack_pairs(const SpectralProblem<T>& q, T* cosine, T* sine, T* cosine_rows, T* sine_rows) {
    const Spectrum& s = q.spectrum;
    const TapPairs& pairs = q.pairs;
    int64_t half = Dft::half(s);
    auto wrapped = [](int64_t n, int64_t size) { return (n % size + size) % size; };
    for (int64_t chunk = 0; chunk < Dft::chunks(s); ++chunk)
      for (int64_t l = 0; l < W; ++l) {
        int64_t w = chunk * W + l, kx = w / half, ky = w - kx * half;
        bool real = w < Dft::frequencies(s);
        for (int64_t k = 0; k < pairs.sums; ++k) {
          int64_t y = wrapped(ky * pairs.y[k], s.size_y), x = wrapped(kx * pairs.x[k], s.size_x);
          T c = real ? T(s.cos_y[y] * s.cos_x[x] - s.sin_y[y] * s.sin_x[x]) : T(0);
          cosine[(chunk * pairs.sums + k) * W + l] = c;
          cosine_rows[(chunk * W + l) * pairs.sums + k] = c;
          if (k >= pairs.differences) continue;
          T n = real ? T(s.sin_y[y] * s.cos_x[x] + s.cos_y[y] * s.sin_x[x]) : T(0);
          sine[(chunk * pairs.differences + k) * W + l] = n;
          sine_rows[(chunk * W + l) * pairs.differences + k] = n;
        }
      }
  }

  // Kernel values of one channel for the spectrum: [block of (u, o)][v], each the sums of opposite taps (rows (u, o), depth
  // sums) and their differences behind them.
  static int64_t fold_size(const ConvProblem<T>& p) { return Values::values_size(p); }
  static void fold(const SpectralProblem<T>& q, int64_t s, int64_t c, T* scratch, T* to) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t stride = Values::unpacked_row(p);
    Values::unpacked_values(p, q.packs.direct, s, c, scratch);
    for (int64_t v = 0; v < p.Nv; ++v)
      for (int64_t k = 0; k < pairs.differences; ++k) {
        T* a = scratch + (v * p.grid.taps + pairs.first[k]) * stride;
        T* b = scratch + (v * p.grid.taps + pairs.second[k]) * stride;
        for (int64_t r = 0; r < Values::rows(p); ++r) {
          T sum = a[r] + b[r];
          b[r] = a[r] - b[r];
          a[r] = sum;
        }
      }
    for (int64_t n = 0; n < row_blocks(p); ++n)
      for (int64_t v = 0; v < p.Nv; ++v) {
        Rows rows = rows_of(p, n);
        const T* taps = scratch + v * p.grid.taps * stride + rows.first;
        to = Values::repack(taps, stride, rows.count, pairs.sums, pairs.first, to);
        to = Values::repack(taps, stride, rows.count, pairs.differences, pairs.second, to);
      }
  }

  static int64_t entries(const ConvProblem<T>& p, bool pixel_side) {
    return pixel_side ? Values::rows(p) : p.C * p.Nv;
  }
  static void into(const SpectralProblem<T>& q, bool pixel_side, bool left, const void* planes, int64_t begin,
                   int64_t end, Band band, T* workspace, int64_t chunk, T* to) {
    with_storage<T>(q.conv.storage, [&](auto storage) {
      using Store = decltype(storage);
      Dft::template into<Store>(q.spectrum, pixel_side ? q.pixel : q.window,
                                pixel_side ? q.packs.pixel_into : q.packs.window_into, left,
                                static_cast<const typename Store::Type*>(planes), begin, end,
                                entries(q.conv, pixel_side), band, workspace, chunk, to);
    });
  }
  static void back(const SpectralProblem<T>& q, bool pixel_side, const T* from, int64_t chunk, int64_t begin,
                   int64_t end, Band band, T* workspace, void* planes, bool native) {
    with_storage<T>(native ? kNative : q.conv.storage, [&](auto storage) {
      using Store = decltype(storage);
      Dft::template back<Store>(q.spectrum, pixel_side ? q.pixel : q.window,
                                pixel_side ? q.packs.pixel_back : q.packs.window_back, from, chunk, begin, end,
                                entries(q.conv, pixel_side), band, workspace,
                                static_cast<typename Store::Type*>(planes));
    });
  }

  // K^ [part][(u, o)][(c, v)] as left factors for `channels` channels from `first` and one block of rows.
  static void kernel(const SpectralProblem<T>& q, const T* values, int64_t chunk, Rows rows, int64_t first,
                     int64_t channels, T* to) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t columns = channels * p.Nv, K = Values::depth(p), part = rows.count * columns * W;
    const T* cosine = q.packs.cosine + chunk * pairs.sums * W;
    const T* sine = q.packs.sine + chunk * pairs.differences * W;
    for (int64_t c = 0; c < channels; ++c) {
      const T* from = values + (first + c) * fold_size(p) + rows.first * K;
      for (int64_t v = 0; v < p.Nv; ++v, from += rows.count * p.grid.taps) {
        T* entry = to + (c * p.Nv + v) * W;
        multiply_packed<T>({1, pairs.sums, from, 0, 0, cosine, 0, W, entry, columns * W, false}, rows.count, 1);
        multiply_packed<T>({1, pairs.differences, from + rows.count * pairs.sums, 0, 0, sine, 0, W, entry + part,
                            columns * W, false},
                           rows.count, 1);
      }
    }
    for (int64_t i = 0; i < part; i += W) store<V>(to + 2 * part + i, load<V>(to + i) + load<V>(to + part + i));
  }

  struct ForwardMemory {
    T *kernel, *y;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t images) {
      kernel = arena.take(kLaneParts * most_rows(p) * group_channels(p) * p.Nv * W);
      y = arena.take(kLaneParts * most_rows(p) * images * W);
    }
  };
  static int64_t forward_workspace(const SpectralProblem<T>& q, int64_t images) {
    Arena<T> arena(nullptr);
    ForwardMemory(arena, q.conv, images);
    return arena.used();
  }

  // One chunk and one block of rows: window spectra [image][part][(c, v)] (right factors) to pixel spectra
  // [image][part][(u, o)].
  static void forward(const SpectralProblem<T>& q, int64_t images, const T* values, int64_t chunk, int64_t block,
                      const T* window, T* workspace, T* pixel) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    ForwardMemory m(arena, p, images);
    int64_t planes = p.C * p.Nv, image = Dft::image_size(planes, kLaneParts), out = Dft::image_size(Values::rows(p), 2);
    int64_t group = group_channels(p);
    Rows rows = rows_of(p, block);
    int64_t part = rows.count * images * W;
    pixel += rows.first * W;
    for (int64_t first = 0; first < p.C; first += group) {
      int64_t channels = p.C - first < group ? p.C - first : group, columns = channels * p.Nv;
      kernel(q, values, chunk, rows, first, channels, m.kernel);
      multiply_complex_lanes<T>({1, columns, m.kernel, columns * W, 0, W, window + first * p.Nv * W, image, 0, W, m.y,
                                 images * W, W, first > 0},
                                {rows.count * columns * W, planes * W, part}, rows.count, images, false);
    }
    for (int64_t r = 0; r < rows.count; ++r)
      for (int64_t b = 0; b < images; ++b) {
        V real, imaginary;
        complex_of(m.y + (r * images + b) * W, part, false, real, imaginary);
        T* to = pixel + b * out + r * W;
        store<V>(to, real);
        store<V>(to + Values::rows(p) * W, imaginary);
      }
  }

  struct BackwardMemory {
    T *kernel, *products, *parts, *transposed, *grad_window, *folded;
    typename Values::ContractMemory contract;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t images)
        : kernel(arena.take(kLaneParts * most_rows(p) * group_channels(p) * p.Nv * W)),
          products(arena.take(kLaneParts * group_channels(p) * p.Nv * most_rows(p) * W)),
          parts(arena.take(2 * round_up<T>(most_rows(p)) * W)),
          transposed(arena.take(2 * round_up<T>(most_rows(p)) * W)),
          grad_window(arena.take(kLaneParts * group_channels(p) * p.Nv * images * W)),
          folded(arena.take(group_channels(p) * Values::depth(p) * Values::straight_row(p))),
          contract(arena, p) {}
  };
  static int64_t backward_workspace(const SpectralProblem<T>& q, int64_t images) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, q.conv, images);
    return arena.used();
  }

  // Channels [c_begin, c_end) in the chunks of a band, from pixel spectra [image][part][(u, o)] (right factors, weighted) and window
  // spectra (left factors): the window's gradient takes the place of its spectra; the sums of features and head are added to.
  static void backward(const SpectralProblem<T>& q, ConvNeeds needs, int64_t s, int64_t images, const T* values,
                       Band band, int64_t c_begin, int64_t c_end, T* window, const T* pixel, T* workspace, ConvSums sums) {
    const ConvProblem<T>& p = q.conv;
    Arena<T> arena(workspace);
    BackwardMemory m(arena, p, images);
    int64_t in_part = p.C * p.Nv * W, out_part = Values::rows(p) * W;
    int64_t image = Dft::image_size(p.C * p.Nv, kLaneParts), out = Dft::image_size(Values::rows(p), kLaneParts);
    int64_t group = group_channels(p), folded = Values::depth(p) * Values::straight_row(p);
    for (int64_t first = c_begin; first < c_end; first += group) {
      int64_t channels = c_end - first < group ? c_end - first : group, columns = channels * p.Nv;
      if (needs.kernel()) __builtin_memset(m.folded, 0, sizeof(T) * channels * folded);
      for (int64_t chunk = band.begin; chunk < band.end; ++chunk) {
        T* planes = window + (chunk - band.begin) * images * image + first * p.Nv * W;
        for (int64_t n = 0; n < row_blocks(p); ++n) {
          Rows rows = rows_of(p, n);
          const T* grad = pixel + (chunk - band.begin) * images * out + rows.first * W;
          if (needs.window) {
            kernel(q, values, chunk, rows, first, channels, m.kernel);
            multiply_complex_lanes<T>({1, rows.count, m.kernel, W, 0, columns * W, grad, out, 0, W, m.grad_window,
                                       images * W, W, n > 0},
                                      {rows.count * columns * W, out_part, columns * images * W}, columns, images, true);
          }
          if (needs.kernel()) {
            multiply_complex_lanes<T>({1, images, planes, W, 0, image, grad, W, 0, out, m.products, rows.count * W, W,
                                       false},
                                      {in_part, out_part, columns * rows.count * W}, columns, rows.count, true);
            fold_gradient(q, chunk, rows, columns, m);
          }
        }
        if (needs.window)
          for (int64_t k = 0; k < columns; ++k)
            for (int64_t b = 0; b < images; ++b) {
              V real, imaginary;
              complex_of(m.grad_window + (k * images + b) * W, columns * images * W, true, real, imaginary);
              T* to = planes + b * image + k * W;
              store<V>(to, real);
              store<V>(to + in_part, -imaginary);
            }
      }
      for (int64_t c = 0; needs.kernel() && c < channels; ++c) {
        unfold(q, m.folded + c * folded, m.contract.straight);
        Values::contract_straight(p, s, first + c, needs, m.contract, sums);
      }
    }
  }

  // Adds what one chunk gives to the gradient of the folded values, [(c, v)][sums | differences][(u, o)]; `products` are the
  // complex conjugates of the gradient of K^, [(c, v)][(u, o)].
  static void fold_gradient(const SpectralProblem<T>& q, int64_t chunk, Rows rows, int64_t columns,
                            const BackwardMemory& m) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t lanes = round_up<T>(rows.count), stride = Values::straight_row(p);
    T *real_parts = m.parts, *imaginary_parts = m.parts + round_up<T>(most_rows(p)) * W;
    T* const imaginary_rows = m.transposed + lanes * W;
    for (int64_t k = 0; k < columns; ++k) {
      for (int64_t r = 0; r < rows.count; ++r) {
        V real, imaginary;
        complex_of(m.products + (k * rows.count + r) * W, columns * rows.count * W, true, real, imaginary);
        store<V>(real_parts + r * W, real);
        store<V>(imaginary_parts + r * W, -imaginary);
      }
      // Lanes past the last row are added to sums of the next block.
      for (int64_t r = rows.count; r < lanes; ++r) {
        store<V>(real_parts + r * W, V{});
        store<V>(imaginary_parts + r * W, V{});
      }
      transpose(real_parts, W, m.transposed, lanes, lanes, W);
      transpose(imaginary_parts, W, imaginary_rows, lanes, lanes, W);
      T* to = m.folded + k * p.grid.taps * stride + rows.first;
      multiply_columns<T>({1, W, q.packs.cosine_rows + chunk * W * pairs.sums, 0, pairs.sums, m.transposed, 0, lanes, to,
                           stride, true},
                          pairs.sums, int(lanes / W));
      multiply_columns<T>({1, W, q.packs.sine_rows + chunk * W * pairs.differences, 0, pairs.differences, imaginary_rows,
                           0, lanes, to + pairs.sums * stride, stride, true},
                          pairs.differences, int(lanes / W));
    }
  }

  // Gradient of the kernel values [(v, t)][(u, o)] of one channel from that of the folded ones.
  static void unfold(const SpectralProblem<T>& q, const T* folded, T* to) {
    const ConvProblem<T>& p = q.conv;
    const TapPairs& pairs = q.pairs;
    int64_t stride = Values::straight_row(p), taps = p.grid.taps;
    for (int64_t v = 0; v < p.Nv; ++v, folded += taps * stride, to += taps * stride)
      for (int64_t k = 0; k < pairs.sums; ++k) {
        const T *sum = folded + k * stride, *difference = folded + (pairs.sums + k) * stride;
        T *first = to + pairs.first[k] * stride, *second = to + pairs.second[k] * stride;
        for (int64_t r = 0; r < Values::rows(p); ++r) {
          if (k < pairs.differences) second[r] = sum[r] - difference[r];
          first[r] = k < pairs.differences ? sum[r] + difference[r] : sum[r];
        }
      }
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
