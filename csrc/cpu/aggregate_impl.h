// The aggregate order: M[u, c, h] = sum_{v, t} phi[u, v, t, h] X[c, v, t], then Y[u, o] = sum_{c, h} W[o, c, h] M[u, c, h],
// panel by panel. A panel's X, M and Y stay in the first and second level caches, so memory sees only the operands.
//
// Per pixel and image 2 C H Nu Nv T + 2 O Nu C H FLOPs; backward 2 (C H Nu Nv T) a + 2 (O Nu C H) b with a = 3, b = 2 where
// everything is asked for (M again, the head's adjoint, three sums).
//
// Written once for all arithmetics: words hold one or two numbers of a product's depth, see arithmetic.h. The features
// of a channel are padded to whole words, with zeros.
#pragma once

#include "arithmetic.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class A>
struct Aggregate {
  using T = typename A::Number;
  using Word = typename A::Word;
  using Plane = typename A::Plane;
  static constexpr int kRow = A::kRow;

  // Rows (c, h) of a chunk. Forward: 16 KB of M (128 rows of numbers x 2 vectors) and the head's panel share the
  // first-level cache; backward has M, its gradient and the transposed X in the second.
  static int64_t chunk_channels(const ConvProblem<T>& p, bool backward) {
    int64_t channels = (backward ? 64 : 128) * kPerWord<Word> / padded_features(p);
    channels = channels < 1 ? 1 : channels;
    return channels < p.C ? channels : p.C;
  }
  static int64_t depth(const ConvProblem<T>& p) { return p.Nv * p.grid.taps; }
  static int64_t padded_features(const ConvProblem<T>& p) { return A::padded(p.H); }
  static int64_t words(int64_t depth) { return A::padded(depth) / kPerWord<Word>; }

  // Words of the packs of one u, one set and one channel.
  static int64_t features_size(const ConvProblem<T>& p) { return padded_features(p) * words(depth(p)); }
  static int64_t adjoint_size(const ConvProblem<T>& p) { return depth(p) * words(p.Nu * padded_features(p)); }
  static int64_t head_size(const ConvProblem<T>& p) { return p.O * words(padded_features(p)); }
  static int64_t head_adjoint_size(const ConvProblem<T>& p) { return padded_features(p) * words(p.O); }

  static AggregateSizes pack_sizes(const ConvProblem<T>& p) {
    return {p.S * p.Nu * features_size(p), p.S * adjoint_size(p), p.C * head_size(p), p.C * head_adjoint_size(p)};
  }

  static const Word* as_words(const T* pack) { return reinterpret_cast<const Word*>(pack); }
  static Word* as_words(T* pack) { return reinterpret_cast<Word*>(pack); }

  static void pack_features(const ConvProblem<T>& p, int64_t s, T* to) {
    for (int64_t u = 0; u < p.Nu; ++u) {
      const T* phi = p.phi + s * p.phi_s + u * p.phi_u;
      A::pack_for_operand(padded_features(p), depth(p), as_words(to) + (s * p.Nu + u) * features_size(p),
                          [&](int64_t h, int64_t k) {
                            int64_t v = k / p.grid.taps;
                            return h < p.H ? phi[v * p.phi_v + (k - v * p.grid.taps) * p.H + h] : T(0);
                          });
    }
  }
  static void pack_features_adjoint(const ConvProblem<T>& p, int64_t s, T* to) {
    const T* phi = p.phi + s * p.phi_s;
    int64_t features = padded_features(p);
    A::pack(depth(p), p.Nu * features, as_words(to) + s * adjoint_size(p), [&](int64_t row, int64_t k) {
      int64_t v = row / p.grid.taps, u = k / features, h = k - u * features;
      return h < p.H ? phi[u * p.phi_u + v * p.phi_v + (row - v * p.grid.taps) * p.H + h] : T(0);
    });
  }
  static T head_at(const ConvProblem<T>& p, int64_t o, int64_t c, int64_t h) {
    return h < p.H ? p.weight[o * p.weight_o + c * p.weight_c + h] : T(0);
  }
  static void pack_head(const ConvProblem<T>& p, int64_t begin, int64_t end, T* to) {
    int64_t features = padded_features(p);
    A::pack(p.O, (end - begin) * features, as_words(to) + begin * head_size(p), [&](int64_t o, int64_t k) {
      return head_at(p, o, begin + k / features, k % features);
    });
  }
  static void pack_head_adjoint(const ConvProblem<T>& p, int64_t begin, int64_t end, T* to) {
    int64_t features = padded_features(p);
    A::pack_for_operand((end - begin) * features, p.O, as_words(to) + begin * head_adjoint_size(p),
                        [&](int64_t row, int64_t o) { return head_at(p, o, begin + row / features, row % features); });
  }

  // M[u][(c, h)] for the channels of a chunk from their X.
  static void moments(const ConvProblem<T>& p, const Word* features, const Word* x, int64_t c, int64_t chunk,
                      Panel<Word> M) {
    for (int64_t u = 0; u < p.Nu; ++u)
      A::multiply(depth(p), features + u * features_size(p), x, M.at((u * chunk + c) * padded_features(p) * kRow),
                  padded_features(p));
  }

  struct ForwardMemory {
    Plane* planes;
    Panel<Word> x, M;
    T* y;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t plane) {
      planes = A::take_planes(arena, p.C * p.Nv * plane + kSlack<T>);
      x = A::take_panel(arena, depth(p), true, true);
      M = A::take_panel(arena, p.Nu * chunk_channels(p, false) * padded_features(p), false, true);
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
    const ConvGrid& g = p.grid;
    auto window = static_cast<const typename A::Storage::Type*>(p.window);
    auto pixel = static_cast<typename A::Storage::Type*>(out);
    int64_t chunk = chunk_channels(p, false), pixels = g.pixels();
    for (int64_t b = task.b_begin; b < task.b_end; ++b) {
      const Word* features = as_words(packs.features) + (p.S == 1 ? 0 : b) * p.Nu * features_size(p);
      for (int64_t begin = task.pixel_begin; begin < task.pixel_end; begin += task.strip_pixels) {
        int64_t end = begin + task.strip_pixels < task.pixel_end ? begin + task.strip_pixels : task.pixel_end;
        auto strip = Strip<T>::of(g, begin, end);
        Arena<T> arena(workspace);
        ForwardMemory m(arena, p, strip.plane);
        for (int64_t i = 0; i < p.C * p.Nv; ++i)
          pad_plane<Plane, typename A::PlaneFrom>(g, strip, window + (b * p.C * p.Nv + i) * g.height * g.width,
                                                  m.planes + i * strip.plane);
        for (int64_t at = begin; at < end; at += kPanel<T>) {
          PanelLanes<T> lanes(g, strip, at);
          for (int64_t first = 0; first < p.C; first += chunk) {
            int64_t channels = p.C - first < chunk ? p.C - first : chunk;
            for (int64_t c = 0; c < channels; ++c) {
              A::gather_panel(g, lanes, m.planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv, m.x);
              moments(p, features, m.x.depth, c, channels, m.M);
            }
            const Word* head = as_words(packs.head) + first * head_size(p);
            int64_t rows = channels * padded_features(p);
            for (int64_t u = 0; u < p.Nu; ++u)
              multiply_packed<T, Word>({1, words(rows), head, 0, 0, m.M.depth + u * rows * kRow, 0, kPanel<T>,
                                        m.y + u * p.O * kPanel<T>, kPanel<T>, first > 0},
                                       p.O, kPanelVectors);
          }
          for (int64_t u = 0; u < p.Nu; ++u)
            A::store_rows(m.y + u * p.O * kPanel<T>, p.O, lanes.count,
                          pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels);
        }
      }
    }
  }

  static int64_t phi_lanes(const ConvProblem<T>& p) { return round_up<T>(depth(p)); }
  static int64_t head_lanes(const ConvProblem<T>& p) { return round_up<T>(p.O); }
  static int64_t head_blocks(const ConvProblem<T>& p) { return (p.O + kPanel<T> - 1) / kPanel<T>; }

  struct BackwardMemory {
    Plane* planes;
    T* grad_planes;
    Panel<Word> x, M, gM, g;
    Word *xt, *gt;
    T *column, *phi, *head;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t channels, int64_t plane) {
      int64_t chunk = chunk_channels(p, true), blocks = head_blocks(p), rows = p.Nu * chunk * padded_features(p);
      planes = A::take_planes(arena, channels * p.Nv * plane + kSlack<T>);
      grad_planes = arena.take(channels * p.Nv * plane + kSlack<T>);
      x = A::take_panel(arena, phi_lanes(p), true, true);
      xt = as_words(arena.take(chunk * kRow * phi_lanes(p)));
      M = A::take_panel(arena, rows, true, false);
      gM = A::take_panel(arena, rows, true, true);
      g = A::take_panel(arena, p.Nu * head_lanes(p), true, true);
      gt = as_words(arena.take(blocks * p.Nu * kRow * kPanel<T>));
      column = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      phi = arena.take(p.Nu * p.H * phi_lanes(p));
      head = arena.take(blocks * channels * padded_features(p) * kPanel<T>);
    }
  };

  static int64_t backward_workspace(const ConvProblem<T>& p, const ConvTask& task) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, p, task.c_end - task.c_begin,
                   Strip<T>::plane_size(p.grid, Strip<T>::most_rows(p.grid, task.strip_pixels)));
    return arena.used();
  }

  // From the pixel side (and the window side where the kernel's gradients are asked for): the window side's gradient
  // [B, C, Nv, height, width] from the task's first image and channel on, zeroed by the caller, and the sums of features and head.
  static void backward(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs, ConvNeeds needs,
                       T* workspace, ConvSums sums, T* grad_window) {
    const ConvGrid& g = p.grid;
    auto window = static_cast<const typename A::Storage::Type*>(p.window);
    auto pixel = static_cast<const typename A::Storage::Type*>(p.pixel);
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
            pad_plane<Plane, typename A::PlaneFrom>(g, strip, window + (first_plane + i) * plane_pixels,
                                                    m.planes + i * strip.plane);
        if (needs.window)
          __builtin_memset(m.grad_planes, 0, sizeof(T) * (channels * p.Nv * strip.plane + kSlack<T>));
        if (needs.phi) __builtin_memset(m.phi, 0, sizeof(T) * phi_size);
        if (needs.weight)
          __builtin_memset(m.head, 0, sizeof(T) * head_blocks(p) * channels * padded_features(p) * kPanel<T>);
        for (int64_t at = begin; at < end; at += kPanel<T>) {
          PanelLanes<T> lanes(g, strip, at);
          for (int64_t u = 0; u < p.Nu; ++u)
            A::load_rows(pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels, p.O, lanes.count,
                         m.g.at(u * head_lanes(p) * kRow));
          if (needs.weight) transpose_pixels(p, m);
          for (int64_t first = 0; first < channels; first += chunk_channels(p, true))
            backward_chunk(p, task, packs, needs, lanes, strip, s, first, m);
          // Sums over single panels: a running float sum over a batch would lose two digits.
          if (needs.phi) flush(m.phi, phi_size, sums.phi + (p.S == 1 ? 0 : b) * phi_size);
        }
        if (needs.weight) flush_head(p, task, m.head, sums.head);
        if (needs.window)
          for (int64_t i = 0; i < channels * p.Nv; ++i)
            add_unpadded(g, strip, m.grad_planes + i * strip.plane,
                         grad_window + ((b - task.b_begin) * image + i) * plane_pixels);
      }
    }
  }

  static void backward_chunk(const ConvProblem<T>& p, const ConvTask& task, const AggregatePacks<T>& packs,
                             ConvNeeds needs, const PanelLanes<T>& lanes, const Strip<T>& strip, int64_t s,
                             int64_t first, const BackwardMemory& m) {
    const ConvGrid& g = p.grid;
    int64_t channels = task.c_end - task.c_begin, chunk = chunk_channels(p, true);
    chunk = channels - first < chunk ? channels - first : chunk;
    int64_t features = padded_features(p), rows = chunk * features, lanes_of_phi = phi_lanes(p);
    for (int64_t c = 0; c < chunk && needs.kernel(); ++c) {
      A::gather_panel(g, lanes, m.planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv, m.x);
      if (needs.weight) moments(p, as_words(packs.features) + s * p.Nu * features_size(p), m.x.depth, c, chunk, m.M);
      if (needs.phi) transpose<Word>(m.x.rows, kRow, m.xt + c * kRow * lanes_of_phi, lanes_of_phi, lanes_of_phi, kRow);
    }
    if (needs.phi || needs.window) {
      const Word* head = as_words(packs.head_adjoint) + (task.c_begin + first) * head_adjoint_size(p);
      for (int64_t u = 0; u < p.Nu; ++u)
        A::multiply(p.O, head, m.g.depth + u * head_lanes(p) * kRow, m.gM.at(u * rows * kRow), rows);
    }
    if (needs.weight)
      for (int64_t n = 0; n < head_blocks(p); ++n) {
        int64_t rest = (head_lanes(p) - n * kPanel<T>) / kWidth<T>;
        multiply_panel_rows<T, Word>({p.Nu, kRow, m.M.rows, rows * kRow, 0, m.gt + n * p.Nu * kRow * kPanel<T>,
                                      kRow * kPanel<T>, kPanel<T>,
                                      m.head + (n * channels + first) * features * kPanel<T>, kPanel<T>, true},
                                     rows, int(rest < kPanelVectors ? rest : kPanelVectors));
      }
    if (needs.phi)
      for (int64_t u = 0; u < p.Nu; ++u)
        multiply_panel_rows<T, Word>({chunk, kRow, m.gM.rows + u * rows * kRow, features * kRow, 0, m.xt,
                                      kRow * lanes_of_phi, lanes_of_phi, m.phi + u * p.H * lanes_of_phi, lanes_of_phi,
                                      true},
                                     p.H, int(lanes_of_phi / kWidth<T>));
    if (needs.window)
      for (int64_t c = 0; c < chunk; ++c) {
        multiply_packed<T, Word>({p.Nu, words(features), as_words(packs.features_adjoint) + s * adjoint_size(p), 0, 0,
                                  m.gM.depth + c * features * kRow, rows * kRow, kPanel<T>, m.column, kPanel<T>, false},
                                 depth(p), kPanelVectors);
        scatter_add(g, lanes, m.column, m.grad_planes + (first + c) * p.Nv * strip.plane, strip.plane, p.Nv);
      }
  }

  // [block of o][u][words of pixels][kPanel of o] from [u][o][words of pixels].
  static void transpose_pixels(const ConvProblem<T>& p, const BackwardMemory& m) {
    constexpr int W = kWidth<T>;
    for (int64_t u = 0; u < p.Nu; ++u)
      for (int64_t o = 0; o < head_lanes(p); o += W) {
        Word* to = m.gt + (o / kPanel<T> * p.Nu + u) * kRow * kPanel<T> + o % kPanel<T>;
        transpose<Word>(m.g.rows + (u * head_lanes(p) + o) * kRow, kRow, to, kPanel<T>, W, kRow);
      }
  }

  static void flush(T* from, int64_t size, double* to) {
    for (int64_t i = 0; i < size; ++i) {
      to[i] += from[i];
      from[i] = 0;
    }
  }
  static void flush_head(const ConvProblem<T>& p, const ConvTask& task, const T* from, double* to) {
    int64_t channels = task.c_end - task.c_begin, lanes = head_lanes(p), features = padded_features(p);
    to += task.c_begin * p.H * lanes;
    for (int64_t n = 0; n < head_blocks(p); ++n)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t h = 0; h < p.H; ++h)
          for (int64_t o = n * kPanel<T>; o < lanes && o < (n + 1) * kPanel<T>; ++o)
            to[(c * p.H + h) * lanes + o] += from[((n * channels + c) * features + h) * kPanel<T> + o - n * kPanel<T>];
  }

  static void store(const T* from, int64_t count, void* to) {
    auto stored = static_cast<typename A::Storage::Type*>(to);
    for (int64_t i = 0; i < count; ++i) A::Storage::put(stored + i, from[i]);
  }

  static constexpr AggregateKernels<T> kernels = {
      chunk_channels, pack_sizes, pack_features, pack_features_adjoint, pack_head, pack_head_adjoint,
      forward_workspace, forward, backward_workspace, backward, store};
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
