// The aggregate order: M[u, c, h] = sum_{v, t} phi[u, v, t, h] X[c, v, t], then Y[u, o] = sum_{c, h} W[o, c, h] M[u, c, h],
// panel by panel. A panel's X, M and Y stay in the first and second level caches, so memory sees only the operands.
//
// Per pixel and image 2 C H Nu Nv T + 2 O Nu C H FLOPs; backward 2 (C H Nu Nv T) a + 2 (O Nu C H) b with a = 3, b = 2 where
// everything is asked for (M again, the head's adjoint, three sums).
#pragma once

#include "arena.h"
#include "planes_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Aggregate {
  // Rows (c, h) of a chunk. Forward: 128 rows x 2 vectors of M (16 KB) and the head's panel share the first-level cache;
  // backward has M, its gradient and the transposed X in the second.
  static int64_t chunk_channels(const ConvProblem<T>& p, bool backward) {
    int64_t channels = (backward ? 64 : 128) / p.H;
    channels = channels < 1 ? 1 : channels;
    return channels < p.C ? channels : p.C;
  }
  static int64_t depth(const ConvProblem<T>& p) { return p.Nv * p.grid.taps; }

  static void pack_features(const ConvProblem<T>& p, int64_t s, T* to) {
    for (int64_t u = 0; u < p.Nu; ++u) {
      const T* phi = p.phi + s * p.phi_s + u * p.phi_u;
      pack_rows(p.H, depth(p), to + (s * p.Nu + u) * p.H * depth(p), [&](int64_t h, int64_t k) {
        int64_t v = k / p.grid.taps;
        return phi[v * p.phi_v + (k - v * p.grid.taps) * p.H + h];
      });
    }
  }
  static void pack_features_adjoint(const ConvProblem<T>& p, int64_t s, T* to) {
    const T* phi = p.phi + s * p.phi_s;
    pack_rows(depth(p), p.Nu * p.H, to + s * p.Nu * p.H * depth(p), [&](int64_t row, int64_t k) {
      int64_t v = row / p.grid.taps, u = k / p.H;
      return phi[u * p.phi_u + v * p.phi_v + (row - v * p.grid.taps) * p.H + (k - u * p.H)];
    });
  }
  static void pack_head(const ConvProblem<T>& p, int64_t begin, int64_t end, T* to) {
    pack_rows(p.O, (end - begin) * p.H, to + begin * p.H * p.O, [&](int64_t o, int64_t k) {
      int64_t c = k / p.H;
      return p.weight[o * p.weight_o + (begin + c) * p.weight_c + (k - c * p.H)];
    });
  }
  static void pack_head_adjoint(const ConvProblem<T>& p, int64_t begin, int64_t end, T* to) {
    pack_rows((end - begin) * p.H, p.O, to + begin * p.H * p.O, [&](int64_t row, int64_t o) {
      int64_t c = row / p.H;
      return p.weight[o * p.weight_o + (begin + c) * p.weight_c + (row - c * p.H)];
    });
  }

  // Row panels [rows][kPanel] of one product with a packed factor.
  static Product<T> panels(int64_t depth, const T* a, const T* b, T* c, bool add) {
    return {1, depth, a, 0, 0, b, 0, kPanel<T>, c, kPanel<T>, add};
  }

  // M[u][(c, h)] for the channels of a chunk from their X.
  static void moments(const ConvProblem<T>& p, const T* features, const T* x, int64_t c, int64_t chunk, T* M) {
    for (int64_t u = 0; u < p.Nu; ++u)
      multiply_packed(panels(depth(p), features + u * p.H * depth(p), x, M + (u * chunk + c) * p.H * kPanel<T>, false),
                      p.H, kPanelVectors);
  }

  struct ForwardMemory {
    T *planes, *x, *M, *y;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t plane) {
      planes = arena.take(p.C * p.Nv * plane + kSlack<T>);
      x = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      M = arena.take(p.Nu * chunk_channels(p, false) * p.H * kPanel<T>);
      y = arena.take(p.Nu * p.O * kPanel<T>);
    }
  };

  static int64_t forward_workspace(const ConvProblem<T>& p, const ConvTask& task) {
    Arena<T> arena(nullptr);
    ForwardMemory(arena, p, Strip<T>::plane_size(p.grid, Strip<T>::most_rows(p.grid, task.strip_pixels)));
    return arena.used();
  }

  // The pixel side from the window side.
  static void forward(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs, T* workspace,
                      void* out) {
    with_storage<T>(p.storage, [&](auto storage) { forward_as<decltype(storage)>(p, task, packs, workspace, out); });
  }

  template <class Store>
  static void forward_as(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs, T* workspace,
                         void* out) {
    const ConvGrid& g = p.grid;
    auto window = static_cast<const typename Store::Type*>(p.window);
    auto pixel = static_cast<typename Store::Type*>(out);
    int64_t chunk = chunk_channels(p, false), pixels = g.pixels();
    for (int64_t b = task.b_begin; b < task.b_end; ++b) {
      const T* features = packs.features + (p.S == 1 ? 0 : b) * p.Nu * p.H * depth(p);
      for (int64_t begin = task.pixel_begin; begin < task.pixel_end; begin += task.strip_pixels) {
        int64_t end = begin + task.strip_pixels < task.pixel_end ? begin + task.strip_pixels : task.pixel_end;
        auto strip = Strip<T>::of(g, begin, end);
        Arena<T> arena(workspace);
        ForwardMemory m(arena, p, strip.plane);
        for (int64_t i = 0; i < p.C * p.Nv; ++i)
          pad_plane<T, Store>(g, strip, window + (b * p.C * p.Nv + i) * g.height * g.width, m.planes + i * strip.plane);
        for (int64_t at = begin; at < end; at += kPanel<T>) {
          PanelLanes<T> lanes(g, strip, at);
          for (int64_t first = 0; first < p.C; first += chunk) {
            int64_t channels = p.C - first < chunk ? p.C - first : chunk;
            for (int64_t c = 0; c < channels; ++c) {
              gather(g, lanes, m.planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv, m.x);
              moments(p, features, m.x, c, channels, m.M);
            }
            const T* head = packs.head + first * p.H * p.O;
            for (int64_t u = 0; u < p.Nu; ++u)
              multiply_packed(panels(channels * p.H, head, m.M + u * channels * p.H * kPanel<T>,
                                     m.y + u * p.O * kPanel<T>, first > 0),
                              p.O, kPanelVectors);
          }
          for (int64_t u = 0; u < p.Nu; ++u)
            store_panel<T, Store>(m.y + u * p.O * kPanel<T>, p.O, lanes.count,
                                  pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels);
        }
      }
    }
  }

  static int64_t phi_lanes(const ConvProblem<T>& p) { return round_up<T>(depth(p)); }
  static int64_t head_lanes(const ConvProblem<T>& p) { return round_up<T>(p.O); }
  static int64_t head_blocks(const ConvProblem<T>& p) { return (p.O + kPanel<T> - 1) / kPanel<T>; }

  struct BackwardMemory {
    T *planes, *grad_planes, *x, *xt, *M, *gM, *g, *gt, *column, *phi, *head;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t channels, int64_t plane) {
      int64_t chunk = chunk_channels(p, true), rows = p.Nu * chunk * p.H, blocks = head_blocks(p);
      planes = arena.take(channels * p.Nv * plane + kSlack<T>);
      grad_planes = arena.take(channels * p.Nv * plane + kSlack<T>);
      x = arena.take((phi_lanes(p) + 2) * kPanel<T> + kSlack<T>);
      xt = arena.take(chunk * kPanel<T> * phi_lanes(p));
      M = arena.take(rows * kPanel<T>);
      gM = arena.take(rows * kPanel<T>);
      g = arena.take(p.Nu * head_lanes(p) * kPanel<T>);
      gt = arena.take(blocks * p.Nu * kPanel<T> * kPanel<T>);
      column = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      phi = arena.take(p.Nu * p.H * phi_lanes(p));
      head = arena.take(blocks * channels * p.H * kPanel<T>);
    }
  };

  static int64_t backward_workspace(const ConvProblem<T>& p, const ConvTask& task) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, p, task.c_end - task.c_begin,
                   Strip<T>::plane_size(p.grid, Strip<T>::most_rows(p.grid, task.strip_pixels)));
    return arena.used();
  }

  // From the pixel side (and the window side where the kernel's gradients are asked for): the window side's gradient
  // [B, C, Nv, height, width], zeroed by the caller, for the task's channels, and the sums of features and head.
  static void backward(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs, ConvNeeds needs,
                       T* workspace, ConvSums sums, T* grad_window) {
    with_storage<T>(p.storage, [&](auto storage) {
      backward_as<decltype(storage)>(p, task, packs, needs, workspace, sums, grad_window);
    });
  }

  template <class Store>
  static void backward_as(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs,
                          ConvNeeds needs, T* workspace, ConvSums sums, T* grad_window) {
    const ConvGrid& g = p.grid;
    auto window = static_cast<const typename Store::Type*>(p.window);
    auto pixel = static_cast<const typename Store::Type*>(p.pixel);
    int64_t channels = task.c_end - task.c_begin, image = p.C * p.Nv, pixels = g.pixels();
    int64_t phi_size = p.Nu * p.H * phi_lanes(p);
    for (int64_t b = task.b_begin; b < task.b_end; ++b) {
      int64_t s = p.S == 1 ? 0 : b;
      for (int64_t begin = task.pixel_begin; begin < task.pixel_end; begin += task.strip_pixels) {
        int64_t end = begin + task.strip_pixels < task.pixel_end ? begin + task.strip_pixels : task.pixel_end;
        auto strip = Strip<T>::of(g, begin, end);
        Arena<T> arena(workspace);
        BackwardMemory m(arena, p, channels, strip.plane);
        int64_t first_plane = b * image + task.c_begin * p.Nv, plane_pixels = g.height * g.width;
        if (needs.kernel())
          for (int64_t i = 0; i < channels * p.Nv; ++i)
            pad_plane<T, Store>(g, strip, window + (first_plane + i) * plane_pixels, m.planes + i * strip.plane);
        if (needs.window)
          __builtin_memset(m.grad_planes, 0, sizeof(T) * (channels * p.Nv * strip.plane + kSlack<T>));
        if (needs.phi) __builtin_memset(m.phi, 0, sizeof(T) * phi_size);
        if (needs.weight) __builtin_memset(m.head, 0, sizeof(T) * head_blocks(p) * channels * p.H * kPanel<T>);
        for (int64_t at = begin; at < end; at += kPanel<T>) {
          PanelLanes<T> lanes(g, strip, at);
          for (int64_t u = 0; u < p.Nu; ++u)
            load_panel<T, Store>(pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels, p.O, lanes.count,
                                 m.g + u * head_lanes(p) * kPanel<T>);
          if (needs.weight) transpose_pixels(p, m);
          for (int64_t first = 0; first < channels; first += chunk_channels(p, true))
            backward_chunk(p, task, packs, needs, lanes, strip, s, first, m);
          // Sums over single panels: a running float sum over a batch would lose two digits.
          if (needs.phi) flush(m.phi, phi_size, sums.phi + (p.S == 1 ? 0 : b) * phi_size);
        }
        if (needs.weight) flush_head(p, task, m.head, sums.head);
        if (needs.window)
          for (int64_t i = 0; i < channels * p.Nv; ++i)
            add_unpadded(g, strip, m.grad_planes + i * strip.plane, grad_window + (first_plane + i) * plane_pixels);
      }
    }
  }

  static void backward_chunk(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs,
                             ConvNeeds needs, const PanelLanes<T>& lanes, const Strip<T>& strip, int64_t s,
                             int64_t first, const BackwardMemory& m) {
    const ConvGrid& g = p.grid;
    int64_t channels = task.c_end - task.c_begin, chunk = chunk_channels(p, true);
    chunk = channels - first < chunk ? channels - first : chunk;
    int64_t rows = chunk * p.H, K = depth(p), lanes_of_phi = phi_lanes(p);
    const T* features = packs.features + s * p.Nu * p.H * K;
    for (int64_t c = 0; c < chunk && needs.kernel(); ++c) {
      gather(g, lanes, m.planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv, m.x);
      if (needs.weight) moments(p, features, m.x, c, chunk, m.M);
      if (needs.phi) transpose(m.x, kPanel<T>, m.xt + c * kPanel<T> * lanes_of_phi, lanes_of_phi, lanes_of_phi, kPanel<T>);
    }
    if (needs.phi || needs.window) {
      const T* head = packs.head_adjoint + (task.c_begin + first) * p.H * p.O;
      for (int64_t u = 0; u < p.Nu; ++u)
        multiply_packed(panels(p.O, head, m.g + u * head_lanes(p) * kPanel<T>, m.gM + u * rows * kPanel<T>, false), rows,
                        kPanelVectors);
    }
    if (needs.weight)
      for (int64_t n = 0; n < head_blocks(p); ++n) {
        int64_t rest = (head_lanes(p) - n * kPanel<T>) / kWidth<T>;
        multiply_panel_rows<T>({p.Nu, kPanel<T>, m.M, rows * kPanel<T>, 0, m.gt + n * p.Nu * kPanel<T> * kPanel<T>,
                                kPanel<T> * kPanel<T>, kPanel<T>,
                                m.head + (n * channels + first) * p.H * kPanel<T>, kPanel<T>, true},
                               rows, int(rest < kPanelVectors ? rest : kPanelVectors));
      }
    if (needs.phi)
      for (int64_t u = 0; u < p.Nu; ++u)
        multiply_panel_rows<T>({chunk, kPanel<T>, m.gM + u * rows * kPanel<T>, p.H * kPanel<T>, 0, m.xt,
                                kPanel<T> * lanes_of_phi, lanes_of_phi, m.phi + u * p.H * lanes_of_phi, lanes_of_phi,
                                true},
                               p.H, int(lanes_of_phi / kWidth<T>));
    if (needs.window)
      for (int64_t c = 0; c < chunk; ++c) {
        multiply_packed<T>({p.Nu, p.H, packs.features_adjoint + s * p.Nu * p.H * K, 0, 0, m.gM + c * p.H * kPanel<T>,
                            rows * kPanel<T>, kPanel<T>, m.column, kPanel<T>, false},
                           K, kPanelVectors);
        scatter_add(g, lanes, m.column, m.grad_planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv);
      }
  }

  // [block of o][u][pixel][kPanel of o] from [u][o][pixel].
  static void transpose_pixels(const ConvProblem<T>& p, const BackwardMemory& m) {
    constexpr int W = kWidth<T>;
    for (int64_t u = 0; u < p.Nu; ++u)
      for (int64_t o = 0; o < head_lanes(p); o += W) {
        T* to = m.gt + (o / kPanel<T> * p.Nu + u) * kPanel<T> * kPanel<T> + o % kPanel<T>;
        const T* from = m.g + (u * head_lanes(p) + o) * kPanel<T>;
        transpose(from, kPanel<T>, to, kPanel<T>, W, kPanel<T>);
      }
  }

  static void flush(T* from, int64_t size, double* to) {
    for (int64_t i = 0; i < size; ++i) {
      to[i] += from[i];
      from[i] = 0;
    }
  }
  static void flush_head(const ConvProblem<T>& p, const ConvTask& task, const T* from, double* to) {
    int64_t rows = (task.c_end - task.c_begin) * p.H, lanes = head_lanes(p);
    to += task.c_begin * p.H * lanes;
    for (int64_t n = 0; n < head_blocks(p); ++n)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = n * kPanel<T>; o < lanes && o < (n + 1) * kPanel<T>; ++o)
          to[r * lanes + o] += from[(n * rows + r) * kPanel<T> + o - n * kPanel<T>];
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
