// The point convolution, for a few outputs at a time and tile by tile of their pairs: features phi in the first-level
// cache, at once summed into moments
//     M[i][b][c][h] = sum_j phi[i, j, h] f[b, j, c],      sums[i][b][c] = sum_j f[b, j, c] where there is a bias,
// which stay in the second-level cache until the head turns them into outputs. Backward everything is computed again from
// the elements. Nothing has a size of outputs times inputs.
//
// With L hidden layers a pair takes 2 H (D + (L - 1) H) FLOPs for its features and 2 C H for its moments, an output 2 O C H.
// Backward, 3 times the former and 3 times the latter (M for the head's gradient, the signal's and the features' gradients);
// or on the adjoint problem, whose moments P[j][o][h] = sum_i phi g[i, o] give the head's and the signal's gradients at
// once, 3 times the former and twice 2 O H. Depthwise with several images: point_values_impl.h.
#pragma once

#include "gemm.h"
#include "pair_net_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct PointConv {
  using V = Native<T>;
  using Problem = PointProblem<T>;
  static constexpr int W = kWidth<T>;

  // Rows whose distance is an odd number of cache lines do not meet in the same sets of a cache.
  static int64_t odd_lines(int64_t size) {
    constexpr int64_t line = 64 / sizeof(T);
    return ((size + line - 1) / line | 1) * line;
  }
  static int64_t width(const Problem& p) { return NetLayout<T>::of(p.net).width; }
  static int64_t channels(const Problem& p) { return round_up<T>(p.C); }
  static int64_t outputs(const Problem& p) { return round_up<T>(p.O); }
  // Moments [channels][width] of an output in one image, then its sums [channels].
  static int64_t moments(const Problem& p) { return channels(p) * width(p) + (p.bias ? channels(p) : 0); }
  static int64_t moments_row(const Problem& p) { return odd_lines(p.images() * moments(p)); }
  // Rows of the head's adjoint, in the order of the moments.
  static int64_t head_row(const Problem& p) { return odd_lines(moments(p)); }

  // Outputs taken together. Their moments are 256 KB, so that backward three times as much fits the second-level cache, and a
  // large head is read from the last-level cache as seldom as can be.
  static int64_t rows(const Problem& p) {
    int64_t most = (256 << 10) / (moments_row(p) * int64_t(sizeof(T)));
    return most < 1 ? 1 : most > 64 ? 64 : most;
  }

  static int64_t head_size(const Problem& p) {
    return p.depthwise ? moments(p) : (p.C * width(p) + (p.bias ? p.C : 0)) * outputs(p);
  }
  static int64_t head_adjoint_size(const Problem& p) { return p.depthwise ? moments(p) : p.O * head_row(p); }

  // Calls f(number in a row of moments, c, h) for the numbers of the weight; h is H for those of the bias.
  template <class F>
  PGCONV_INLINE void for_each_moment(const Problem& p, F&& f) {
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t h = 0; h < p.net.hidden; ++h) f(c * width(p) + h, c, h);
      if (p.bias) f(channels(p) * width(p) + c, c, p.net.hidden);
    }
  }
  static int64_t head_place(const Problem& p, int64_t o, int64_t c) {
    return p.depthwise ? c : p.adjoint ? c * p.O + o : o * p.C + c;
  }
  static T head_at(const Problem& p, const T* weight, const T* bias, int64_t o, int64_t c, int64_t h) {
    int64_t row = head_place(p, o, c);
    return h < p.net.hidden ? weight[row * p.net.hidden + h] : bias[row];
  }

  // [(c, h)][outputs], then [c][outputs] of the bias.
  static void pack_head(const Problem& p, const T* weight, const T* bias, T* to) {
    if (p.depthwise) return pack_head_adjoint(p, weight, bias, to);
    __builtin_memset(to, 0, sizeof(T) * head_size(p));
    int64_t lanes = outputs(p), sums = channels(p) * width(p);
    for_each_moment(p, [&](int64_t k, int64_t c, int64_t h) {
      int64_t row = k < sums ? k : p.C * width(p) + k - sums;
      for (int64_t o = 0; o < p.O; ++o) to[row * lanes + o] = head_at(p, weight, bias, o, c, h);
    });
  }
  // [o][moments]; depthwise one row.
  static void pack_head_adjoint(const Problem& p, const T* weight, const T* bias, T* to) {
    __builtin_memset(to, 0, sizeof(T) * head_adjoint_size(p));
    for (int64_t o = 0; o < (p.depthwise ? 1 : p.O); ++o)
      for_each_moment(p, [&](int64_t k, int64_t c, int64_t h) {
        to[o * head_row(p) + k] = head_at(p, weight, bias, o, c, h);
      });
  }
  static void unpack_head(const Problem& p, const T* sums, T* grad_weight, T* grad_bias) {
    for (int64_t o = 0; o < (p.depthwise ? 1 : p.O); ++o)
      for_each_moment(p, [&](int64_t k, int64_t c, int64_t h) {
        T value = sums[o * head_row(p) + k];
        if (h < p.net.hidden)
          grad_weight[head_place(p, o, c) * p.net.hidden + h] = value;
        else
          grad_bias[head_place(p, o, c)] = value;
      });
  }

  struct Memory {
    typename PairNet<T>::Memory net;
    T *signal, *M, *y;
    Memory(Arena<T>& arena, const Problem& p) : net(arena, p) {
      signal = arena.take(Pairs<T>::signal_size(p));
      M = arena.take(rows(p) * moments_row(p));
      y = arena.take(rows(p) * outputs(p));
    }
  };
  struct BackwardMemory : Memory {
    T *gM, *transposed, *gf;
    BackwardMemory(Arena<T>& arena, const Problem& p) : Memory(arena, p) {
      gM = arena.take(rows(p) * moments_row(p));
      transposed = arena.take(rows(p) * p.images() * channels(p) * width(p));
      gf = arena.take(p.images() * slab(p) * channels(p));
    }
  };
  template <class M>
  static int64_t workspace(const Problem& p) {
    Arena<T> arena(nullptr);
    M(arena, p);
    return arena.used();
  }
  static int64_t forward_workspace(const Problem& p) { return workspace<Memory>(p); }
  static int64_t backward_workspace(const Problem& p) { return workspace<BackwardMemory>(p); }

  // Adds a tile's moments (and sums) to those of its outputs, the first of which is i0.
  static void aggregate(const Problem& p, const typename Pairs<T>::Signal& signal, const PairTile& tile, int64_t i0,
                        const T* phi, T* M) {
    int64_t H = width(p), size = moments(p), row = moments_row(p);
    for (int k = 0; k < tile.runs; ++k) {
      const Run& run = tile.run[k];
      for (int64_t b = 0; b < p.images(); ++b) {
        const T* f = signal.of(p, run, b);
        T* to = M + (run.i - i0) * row + b * size;
        product<V, true>(int(p.C), int(H), f, 1, p.C, phi + run.start * H, H, nullptr, run.length,
                         [&](int c, int h, V z) __attribute__((always_inline)) {
                           T* m = to + c * H + h;
                           store<V>(m, load<V>(m) + z);
                         });
        if (p.bias) add_rows(f, p.C, run.length, to + channels(p) * H);
      }
    }
  }

  // sum[c] += sum_k rows[k][c]
  static void add_rows(const T* rows, int64_t C, int count, T* sum) {
    int64_t c = 0;
    for (; c + W <= C; c += W) {
      V s{};
      for (int k = 0; k < count; ++k) s += load<V>(rows + k * C + c);
      store<V>(sum + c, load<V>(sum + c) + s);
    }
    for (; c < C; ++c) {
      T s = 0;
      for (int k = 0; k < count; ++k) s += rows[k * C + c];
      sum[c] += s;
    }
  }

  // Sum over lanes.
  static T total(V x) {
    T lanes[W], sum = 0;
    store<V>(lanes, x);
    for (int l = 0; l < W; ++l) sum += lanes[l];
    return sum;
  }

  // Outputs i0 .. i0 + count - 1 from their moments.
  static void apply_head(const Problem& p, int64_t s, int64_t i0, int64_t count, const T* M, T* y, T* out) {
    int64_t size = moments(p), row = moments_row(p), lanes = outputs(p), H = width(p);
    for (int64_t b = 0; b < p.images(); ++b) {
      T* to = out + ((s * p.images() + b) * p.elements.Nu + i0) * p.O;
      const T* from = M + b * size;
      if (p.depthwise) {
        for (int64_t i = 0; i < count; ++i)
          for (int64_t c = 0; c < p.C; ++c) {
            V sum{};
            for (int64_t h = 0; h < H; h += W) sum += load<V>(from + i * row + c * H + h) * load<V>(p.head + c * H + h);
            T value = total(sum);
            if (p.bias) value += from[i * row + channels(p) * H + c] * p.head[channels(p) * H + c];
            to[i * p.O + c] = value;
          }
        continue;
      }
      for (int64_t k = 0; k < count * lanes; ++k) y[k] = 0;
      multiply_head(int(count), lanes, from, row, p.head, p.C * H, y);
      if (p.bias) multiply_head(int(count), lanes, from + channels(p) * H, row, p.head + p.C * H * lanes, p.C, y);
      for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i * p.O, y + i * lanes, sizeof(T) * p.O);
    }
  }
  // y [count][lanes] += a [count][depth] head [depth][lanes], in pieces of the depth whose head stays in the first-level
  // cache, and whose sums are short.
  static void multiply_head(int count, int64_t lanes, const T* a, int64_t row, const T* head, int64_t depth, T* y) {
    constexpr int64_t piece = 256;
    for (int64_t k = 0; k < depth; k += piece)
      product<V, true>(count, int(lanes), a + k, row, 1, head + k * lanes, lanes, nullptr,
                       int(depth - k < piece ? depth - k : piece), [&](int i, int o, V z)
                           __attribute__((always_inline)) {
                             T* to = y + i * lanes + o;
                             store<V>(to, load<V>(to) + z);
                           });
  }

  static void forward(const Problem& p, int64_t s, int64_t begin, int64_t end, T* memory, T* out) {
    Arena<T> arena(memory);
    Memory m(arena, p);
    PairNet<T> net(p, m.net, false);
    for (int64_t i0 = begin; i0 < end; i0 += rows(p)) {
      int64_t count = end - i0 < rows(p) ? end - i0 : rows(p);
      __builtin_memset(m.M, 0, sizeof(T) * count * moments_row(p));
      Pairs<T>::for_each_tile(p, s, i0, i0 + count, 0, p.elements.Nv, [&](const PairTile& tile) {
        const T* phi = net.features(s, tile);
        aggregate(p, typename Pairs<T>::Signal(p, s, tile, m.signal), tile, i0, phi, m.M);
      });
      apply_head(p, s, i0, count, m.M, m.y, out);
    }
  }

  // Inputs whose gradients are summed over a few outputs before they are added to the worker's: 128 KB, and two levels of
  // sums. Where inputs are not consecutive a tile's gradients are added one by one.
  static int64_t slab(const Problem& p) {
    int64_t most = (128 << 10) / (p.images() * channels(p) * int64_t(sizeof(T))) / kTile * kTile;
    return p.pairs.rowptr || most < kTile ? kTile : most;
  }

  // Gradients of the moments of some outputs, and if asked for their transposes [h][channels].
  static void moments_gradient(const Problem& p, int64_t s, int64_t i0, int64_t count, bool transposes,
                               const BackwardMemory& m) {
    int64_t size = moments(p), row = moments_row(p), H = width(p), C = channels(p);
    for (int64_t b = 0; b < p.images(); ++b) {
      const T* grad = p.grad + ((s * p.images() + b) * p.elements.Nu + i0) * p.O;
      T* to = m.gM + b * size;
      if (p.depthwise)
        for (int64_t i = 0; i < count; ++i)
          for (int64_t c = 0; c < C; ++c) {
            T g = c < p.C ? grad[i * p.O + c] : T(0);
            for (int64_t h = 0; h < H; h += W)
              store<V>(to + i * row + c * H + h, g * load<V>(p.head_adjoint + c * H + h));
            if (p.bias) to[i * row + C * H + c] = g * p.head_adjoint[C * H + c];
          }
      else
        product<V, true>(int(count), int(size), grad, p.O, 1, p.head_adjoint, head_row(p), nullptr, int(p.O),
                         [&](int i, int k, V z) __attribute__((always_inline)) { store<V>(to + i * row + k, z); });
      for (int64_t i = 0; transposes && i < count; ++i)
        transpose<T>(to + i * row, H, m.transposed + (i * p.images() + b) * C * H, C, C, H);
    }
  }

  // Gradients of a tile's signal: into gf [image][slab][channels] where inputs are consecutive from `from`, else added to
  // `sums` [image][Nv][C].
  static void distribute(const Problem& p, const PairTile& tile, int64_t i0, int64_t from, const T* phi,
                         const BackwardMemory& m, T* sums) {
    int64_t H = width(p), C = channels(p);
    bool all = !p.pairs.rowptr;
    for (int k = 0; k < tile.runs; ++k) {
      const Run& run = tile.run[k];
      for (int64_t b = 0; b < p.images(); ++b) {
        const T* gM = m.transposed + ((run.i - i0) * p.images() + b) * C * H;
        const T* shift = p.bias ? m.gM + (run.i - i0) * moments_row(p) + b * moments(p) + C * H : nullptr;
        T* to = m.gf + (all ? b * slab(p) + run.first - from : run.start) * C;
        product<V, true>(run.length, int(C), phi + run.start * H, H, 1, gM, C, nullptr, p.net.hidden,
                         [&](int r, int c, V z) __attribute__((always_inline)) {
                           if (shift) z += load<V>(shift + c);
                           T* x = to + r * C + c;
                           store<V>(x, all ? load<V>(x) + z : z);
                         });
        if (!all)
          Pairs<T>::for_each_input(p, run, [&](int r, int64_t j) {
            add(m.gf + r * C, p.C, sums + (b * p.elements.Nv + j) * p.C);
          });
      }
    }
  }
  static void add(const T* from, int64_t count, T* to) {
    int64_t c = 0;
    for (; c + W <= count; c += W) store<V>(to + c, load<V>(to + c) + load<V>(from + c));
    for (; c < count; ++c) to[c] += from[c];
  }

  // Gradients of the phases of a recorded tile's last layer.
  static void features_gradient(const Problem& p, const PairNet<T>& net, const typename Pairs<T>::Signal& signal,
                                const PairTile& tile, int64_t i0, const BackwardMemory& m) {
    int64_t H = net.layout.width, last = p.images() - 1;
    T* g = net.gradient();
    const T* slopes = net.slopes();
    for (int k = 0; k < tile.runs; ++k) {
      const Run& run = tile.run[k];
      T* to = g + run.start * H;
      const T* d = slopes + run.start * H;
      for (int64_t b = 0; b <= last; ++b)
        product<V, true>(run.length, int(H), signal.of(p, run, b), p.C, 1,
                         m.gM + (run.i - i0) * moments_row(p) + b * moments(p), H, nullptr, int(p.C),
                         [&](int r, int h, V z) __attribute__((always_inline)) {
                           T* x = to + r * H + h;
                           if (b > 0) z += load<V>(x);
                           store<V>(x, b < last ? z : z * load<V>(d + r * H + h));
                         });
    }
  }

  // Adds the head's gradient from the moments of some outputs.
  static void head_gradient(const Problem& p, int64_t s, int64_t i0, int64_t count, const T* M, T* sums) {
    int64_t size = moments(p), row = moments_row(p), H = width(p);
    for (int64_t b = 0; b < p.images(); ++b) {
      const T* grad = p.grad + ((s * p.images() + b) * p.elements.Nu + i0) * p.O;
      const T* from = M + b * size;
      if (p.depthwise)
        for (int64_t c = 0; c < p.C; ++c) {
          for (int64_t h = 0; h < H; h += W) {
            V sum{};
            for (int64_t i = 0; i < count; ++i) sum += grad[i * p.O + c] * load<V>(from + i * row + c * H + h);
            store<V>(sums + c * H + h, load<V>(sums + c * H + h) + sum);
          }
          if (!p.bias) continue;
          T sum = 0;
          for (int64_t i = 0; i < count; ++i) sum += grad[i * p.O + c] * from[i * row + channels(p) * H + c];
          sums[channels(p) * H + c] += sum;
        }
      else
        product<V, true>(int(p.O), int(size), grad, 1, p.O, from, row, nullptr, int(count),
                         [&](int o, int k, V z) __attribute__((always_inline)) {
                           T* to = sums + o * head_row(p) + k;
                           store<V>(to, load<V>(to) + z);
                         });
    }
  }

  static void backward(const Problem& p, PointNeeds needs, int64_t s, int64_t begin, int64_t end, T* memory,
                       PointSums<T> sums) {
    Arena<T> arena(memory);
    BackwardMemory m(arena, p);
    PairNet<T> net(p, m.net, needs.features);
    int pending = 0;
    // Only sums over outputs need slabs.
    bool all = !p.pairs.rowptr;
    int64_t images = p.images(), Nv = p.elements.Nv, C = channels(p), step = all && needs.f ? slab(p) : Nv;
    T* grad_f = needs.f ? sums.f + s * images * Nv * p.C : nullptr;

    for (int64_t i0 = begin; i0 < end; i0 += rows(p)) {
      int64_t count = end - i0 < rows(p) ? end - i0 : rows(p);
      if (needs.moments()) __builtin_memset(m.M, 0, sizeof(T) * count * moments_row(p));
      if (needs.f || needs.features) moments_gradient(p, s, i0, count, needs.f, m);
      for (int64_t from = 0; from < Nv; from += step) {
        int64_t to = Nv - from < step ? Nv : from + step;
        if (needs.f && all) __builtin_memset(m.gf, 0, sizeof(T) * images * slab(p) * C);
        Pairs<T>::for_each_tile(p, s, i0, i0 + count, from, to, [&](const PairTile& tile) {
          const T* phi = net.features(s, tile);
          if (needs.f) distribute(p, tile, i0, from, phi, m, grad_f);
          if (!needs.moments() && !needs.features) return;
          typename Pairs<T>::Signal signal(p, s, tile, m.signal);
          if (needs.moments()) aggregate(p, signal, tile, i0, phi, m.M);
          if (!needs.features) return;
          features_gradient(p, net, signal, tile, i0, m);
          net.reverse(s, tile, sums);
          if (++pending == kFlushTiles) {
            net.flush(sums);
            pending = 0;
          }
        });
        if (needs.f && all)
          for (int64_t b = 0; b < images; ++b)
            for (int64_t j = from; j < to; ++j)
              add(m.gf + (b * slab(p) + j - from) * C, p.C, grad_f + (b * Nv + j) * p.C);
      }
      if (needs.head) head_gradient(p, s, i0, count, m.M, sums.head);
      if (needs.outputs) apply_head(p, s, i0, count, m.M, m.y, sums.outputs);
    }
    net.flush(sums);
  }

  static constexpr PointKernels<T> kernels = {rows, head_size, head_adjoint_size, pack_head, pack_head_adjoint,
                                              unpack_head, forward_workspace, forward, backward_workspace, backward};
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
