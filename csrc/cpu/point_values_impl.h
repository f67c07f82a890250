// The depthwise convolution of several images that share their pairs: the kernel's values
//     psi[i, j, c] = sum_h W[c, h] phi_h(i, j) + bias[c]
// of a tile are computed once, and all images are summed with them. A pair takes 2 C H FLOPs for its values and 2 C an image,
// where moments (point_conv_impl.h) take 2 C H an image. Backward the values' gradient sum_b f[b, j, c] g[b, i, c] takes the
// place of the images; it and the sums take 2 C an image each, its products with W and phi 2 C H each.
//
// Sums over pairs run over slabs of inputs, whose signal stays in the second-level cache while a few outputs read it.
#pragma once

#include "point_conv_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct PointValues {
  using V = Native<T>;
  using Problem = PointProblem<T>;
  using Moments = PointConv<T>;
  static constexpr int W = kWidth<T>;
  static constexpr int kImages = 8;  // taken together: their sums fill half the registers

  static int64_t channels(const Problem& p) { return Moments::channels(p); }
  // All images of an input or output, [image][channels].
  static int64_t point(const Problem& p) { return p.images() * channels(p); }
  static int64_t fitting(int64_t bytes, const Problem& p) { return bytes / (point(p) * int64_t(sizeof(T))); }

  static int64_t rows(const Problem& p) {
    int64_t most = fitting(32 << 10, p);
    return most < 4 ? 4 : most > 64 ? 64 : most;
  }
  static int64_t slab(const Problem& p) {
    int64_t most = fitting(128 << 10, p) / kTile * kTile;
    return p.pairs.rowptr || most < kTile ? kTile : most;
  }

  // [h][channels], then the bias.
  static int64_t head_size(const Problem& p) { return (p.net.hidden + p.bias) * channels(p); }
  static void pack_head(const Problem& p, const T* weight, const T* bias, T* to) {
    __builtin_memset(to, 0, sizeof(T) * head_size(p));
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t h = 0; h < p.net.hidden; ++h) to[h * channels(p) + c] = weight[c * p.net.hidden + h];
      if (p.bias) to[p.net.hidden * channels(p) + c] = bias[c];
    }
  }

  struct Memory {
    typename PairNet<T>::Memory net;
    T *psi, *signal, *outputs;
    Memory(Arena<T>& arena, const Problem& p) : net(arena, p) {
      psi = arena.take(kTile * channels(p));
      signal = arena.take(slab(p) * point(p));
      outputs = arena.take(rows(p) * point(p));
    }
  };
  struct BackwardMemory : Memory {
    T *gpsi, *gf, *head;
    BackwardMemory(Arena<T>& arena, const Problem& p) : Memory(arena, p) {
      gpsi = arena.take(kTile * channels(p));
      gf = arena.take(slab(p) * point(p));
      head = arena.take(Moments::moments(p));
    }
  };
  static int64_t forward_workspace(const Problem& p) { return Moments::template workspace<Memory>(p); }
  static int64_t backward_workspace(const Problem& p) { return Moments::template workspace<BackwardMemory>(p); }

  // Copies between [image][n][C] and [n][image][channels]; channels past C are zero.
  template <class Place>
  PGCONV_INLINE void gather(const Problem& p, const T* from, int64_t image, int64_t count, T* to, Place&& place) {
    for (int64_t k = 0; k < count; ++k)
      for (int64_t b = 0; b < p.images(); ++b, to += channels(p)) {
        __builtin_memcpy(to, from + b * image + place(k) * p.C, sizeof(T) * p.C);
        __builtin_memset(to + p.C, 0, sizeof(T) * (channels(p) - p.C));
      }
  }
  // Calls f(pair in the tile or place in the slab, input).
  template <class F>
  PGCONV_INLINE void for_each_listed(const Problem& p, const PairTile& tile, F&& f) {
    for (int k = 0; k < tile.runs; ++k) Pairs<T>::for_each_input(p, tile.run[k], f);
  }

  static void values(const Problem& p, const NetLayout<T>& layout, int count, const T* phi, T* psi) {
    const T* bias = p.bias ? p.head + p.net.hidden * channels(p) : nullptr;
    product<V, true>(count, int(channels(p)), phi, layout.width, 1, p.head, channels(p), bias, p.net.hidden,
                     [&](int r, int c, V z) __attribute__((always_inline)) { store<V>(psi + r * channels(p) + c, z); });
  }

  // Calls f with the number of images of a block as a constant, and the first of them.
  template <class F>
  PGCONV_INLINE void for_image_blocks(int64_t images, F&& f) {
    int64_t b = 0;
    for (; b + kImages <= images; b += kImages) f(Constant<kImages>{}, b);
    for (; b + 2 <= images; b += 2) f(Constant<2>{}, b);
    if (b < images) f(Constant<1>{}, b);
  }
  template <int N>
  struct Constant {
    static constexpr int value = N;
  };

  // out[image][c] += sum_r psi[r][c] f[r][image][c]
  static void sum(const Problem& p, int length, const T* psi, const T* f, T* out) {
    int64_t C = channels(p), size = point(p);
    for (int64_t c = 0; c < C; c += W)
      for_image_blocks(p.images(), [&](auto block, int64_t b) __attribute__((always_inline)) {
        constexpr int N = decltype(block)::value;
        V total[N] = {};
        const T* from = f + b * C + c;
        for (int r = 0; r < length; ++r, from += size) {
          V value = load<V>(psi + r * C + c);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) total[n] += value * load<V>(from + n * C);
        }
        T* to = out + b * C + c;
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store<V>(to + n * C, load<V>(to + n * C) + total[n]);
      });
  }

  // gf[r][image][c] += psi[r][c] g[image][c];  gpsi[r][c] = sum_image f[r][image][c] g[image][c]
  template <bool Values, bool Inputs>
  static void sum_backward(const Problem& p, int length, const T* psi, const T* f, const T* g, T* gf, T* gpsi) {
    int64_t C = channels(p), size = point(p);
    for (int64_t c = 0; c < C; c += W)
      for_image_blocks(p.images(), [&](auto block, int64_t b) __attribute__((always_inline)) {
        constexpr int N = decltype(block)::value;
        V grad[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) grad[n] = load<V>(g + (b + n) * C + c);
        const T* from = f + b * C + c;
        T* to = gf + b * C + c;
        for (int r = 0; r < length; ++r, from += size, to += size) {
          if constexpr (Inputs) {
            V value = load<V>(psi + r * C + c);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) store<V>(to + n * C, load<V>(to + n * C) + value * grad[n]);
          }
          if constexpr (Values) {
            V even{}, odd{};
#pragma GCC unroll 8
            for (int n = 0; n < N; n += 2) even += grad[n] * load<V>(from + n * C);
#pragma GCC unroll 8
            for (int n = 1; n < N; n += 2) odd += grad[n] * load<V>(from + n * C);
            T* x = gpsi + r * C + c;
            store<V>(x, b > 0 ? load<V>(x) + (even + odd) : even + odd);
          }
        }
      });
  }

  // Calls tile(tile, first place of the slab) for the tiles of some outputs, slab by slab; before and after each slab
  // slab(begin, end, before).
  template <class Slab, class Tile>
  PGCONV_INLINE void for_each_slab(const Problem& p, int64_t s, int64_t i0, int64_t count, Slab&& of_slab, Tile&& of_tile) {
    int64_t Nv = p.elements.Nv, step = p.pairs.rowptr ? Nv : slab(p);
    for (int64_t from = 0; from < Nv; from += step) {
      int64_t to = Nv - from < step ? Nv : from + step;
      of_slab(from, to, true);
      Pairs<T>::for_each_tile(p, s, i0, i0 + count, from, to, [&](const PairTile& tile) { of_tile(tile, from); });
      of_slab(from, to, false);
    }
  }
  // Where the signal of a run begins in the slab, or in the tile where inputs are listed.
  static int64_t place(const Problem& p, const Run& run, int64_t from) {
    return p.pairs.rowptr ? run.start : run.first - from;
  }

  static void scatter_outputs(const Problem& p, int64_t s, int64_t i0, int64_t count, const T* from, T* out) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t b = 0; b < p.images(); ++b, from += channels(p))
        __builtin_memcpy(out + ((s * p.images() + b) * p.elements.Nu + i0 + i) * p.C, from, sizeof(T) * p.C);
  }

  static void forward(const Problem& p, int64_t s, int64_t begin, int64_t end, T* memory, T* out) {
    Arena<T> arena(memory);
    Memory m(arena, p);
    PairNet<T> net(p, m.net, false);
    int64_t Nv = p.elements.Nv, image = Nv * p.C;
    const T* f = p.f + s * p.images() * image;
    for (int64_t i0 = begin; i0 < end; i0 += rows(p)) {
      int64_t count = end - i0 < rows(p) ? end - i0 : rows(p);
      __builtin_memset(m.outputs, 0, sizeof(T) * count * point(p));
      for_each_slab(
          p, s, i0, count,
          [&](int64_t from, int64_t to, bool before) {
            if (before && !p.pairs.rowptr) gather(p, f, image, to - from, m.signal, [&](int64_t k) { return from + k; });
          },
          [&](const PairTile& tile, int64_t from) {
            gather_listed(p, f, image, tile, m.signal);
            values(p, net.layout, tile.count, net.features(s, tile), m.psi);
            for (int k = 0; k < tile.runs; ++k) {
              const Run& run = tile.run[k];
              sum(p, run.length, m.psi + run.start * channels(p), m.signal + place(p, run, from) * point(p),
                  m.outputs + (run.i - i0) * point(p));
            }
          });
      scatter_outputs(p, s, i0, count, m.outputs, out);
    }
  }
  static void gather_listed(const Problem& p, const T* f, int64_t image, const PairTile& tile, T* signal) {
    if (!p.pairs.rowptr) return;
    for_each_listed(p, tile, [&](int r, int64_t j) {
      gather(p, f, image, 1, signal + r * point(p), [&](int64_t) { return j; });
    });
  }

  static void backward(const Problem& p, PointNeeds needs, int64_t s, int64_t begin, int64_t end, T* memory,
                       PointSums<T> sums) {
    Arena<T> arena(memory);
    BackwardMemory m(arena, p);
    PairNet<T> net(p, m.net, needs.features);
    __builtin_memset(m.head, 0, sizeof(T) * Moments::moments(p));
    int64_t Nv = p.elements.Nv, image = Nv * p.C, C = channels(p), H = net.layout.width;
    bool listed = p.pairs.rowptr, of_values = needs.features || needs.head;
    auto backward_of = needs.f ? of_values ? sum_backward<true, true> : sum_backward<false, true> : sum_backward<true, false>;
    const T* f = p.f + s * p.images() * image;
    T* grad_f = needs.f ? sums.f + s * p.images() * image : nullptr;
    auto add_input = [&](const T* from, int64_t j) {
      for (int64_t b = 0; b < p.images(); ++b) Moments::add(from + b * C, p.C, grad_f + b * image + j * p.C);
    };
    int pending = 0;
    auto flush = [&] {
      net.flush(sums);
      if (needs.head) {
        Moments::add(m.head, Moments::moments(p), sums.head);
        __builtin_memset(m.head, 0, sizeof(T) * Moments::moments(p));
      }
      pending = 0;
    };

    for (int64_t i0 = begin; i0 < end; i0 += rows(p)) {
      int64_t count = end - i0 < rows(p) ? end - i0 : rows(p);
      gather(p, p.grad + (s * p.images() * p.elements.Nu + i0) * p.C, p.elements.Nu * p.C, count, m.outputs,
             [](int64_t i) { return i; });
      for_each_slab(
          p, s, i0, count,
          [&](int64_t from, int64_t to, bool before) {
            if (listed) return;
            if (before) {
              if (of_values) gather(p, f, image, to - from, m.signal, [&](int64_t k) { return from + k; });
              if (needs.f) __builtin_memset(m.gf, 0, sizeof(T) * (to - from) * point(p));
            } else if (needs.f) {
              for (int64_t j = from; j < to; ++j) add_input(m.gf + (j - from) * point(p), j);
            }
          },
          [&](const PairTile& tile, int64_t from) {
            if (of_values) gather_listed(p, f, image, tile, m.signal);
            if (listed && needs.f) __builtin_memset(m.gf, 0, sizeof(T) * tile.count * point(p));
            const T* phi = net.features(s, tile);
            if (needs.f) values(p, net.layout, tile.count, phi, m.psi);
            for (int k = 0; k < tile.runs; ++k) {
              const Run& run = tile.run[k];
              int64_t at = place(p, run, from) * point(p);
              backward_of(p, run.length, m.psi + run.start * C, m.signal + at, m.outputs + (run.i - i0) * point(p),
                          m.gf + at, m.gpsi + run.start * C);
            }
            if (listed && needs.f)
              for_each_listed(p, tile, [&](int r, int64_t j) { add_input(m.gf + r * point(p), j); });
            if (needs.head) head_gradient(p, tile.count, H, phi, m.gpsi, m.head);
            if (needs.features) {
              features_gradient(p, net, tile.count, m.gpsi);
              net.reverse(s, tile, sums);
            }
            if (++pending == kFlushTiles) flush();
          });
    }
    flush();
  }

  // head[c][h] += sum_r gpsi[r][c] phi[r][h], and the bias.
  static void head_gradient(const Problem& p, int count, int64_t H, const T* phi, const T* gpsi, T* head) {
    product<V, true>(int(p.C), int(H), gpsi, 1, channels(p), phi, H, nullptr, count,
                     [&](int c, int h, V z) __attribute__((always_inline)) {
                       T* to = head + c * H + h;
                       store<V>(to, load<V>(to) + z);
                     });
    if (p.bias) Moments::add_rows(gpsi, channels(p), count, head + channels(p) * H);
  }

  // Gradients of the phases of a recorded tile's last layer.
  static void features_gradient(const Problem& p, const PairNet<T>& net, int count, const T* gpsi) {
    int64_t H = net.layout.width;
    T* g = net.gradient();
    const T* slopes = net.slopes();
    product<V, true>(count, int(H), gpsi, channels(p), 1, p.head_adjoint, H, nullptr, int(p.C),
                     [&](int r, int h, V z) __attribute__((always_inline)) {
                       store<V>(g + r * H + h, z * load<V>(slopes + r * H + h));
                     });
  }

  static constexpr PointKernels<T> kernels = {
      rows,   head_size, Moments::head_adjoint_size, pack_head, Moments::pack_head_adjoint, Moments::unpack_head,
      forward_workspace, forward, backward_workspace, backward};
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
