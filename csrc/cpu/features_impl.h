// Features of all pairs (s, i, j): relative elements and their coordinates on tiles of kTile consecutive flattened
// pairs, whatever the row they are in, so that short rows waste no lanes. Cosines, sines and matrices were computed
// once per element; a tile copies its elements' fields next to each other and works on whole vectors.
#pragma once

#include "../common/semidirect.h"
#include "kernel_net_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

// Coordinates of one tile; fields and coordinates are [.][kTile].
template <class T>
struct GroupKernels {
  int fields, element;
  // Elements [n][element + orbit], fields [orbit + fields][n].
  void (*prepare)(int orbit, const T* elements, int64_t n, T* fields);
  void (*prepare_backward)(int orbit, const T* elements, const double* grad_fields, int64_t n, T* grad_elements);
  void (*coordinates)(int chart, int part, int D, const T* a, const T* b, T* x);
  void (*coordinates_backward)(int chart, int part, int D, const T* a, const T* b, const T* gx, T* ga, T* gb);
};

template <class G, class T>
struct GroupTile {
  using V = Native<T>;
  static constexpr int W = Traits<V>::width;

  static void prepare(int orbit, const T* elements, int64_t n, T* fields) {
    T* own = fields + orbit * n;
    for (int64_t k = 0; k < n; ++k) {
      const T* element = elements + k * (G::element + orbit);
      T f[G::fields];
      G::prepare(element, f);
      for (int c = 0; c < orbit; ++c) fields[c * n + k] = element[G::element + c];
      for (int c = 0; c < G::fields; ++c) own[c * n + k] = f[c];
    }
  }

  static void prepare_backward(int orbit, const T* elements, const double* grad_fields, int64_t n, T* grad_elements) {
    const double* own = grad_fields + orbit * n;
    for (int64_t k = 0; k < n; ++k) {
      int64_t at = k * (G::element + orbit);
      double gf[G::fields], g[G::element];
      for (int c = 0; c < G::fields; ++c) gf[c] = own[c * n + k];
      G::prepare_backward(elements + at, gf, g);
      for (int c = 0; c < G::element; ++c) grad_elements[at + c] = T(g[c]);
      for (int c = 0; c < orbit; ++c) grad_elements[at + G::element + c] = T(grad_fields[c * n + k]);
    }
  }

  PGCONV_INLINE void relative(const T* a, const T* b, int r, V* va, V* vb, V* g) {
    for (int c = 0; c < G::fields; ++c) va[c] = load<V>(a + c * kTile + r);
    for (int c = 0; c < G::element; ++c) vb[c] = load<V>(b + c * kTile + r);
    G::relative(va, vb, g);
  }

  static void coordinates(int chart, int part, int D, const T* a, const T* b, T* x) {
    for (int r = 0; r < kTile; r += W) {
      V va[G::fields], vb[G::element], g[G::element], vx[G::max_coords] = {};
      relative(a, b, r, va, vb, g);
      G::coordinates(chart, part, g, vx);
      for (int c = 0; c < D; ++c) store<V>(x + c * kTile + r, vx[c]);
    }
  }

  static void coordinates_backward(int chart, int part, int D, const T* a, const T* b, const T* gx, T* ga, T* gb) {
    for (int r = 0; r < kTile; r += W) {
      V va[G::fields], vb[G::element], g[G::element], vx[G::max_coords] = {};
      V gg[G::element] = {}, gva[G::fields] = {}, gvb[G::element] = {};
      relative(a, b, r, va, vb, g);
      for (int c = 0; c < D; ++c) vx[c] = load<V>(gx + c * kTile + r);
      G::coordinates_backward(chart, part, g, vx, gg);
      G::relative_backward(va, vb, gg, gva, gvb);
      for (int c = 0; c < G::fields; ++c) store<V>(ga + c * kTile + r, gva[c]);
      for (int c = 0; c < G::element; ++c) store<V>(gb + c * kTile + r, gvb[c]);
    }
  }

  static constexpr GroupKernels<T> kernels = {G::fields, G::element, prepare, prepare_backward,
                                              coordinates, coordinates_backward};
};

template <class T>
GroupKernels<T> group_kernels(int group) {
  GroupKernels<T> found{};
  int index = 0;
  for_each_group([&](const char*, auto g) {
    if (index++ == group) found = GroupTile<decltype(g), T>::kernels;
  });
  return found;
}

// Coordinates of the pairs of a tile, whose fields lie in v and u [field][kTile]: those of the relative element a^-1 b, then
// the orbit coordinates of a and of b.
template <class T>
struct Relative {
  GroupKernels<T> group;
  int chart, part, orbit, own;
  bool swap;
  int v_fields, u_fields;  // that are read: of a all, of b those of the element

  Relative(const Features<T>& e, int coord_dim)
      : group(group_kernels<T>(e.group)),
        chart(e.chart),
        part(e.part),
        orbit(e.orbit),
        own(coord_dim - 2 * e.orbit),
        swap(e.correlation),
        v_fields(orbit + (swap ? group.element : group.fields)),
        u_fields(orbit + (swap ? group.fields : group.element)) {}

  void coordinates(const T* v, const T* u, T* x) const {
    const T *a = swap ? u : v, *b = swap ? v : u;
    int size = orbit * kTile;
    group.coordinates(chart, part, own, a + size, b + size, x);
    __builtin_memcpy(x + own * kTile, a, sizeof(T) * size);
    __builtin_memcpy(x + own * kTile + size, b, sizeof(T) * size);
  }

  // Of the fields read, from that of the coordinates.
  void backward(const T* v, const T* u, const T* gx, T* gv, T* gu) const {
    const T *a = swap ? u : v, *b = swap ? v : u;
    T *ga = swap ? gu : gv, *gb = swap ? gv : gu;
    int size = orbit * kTile;
    group.coordinates_backward(chart, part, own, a + size, b + size, gx, ga + size, gb + size);
    __builtin_memcpy(ga, gx + own * kTile, sizeof(T) * size);
    __builtin_memcpy(gb, gx + own * kTile + size, sizeof(T) * size);
  }
};

template <class T>
struct PairFeatures {
  // Calls f(r, length, v, u) for the rows of pairs in a tile: pairs r .. r + length - 1 are element u with elements
  // v, v + 1, ...
  template <class F>
  PGCONV_INLINE void for_each_run(const Features<T>& problem, int64_t pair, int count, F&& f) {
    int64_t row = pair / problem.Nv, j = pair - row * problem.Nv;
    int64_t s = row / problem.Nu, i = row - s * problem.Nu;
    for (int r = 0; r < count;) {
      int length = int(problem.Nv - j < count - r ? problem.Nv - j : count - r);
      f(r, length, s * problem.v_batch + j, s * problem.u_batch + i);
      r += length;
      j = 0;
      if (++i == problem.Nu) {
        i = 0;
        ++s;
      }
    }
  }

  static void gather(const Features<T>& problem, int v_fields, int u_fields, int64_t pair, int count, T* v, T* u) {
    for_each_run(problem, pair, count, [&](int r, int length, int64_t v_index, int64_t u_index) {
      for (int c = 0; c < v_fields; ++c) {
        const T* from = problem.v_fields + c * problem.v_count + v_index;
        for (int k = 0; k < length; ++k) v[c * kTile + r + k] = from[k];
      }
      for (int c = 0; c < u_fields; ++c) {
        T value = problem.u_fields[c * problem.u_count + u_index];
        for (int k = 0; k < length; ++k) u[c * kTile + r + k] = value;
      }
    });
    // Lanes past the end repeat a pair: their values are never used, but must not be NaN where the others are not.
    for (int c = 0; c < v_fields; ++c)
      for (int k = count; k < kTile; ++k) v[c * kTile + k] = v[c * kTile];
    for (int c = 0; c < u_fields; ++c)
      for (int k = count; k < kTile; ++k) u[c * kTile + k] = u[c * kTile];
  }

  static void scatter(const Features<T>& problem, int v_fields, int u_fields, int64_t pair, int count, const T* gv,
                      const T* gu, double* grad_v, double* grad_u) {
    for_each_run(problem, pair, count, [&](int r, int length, int64_t v_index, int64_t u_index) {
      for (int c = 0; c < v_fields; ++c) {
        double* to = grad_v + c * problem.v_count + v_index;
        for (int k = 0; k < length; ++k) to[k] += gv[c * kTile + r + k];
      }
      for (int c = 0; c < u_fields; ++c) {
        double sum = 0;
        for (int k = 0; k < length; ++k) sum += gu[c * kTile + r + k];
        grad_u[c * problem.u_count + u_index] += sum;
      }
    });
  }

  static void forward(const Features<T>& problem, const NetShape& shape, const T* packed, int64_t begin, int64_t end,
                      T* memory, T* out) {
    auto layout = NetLayout<T>::of(shape);
    auto ws = Net<T>::Workspace::of(layout, memory);
    auto how = Net<T>::evaluate_for(shape.activation);
    Relative<T> relative(problem, shape.coord_dim);
    T *v = ws.pairs, *u = v + kMaxFields * kTile;
    for (int64_t p = begin; p < end; p += kTile) {
      int count = int(end - p < kTile ? end - p : kTile);
      gather(problem, relative.v_fields, relative.u_fields, p, count, v, u);
      relative.coordinates(v, u, ws.x);
      Net<T>::evaluate_to(how, layout, packed, ws.x, count, ws.buffers, out + p * shape.hidden);
    }
  }

  static void backward(const Features<T>& problem, const NetShape& shape, const T* packed, const T* grad,
                       int64_t begin, int64_t end, T* memory, double* totals, double* grad_v, double* grad_u) {
    auto layout = NetLayout<T>::of(shape);
    auto ws = Net<T>::Workspace::of(layout, memory);
    auto record = Net<T>::record_for(shape.activation);
    Relative<T> relative(problem, shape.coord_dim);
    T *v = ws.pairs, *u = v + kMaxFields * kTile, *gv = u + kMaxFields * kTile, *gu = gv + kMaxFields * kTile;
    __builtin_memset(ws.sums, 0, sizeof(T) * layout.totals_size());
    int pending = 0;
    for (int64_t p = begin; p < end; p += kTile) {
      int count = int(end - p < kTile ? end - p : kTile);
      gather(problem, relative.v_fields, relative.u_fields, p, count, v, u);
      relative.coordinates(v, u, ws.x);
      record(layout, packed, ws.x, ws.buffers);
      Net<T>::load_gradient(layout, grad + p * shape.hidden, count, ws.buffers);
      Net<T>::reverse(layout, packed, ws.x, ws.buffers, ws.sums, ws.gx);
      relative.backward(v, u, ws.gx, gv, gu);
      scatter(problem, relative.v_fields, relative.u_fields, p, count, gv, gu, grad_v, grad_u);
      if (++pending == kFlushTiles) {
        Net<T>::flush(layout, ws.sums, totals);
        pending = 0;
      }
    }
    Net<T>::flush(layout, ws.sums, totals);
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
