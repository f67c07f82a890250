// Coordinates of the relative elements of pairs on a GPU, and the way back, for one group and number type. Laws and charts
// are those of the CPU (../common/semidirect.h), and so is the order of fields and coordinates: see params.h.
#pragma once

#include "../common/semidirect.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct PrepareElements {
  int orbit;
  int64_t count;
  const T* elements;  // [count, e + orbit]
  T* fields;          // [orbit + fields, count]
};

template <class G, class T>
PGCONV_KERNEL(256) prepare_elements(const PrepareElements<T> p) {
  for (int64_t n = block() * threads() + thread(); n < p.count; n += blocks() * threads()) {
    const T* element = p.elements + n * (G::element + p.orbit);
    T fields[G::fields];
    G::prepare(element, fields);
    for (int c = 0; c < p.orbit; ++c) p.fields[c * p.count + n] = element[G::element + c];
    for (int c = 0; c < G::fields; ++c) p.fields[(p.orbit + c) * p.count + n] = fields[c];
  }
}

// v and u as a relative element a^-1 b takes them: of a all fields are read, of b those of the element.
template <class G, class T>
struct RelativePair {
  T a[G::fields], b[G::fields];

  PGCONV_DEVICE RelativePair load(const Features<T>& e, int64_t v, int64_t u) {
    RelativePair pair;
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c) {
      T of_v = e.v_fields[(e.orbit + c) * e.v_count + v], of_u = e.u_fields[(e.orbit + c) * e.u_count + u];
      pair.a[c] = e.correlation ? of_u : of_v;
      pair.b[c] = e.correlation ? of_v : of_u;
    }
    return pair;
  }
};

template <class T>
struct RelativeCall {
  Features<T> elements;
  int own;           // coordinates of the relative element; those of the orbits of a and b come behind them
  T* coords;         // [S, Nu, Nv, own + 2 orbit], or their gradient
  const T* element;  // v or u, whichever gradient is wanted, as they were given
  T* grad;           // of those
};

template <class G, class T>
PGCONV_KERNEL(256) relative_coordinates(const RelativeCall<T> p) {
  const Features<T>& e = p.elements;
  int D = p.own + 2 * e.orbit;
  int64_t pairs = e.S * e.Nu * e.Nv;
  for (int64_t n = block() * threads() + thread(); n < pairs; n += blocks() * threads()) {
    int64_t row = n / e.Nv, s = row / e.Nu;
    int64_t v = s * e.v_batch + (n - row * e.Nv), u = s * e.u_batch + (row - s * e.Nu);
    auto pair = RelativePair<G, T>::load(e, v, u);
    T g[G::element], x[G::max_coords] = {};
    G::relative(pair.a, pair.b, g);
    G::coordinates(e.chart, e.part, g, x);
    T* to = p.coords + n * D;
    PGCONV_UNROLL
    for (int c = 0; c < G::max_coords; ++c)
      if (c < p.own) to[c] = x[c];
    for (int c = 0; c < e.orbit; ++c) {
      T of_v = e.v_fields[c * e.v_count + v], of_u = e.u_fields[c * e.u_count + u];
      to[p.own + c] = e.correlation ? of_u : of_v;
      to[p.own + e.orbit + c] = e.correlation ? of_v : of_u;
    }
  }
}

// Gradients of v (OfV) or u from that of the coordinates. A warp sums over all pairs of an element, in an order that the
// shape decides; summing pairs twice, once for v and once for u, spares a buffer of their gradients.
template <class G, class T, bool OfV>
PGCONV_KERNEL(256) relative_gradients(const RelativeCall<T> p) {
  const Features<T>& e = p.elements;
  int D = p.own + 2 * e.orbit;
  int64_t own_batch = OfV ? e.v_batch : e.u_batch, size = OfV ? e.Nv : e.Nu, partners = OfV ? e.Nu : e.Nv;
  int64_t count = OfV ? e.v_count : e.u_count, sets = own_batch ? 1 : e.S;
  for (int64_t n = block() * (threads() / kWarp) + warp(); n < count; n += blocks() * (threads() / kWarp)) {
    double sum[G::fields] = {}, orbit[kMaxOrbit] = {};
    for (int64_t k = lane(); k < sets * partners; k += kWarp) {
      int64_t s = own_batch ? n / size : k / partners, partner = k % partners;
      int64_t i = OfV ? partner : n % size, j = OfV ? n % size : partner;
      auto pair = RelativePair<G, T>::load(e, s * e.v_batch + j, s * e.u_batch + i);
      const T* gx = p.coords + ((s * e.Nu + i) * e.Nv + j) * D;
      T g[G::element], x[G::max_coords] = {}, gg[G::element] = {}, ga[G::fields] = {}, gb[G::fields] = {};
      PGCONV_UNROLL
      for (int c = 0; c < G::max_coords; ++c)
        if (c < p.own) x[c] = gx[c];
      G::relative(pair.a, pair.b, g);
      G::coordinates_backward(e.chart, e.part, g, x, gg);
      G::relative_backward(pair.a, pair.b, gg, ga, gb);
      bool first = OfV != e.correlation;  // whether it is a
      PGCONV_UNROLL
      for (int c = 0; c < G::fields; ++c) sum[c] += first ? ga[c] : gb[c];
      PGCONV_UNROLL
      for (int c = 0; c < kMaxOrbit; ++c)
        if (c < e.orbit) orbit[c] += gx[p.own + (first ? 0 : e.orbit) + c];
    }
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c) sum[c] = sum_of_lanes(sum[c]);
    PGCONV_UNROLL
    for (int c = 0; c < kMaxOrbit; ++c) orbit[c] = sum_of_lanes(orbit[c]);
    if (lane() > 0) continue;
    int64_t at = n * (G::element + e.orbit);
    double grad[G::element];
    G::prepare_backward(p.element + at, sum, grad);
    for (int c = 0; c < G::element; ++c) p.grad[at + c] = T(grad[c]);
    PGCONV_UNROLL
    for (int c = 0; c < kMaxOrbit; ++c)
      if (c < e.orbit) p.grad[at + G::element + c] = T(orbit[c]);
  }
}

// Gradients of elements from sums of those of their fields, [sets][parts][fields read][N]: a set for each set of elements, or
// several for one that is shared.
template <class T>
struct FinishElements {
  int orbit, fields;  // that are read
  int64_t sets, parts, N, shared;
  const T* sums;
  const T* elements;  // [sets / shared, N, e + orbit]
  T* grad;
};

template <class G, class T>
PGCONV_KERNEL(256) finish_elements(const FinishElements<T> p) {
  int64_t count = p.sets / p.shared * p.N;
  for (int64_t n = block() * threads() + thread(); n < count; n += blocks() * threads()) {
    int64_t set = n / p.N * p.shared, at = n * (G::element + p.orbit);
    auto total = [&](int c) {
      double sum = 0;
      for (int64_t k = set * p.parts; k < (set + p.shared) * p.parts; ++k) sum += p.sums[(k * p.fields + c) * p.N + n % p.N];
      return sum;
    };
    double fields[G::fields] = {}, grad[G::element];
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c)
      if (p.orbit + c < p.fields) fields[c] = total(p.orbit + c);
    G::prepare_backward(p.elements + at, fields, grad);
    for (int c = 0; c < G::element; ++c) p.grad[at + c] = T(grad[c]);
    for (int c = 0; c < p.orbit; ++c) p.grad[at + G::element + c] = T(total(c));
  }
}

// Kernels of a group; the host picks them by its number.
template <class T>
struct GroupKernels {
  void (*prepare)(PrepareElements<T>);
  void (*coordinates)(RelativeCall<T>);
  void (*gradients_v)(RelativeCall<T>);
  void (*gradients_u)(RelativeCall<T>);
  void (*finish)(FinishElements<T>);
};
template <class T>
GroupKernels<T> group_kernels(int group) {
  GroupKernels<T> found{};
  int index = 0;
  for_each_group([&](const char*, auto g) {
    using G = decltype(g);
    if (index++ == group)
      found = {prepare_elements<G, T>, relative_coordinates<G, T>, relative_gradients<G, T, true>,
               relative_gradients<G, T, false>, finish_elements<G, T>};
  });
  return found;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
