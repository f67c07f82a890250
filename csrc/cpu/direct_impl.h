// The direct order: kernel values K[c][(u, o)][(v, t)] = sum_h W[o, c, h] phi[u, v, t, h] on the taps of the support only,
// then Y[(u, o)] = sum_{c, v, t} K X. The values of one channel are built at a time; with features of its own for every
// image, as they are needed.
//
// Per pixel and image 2 C O Nu Nv T FLOPs; backward twice that where everything is asked for.
#pragma once

#include "arena.h"
#include "planes_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Direct {
  static int64_t depth(const ConvProblem<T>& p) { return p.Nv * p.grid.taps; }
  static int64_t rows(const ConvProblem<T>& p) { return p.Nu * p.O; }
  static int64_t phi_lanes(const ConvProblem<T>& p) { return round_up<T>(depth(p)); }
  static int64_t head_lanes(const ConvProblem<T>& p) { return round_up<T>(p.O); }
  static int64_t blocks(const ConvProblem<T>& p) { return (rows(p) + kPanel<T> - 1) / kPanel<T>; }
  // Packed values of one channel; repacking stores whole vectors, so the last one may run over.
  static int64_t values_size(const ConvProblem<T>& p) { return rows(p) * depth(p) + kSlack<T>; }
  // Sums of one channel's kernel gradient: [block of (u, o)][(v, t)][kPanel].
  static int64_t sums_size(const ConvProblem<T>& p) { return blocks(p) * depth(p) * kPanel<T>; }

  static T phi_at(const ConvProblem<T>& p, int64_t s, int64_t u, int64_t k, int64_t h) {
    int64_t v = k / p.grid.taps;
    return p.phi[s * p.phi_s + u * p.phi_u + v * p.phi_v + (k - v * p.grid.taps) * p.H + h];
  }
  static void pack_features(const ConvProblem<T>& p, int64_t s, T* rows_to, T* lanes_to) {
    int64_t K = depth(p), lanes = phi_lanes(p);
    for (int64_t u = 0; u < p.Nu; ++u) {
      int64_t at = s * p.Nu + u;
      pack_rows(K, p.H, rows_to + at * K * p.H, [&](int64_t k, int64_t h) { return phi_at(p, s, u, k, h); });
      T* to = lanes_to + at * p.H * lanes;
      for (int64_t k = 0; k < lanes; ++k)
        for (int64_t h = 0; h < p.H; ++h) to[h * lanes + k] = k < K ? phi_at(p, s, u, k, h) : T(0);
    }
  }
  static void pack_head(const ConvProblem<T>& p, int64_t c, T* rows_to, T* lanes_to) {
    const T* weight = p.weight + c * p.weight_c;
    pack_rows(p.O, p.H, rows_to + c * p.O * p.H, [&](int64_t o, int64_t h) { return weight[o * p.weight_o + h]; });
    int64_t lanes = head_lanes(p);
    T* to = lanes_to + c * p.H * lanes;
    for (int64_t h = 0; h < p.H; ++h)
      for (int64_t o = 0; o < lanes; ++o) to[h * lanes + o] = o < p.O ? weight[o * p.weight_o + h] : T(0);
  }

  // Rows of `from` [depth][row_stride], count of them in the lanes, packed for multiply_packed; the depth in the order given,
  // or as it stands. Whole vectors are stored; what runs over is overwritten by the next one. Returns the end.
  static T* repack(const T* from, int64_t row_stride, int64_t count, int64_t depth, const int64_t* order, T* to) {
    using V = Native<T>;
    constexpr int W = kWidth<T>;
    RowBlocks blocks(count, kPackedRows);
    for (int b = 0; b < blocks.count; ++b) {
      int height = blocks.height(b);
      const T* column = from + blocks.start(b);
      T* block = to + blocks.start(b) * depth;
      for (int64_t k = 0; k < depth; ++k) {
        const T* row = column + (order ? order[k] : k) * row_stride;
        for (int l = 0; l < height; l += W) store<V>(block + k * height + l, load<V>(row + l));
        keep_store_order();
      }
    }
    return to + count * depth;
  }
  // Scratch of build_values and build_adjoint, whose lanes run over likewise.
  static int64_t build_size(const ConvProblem<T>& p) {
    int64_t straight = depth(p) * (rows(p) + kSlack<T>), adjoint = rows(p) * (phi_lanes(p) + kSlack<T>);
    return straight > adjoint ? straight : adjoint;
  }
  // Kernel values [(v, t)][(u, o)] of one channel, rows unpacked_row apart.
  static int64_t unpacked_row(const ConvProblem<T>& p) { return rows(p) + kSlack<T>; }
  static void unpacked_values(const ConvProblem<T>& p, const DirectPacks<T>& packs, int64_t s, int64_t c, T* to) {
    int64_t K = depth(p), lanes = head_lanes(p);
    for (int64_t u = 0; u < p.Nu; ++u)
      multiply_packed<T>({1, p.H, packs.phi_rows + (s * p.Nu + u) * K * p.H, 0, 0, packs.head_lanes + c * p.H * lanes, 0,
                          lanes, to + u * p.O, unpacked_row(p), false},
                         K, int(lanes / kWidth<T>));
  }
  static void build_values(const ConvProblem<T>& p, const DirectPacks<T>& packs, int64_t s, int64_t c, T* scratch,
                           T* to) {
    unpacked_values(p, packs, s, c, scratch);
    repack(scratch, unpacked_row(p), rows(p), depth(p), nullptr, to);
  }
  static void build_adjoint(const ConvProblem<T>& p, const DirectPacks<T>& packs, int64_t s, int64_t c, T* scratch,
                            T* to) {
    int64_t lanes = phi_lanes(p), stride = lanes + kSlack<T>;
    for (int64_t u = 0; u < p.Nu; ++u)
      multiply_packed<T>({1, p.H, packs.head_rows + c * p.O * p.H, 0, 0, packs.phi_lanes + (s * p.Nu + u) * p.H * lanes, 0,
                          lanes, scratch + u * p.O * stride, stride, false},
                         p.O, int(lanes / kWidth<T>));
    repack(scratch, stride, depth(p), rows(p), nullptr, to);
  }

  struct ForwardMemory {
    T *planes, *x, *y, *values, *scratch;
    ForwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t strip_pixels, int64_t plane) {
      planes = arena.take(p.Nv * plane + kSlack<T>);
      x = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      y = arena.take((strip_pixels + kPanel<T> - 1) / kPanel<T> * rows(p) * kPanel<T>);
      values = arena.take(p.S == 1 ? 0 : values_size(p));
      scratch = arena.take(p.S == 1 ? 0 : build_size(p));
    }
  };
  static int64_t forward_workspace(const ConvProblem<T>& p, const ConvTask& task) {
    Arena<T> arena(nullptr);
    ForwardMemory(arena, p, task.strip_pixels,
                  Strip<T>::plane_size(p.grid, Strip<T>::most_rows(p.grid, task.strip_pixels)));
    return arena.used();
  }

  // The pixel side from the window side.
  static void forward(const ConvProblem<T>& p, const ConvTask& task, const DirectPacks<T>& packs, T* workspace,
                      void* out) {
    with_storage<T>(p.storage, [&](auto storage) { forward_as<decltype(storage)>(p, task, packs, workspace, out); });
  }

  template <class Store>
  static void forward_as(const ConvProblem<T>& p, const ConvTask& task, const DirectPacks<T>& packs, T* workspace,
                         void* out) {
    const ConvGrid& g = p.grid;
    auto window = static_cast<const typename Store::Type*>(p.window);
    auto pixel = static_cast<typename Store::Type*>(out);
    int64_t pixels = g.pixels(), R = rows(p);
    auto put = exceeds_caches<Store>(p.B * R * pixels) ? stream_panel<T, Store> : store_panel<T, Store>;
    for (int64_t b = task.b_begin; b < task.b_end; ++b)
      for (int64_t begin = task.pixel_begin; begin < task.pixel_end; begin += task.strip_pixels) {
        int64_t end = begin + task.strip_pixels < task.pixel_end ? begin + task.strip_pixels : task.pixel_end;
        auto strip = Strip<T>::of(g, begin, end);
        Arena<T> arena(workspace);
        ForwardMemory m(arena, p, end - begin, strip.plane);
        for (int64_t c = 0; c < p.C; ++c) {
          for (int64_t v = 0; v < p.Nv; ++v)
            pad_plane<T, Store>(g, strip, window + ((b * p.C + c) * p.Nv + v) * g.height * g.width,
                                m.planes + v * strip.plane);
          const T* values = packs.values + c * values_size(p);
          if (p.S > 1) {
            build_values(p, packs, b, c, m.scratch, m.values);
            values = m.values;
          }
          T* y = m.y;
          for (int64_t at = begin; at < end; at += kPanel<T>, y += R * kPanel<T>) {
            gather(g, PanelLanes<T>(g, strip, at), m.planes, strip.plane, p.Nv, m.x);
            multiply_packed<T>({1, depth(p), values, 0, 0, m.x, 0, kPanel<T>, y, kPanel<T>, c > 0}, R, kPanelVectors);
          }
        }
        const T* y = m.y;
        for (int64_t at = begin; at < end; at += kPanel<T>, y += R * kPanel<T>) {
          int count = int(end - at < kPanel<T> ? end - at : kPanel<T>);
          for (int64_t u = 0; u < p.Nu; ++u)
            put(y + u * p.O * kPanel<T>, p.O, count, pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels);
        }
      }
    finish_streams();
  }

  struct BackwardMemory {
    T *planes, *grad_planes, *x, *g, *gt, *column, *values, *scratch, *part;
    BackwardMemory(Arena<T>& arena, const ConvProblem<T>& p, int64_t strip_pixels, int64_t plane) {
      int64_t panels = (strip_pixels + kPanel<T> - 1) / kPanel<T>, rounded = blocks(p) * kPanel<T>;
      planes = arena.take(p.Nv * plane + kSlack<T>);
      grad_planes = arena.take(p.Nv * plane + kSlack<T>);
      x = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      g = arena.take(panels * rounded * kPanel<T>);
      gt = arena.take(panels * rounded * kPanel<T>);
      column = arena.take(depth(p) * kPanel<T> + kSlack<T>);
      values = arena.take(p.S == 1 ? 0 : values_size(p));
      scratch = arena.take(p.S == 1 ? 0 : build_size(p));
      part = arena.take(sums_size(p));
    }
  };
  static int64_t backward_workspace(const ConvProblem<T>& p, const ConvTask& task) {
    Arena<T> arena(nullptr);
    BackwardMemory(arena, p, task.strip_pixels,
                   Strip<T>::plane_size(p.grid, Strip<T>::most_rows(p.grid, task.strip_pixels)));
    return arena.used();
  }

  // The window side's gradient for the task's channels, and the sums [C] of the kernel's gradient of those channels; both
  // zeroed by the caller.
  static void backward(const ConvProblem<T>& p, const ConvTask& task, const DirectPacks<T>& packs, ConvNeeds needs,
                       T* workspace, T* sums, T* grad_window) {
    with_storage<T>(p.storage, [&](auto storage) {
      backward_as<decltype(storage)>(p, task, packs, needs, workspace, sums, grad_window);
    });
  }

  template <class Store>
  static void backward_as(const ConvProblem<T>& p, const ConvTask& task, const DirectPacks<T>& packs, ConvNeeds needs,
                          T* workspace, T* sums, T* grad_window) {
    const ConvGrid& g = p.grid;
    for (int64_t b = task.b_begin; b < task.b_end; ++b)
      for (int64_t begin = task.pixel_begin; begin < task.pixel_end; begin += task.strip_pixels) {
        int64_t end = begin + task.strip_pixels < task.pixel_end ? begin + task.strip_pixels : task.pixel_end;
        auto strip = Strip<T>::of(g, begin, end);
        Arena<T> arena(workspace);
        BackwardMemory m(arena, p, end - begin, strip.plane);
        load_pixels<Store>(p, b, begin, end, needs.kernel(), m);
        for (int64_t c = task.c_begin; c < task.c_end; ++c) {
          int64_t first_plane = (b * p.C + c) * p.Nv;
          if (needs.window) {
            const T* values = packs.adjoint + c * values_size(p);
            if (p.S > 1) {
              build_adjoint(p, packs, b, c, m.scratch, m.values);
              values = m.values;
            }
            __builtin_memset(m.grad_planes, 0, sizeof(T) * (p.Nv * strip.plane + kSlack<T>));
            window_gradient(p, strip, values, m);
            for (int64_t v = 0; v < p.Nv; ++v)
              add_unpadded(g, strip, m.grad_planes + v * strip.plane, grad_window + (first_plane + v) * g.height * g.width);
          }
          if (needs.kernel()) {
            for (int64_t v = 0; v < p.Nv; ++v)
              pad_plane<T, Store>(g, strip,
                                  static_cast<const typename Store::Type*>(p.window) + (first_plane + v) * g.height * g.width,
                                  m.planes + v * strip.plane);
            kernel_gradient(p, strip, m);
            T* to = sums + c * sums_size(p);
            for (int64_t i = 0; i < sums_size(p); ++i) to[i] += m.part[i];
          }
        }
      }
  }

  // All panels of a strip, [panel][(u, o)][pixel], and transposed, [panel][block of (u, o)][pixel][kPanel].
  template <class Store>
  static void load_pixels(const ConvProblem<T>& p, int64_t b, int64_t begin, int64_t end, bool transposed,
                          const BackwardMemory& m) {
    int64_t pixels = p.grid.pixels(), rounded = blocks(p) * kPanel<T>, panel = 0;
    auto pixel = static_cast<const typename Store::Type*>(p.pixel);
    for (int64_t at = begin; at < end; at += kPanel<T>, ++panel) {
      T* to = m.g + panel * rounded * kPanel<T>;
      int count = int(end - at < kPanel<T> ? end - at : kPanel<T>);
      for (int64_t u = 0; u < p.Nu; ++u)
        load_panel<T, Store>(pixel + (b * p.O * p.Nu + u) * pixels + at, p.Nu * pixels, p.O, count,
                             to + u * p.O * kPanel<T>);
      __builtin_memset(to + rows(p) * kPanel<T>, 0, sizeof(T) * (rounded - rows(p)) * kPanel<T>);
      for (int64_t n = 0; transposed && n < blocks(p); ++n)
        transpose(to + n * kPanel<T> * kPanel<T>, kPanel<T>,
                  m.gt + (panel * blocks(p) + n) * kPanel<T> * kPanel<T>, kPanel<T>, kPanel<T>, kPanel<T>);
    }
  }

  static void window_gradient(const ConvProblem<T>& p, const Strip<T>& strip, const T* adjoint, const BackwardMemory& m) {
    int64_t panel = 0;
    for (int64_t at = 0; at < strip.pixels; at += kPanel<T>, ++panel) {
      multiply_packed<T>({1, rows(p), adjoint, 0, 0, m.g + panel * blocks(p) * kPanel<T> * kPanel<T>, 0, kPanel<T>,
                          m.column, kPanel<T>, false},
                         depth(p), kPanelVectors);
      scatter_add(p.grid, PanelLanes<T>(p.grid, strip, strip.first_pixel + at), m.column, m.grad_planes, strip.plane,
                  p.Nv);
    }
  }

  static void kernel_gradient(const ConvProblem<T>& p, const Strip<T>& strip, const BackwardMemory& m) {
    int64_t panel = 0, square = kPanel<T> * kPanel<T>;
    for (int64_t at = 0; at < strip.pixels; at += kPanel<T>, ++panel) {
      gather(p.grid, PanelLanes<T>(p.grid, strip, strip.first_pixel + at), m.planes, strip.plane, p.Nv, m.x);
      for (int64_t n = 0; n < blocks(p); ++n)
        multiply_panel_rows<T>({1, kPanel<T>, m.x, 0, 0, m.gt + (panel * blocks(p) + n) * square, 0, kPanel<T>,
                                m.part + n * depth(p) * kPanel<T>, kPanel<T>, at > 0},
                               depth(p), kPanelVectors);
    }
  }

  struct ContractMemory {
    T *straight, *transposed, *phi, *head;
    ContractMemory(Arena<T>& arena, const ConvProblem<T>& p) {
      int64_t lanes = straight_row(p);
      straight = arena.take((phi_lanes(p) + kWidth<T>) * lanes);
      transposed = arena.take(lanes * (phi_lanes(p) + kSlack<T>));
      phi = arena.take(p.Nu * p.H * phi_lanes(p));
      head = arena.take(p.H * head_lanes(p));
    }
  };
  static int64_t contract_workspace(const ConvProblem<T>& p) {
    Arena<T> arena(nullptr);
    ContractMemory(arena, p);
    return arena.used();
  }

  // Distance of rows (v, t) in ContractMemory::straight; (u, o) in the lanes.
  static int64_t straight_row(const ConvProblem<T>& p) { return round_up<T>(rows(p)) + kSlack<T>; }

  // From the kernel's gradient of one channel and set to the sums of features and head:
  // gphi[u, v, t, h] += sum_o W[o, c, h] gK, gW[o, c, h] += sum_{u, v, t} phi[u, v, t, h] gK.
  static void contract(const ConvProblem<T>& p, int64_t s, int64_t c, ConvNeeds needs, const T* kernel_sums,
                       T* workspace, ConvSums sums) {
    Arena<T> arena(workspace);
    ContractMemory m(arena, p);
    int64_t K = depth(p), stride = straight_row(p);
    for (int64_t n = 0; n < blocks(p); ++n)
      for (int64_t k = 0; k < K; ++k)
        __builtin_memcpy(m.straight + k * stride + n * kPanel<T>, kernel_sums + (n * K + k) * kPanel<T>,
                         sizeof(T) * kPanel<T>);
    contract_straight(p, s, c, needs, m, sums);
  }

  static void contract_straight(const ConvProblem<T>& p, int64_t s, int64_t c, ConvNeeds needs, const ContractMemory& m,
                                ConvSums sums) {
    int64_t R = rows(p), stride = straight_row(p), lanes = phi_lanes(p), o_lanes = head_lanes(p);
    if (needs.weight) {
      for (int64_t u = 0; u < p.Nu; ++u)
        multiply_columns<T>({p.Nv, p.grid.taps, p.phi + s * p.phi_s + u * p.phi_u, p.phi_v, p.H, m.straight + u * p.O,
                             p.grid.taps * stride, stride, m.head, o_lanes, u > 0},
                            p.H, int(o_lanes / kWidth<T>));
      double* to = sums.head + c * p.H * o_lanes;
      for (int64_t i = 0; i < p.H * o_lanes; ++i) to[i] += m.head[i];
    }
    if (needs.phi) {
      int64_t t_stride = lanes + kSlack<T>;
      transpose(m.straight, stride, m.transposed, t_stride, lanes, round_up<T>(R));
      for (int64_t u = 0; u < p.Nu; ++u)
        multiply_columns<T>({1, p.O, p.weight + c * p.weight_c, 0, p.weight_o, m.transposed + u * p.O * t_stride, 0,
                             t_stride, m.phi + u * p.H * lanes, lanes, false},
                            p.H, int(lanes / kWidth<T>));
      for (int64_t i = 0; i < p.Nu * p.H * lanes; ++i) sums.phi[i] += m.phi[i];
    }
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
