// Pairs of a point convolution in tiles of kTile, whatever the output they belong to, so that short neighbourhoods waste no
// lanes: enumeration, elements and signal of a tile, and the way back of their gradients.
#pragma once

#include "../common/point_params.h"
#include "arena.h"
#include "features_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

// Pairs start .. start + length - 1 of a tile: output i with the inputs whose numbers begin at `first`, which counts
// inputs, or places in the list of their numbers.
struct Run {
  int start, length;
  int64_t i, first;
};

struct PairTile {
  int count = 0, runs = 0;
  Run run[kTile];
};

template <class T>
struct Pairs {
  // Calls f(tile) for all pairs of outputs [begin, end) of a set; without neighbourhoods, with inputs [from, to).
  template <class F>
  PGCONV_INLINE void for_each_tile(const PointProblem<T>& p, int64_t s, int64_t begin, int64_t end, int64_t from,
                                   int64_t to, F&& f) {
    const Neighborhoods& n = p.pairs;
    PairTile tile;
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = from, left = to - from;
      if (n.rowptr) {
        const int64_t* row = n.rowptr + s * n.batch + i;
        first = n.index ? row[0] : n.first[s * n.batch + i];
        left = row[1] - row[0];
      }
      while (left > 0) {
        int length = int(left < kTile - tile.count ? left : kTile - tile.count);
        tile.run[tile.runs++] = {tile.count, length, i, first};
        tile.count += length;
        first += length;
        left -= length;
        if (tile.count == kTile) {
          f(tile);
          tile.count = tile.runs = 0;
        }
      }
    }
    if (tile.count > 0) f(tile);
  }

  // Calls f(pair in the tile, input) for the pairs of a run.
  template <class F>
  PGCONV_INLINE void for_each_input(const PointProblem<T>& p, const Run& run, F&& f) {
    const int64_t* index = p.pairs.index;
    if (index)
      for (int k = 0; k < run.length; ++k) f(run.start + k, index[run.first + k]);
    else
      for (int k = 0; k < run.length; ++k) f(run.start + k, run.first + k);
  }

  struct Elements {
    Relative<T> relative;
    T *v, *u, *gv, *gu;  // [field][kTile]

    Elements(const PointProblem<T>& p, T* memory)
        : relative(p.elements, p.net.coord_dim),
          v(memory),
          u(v + kMaxFields * kTile),
          gv(u + kMaxFields * kTile),
          gu(gv + kMaxFields * kTile) {}

    // Coordinates [D][kTile] of a tile's relative elements. Lanes past its end repeat a pair: their values are never
    // used, but must not be NaN where the others are not.
    void coordinates(const PointProblem<T>& p, int64_t s, const PairTile& tile, T* x) const {
      const Features<T>& e = p.elements;
      const T *from_v = e.v_fields + s * e.v_batch, *from_u = e.u_fields + s * e.u_batch;
      const int v_fields = relative.v_fields, u_fields = relative.u_fields;
      for (int k = 0; k < tile.runs; ++k) {
        const Run& run = tile.run[k];
        for (int c = 0; c < v_fields; ++c) {
          const T* from = from_v + c * e.v_count;
          T* to = v + c * kTile;
          for_each_input(p, run, [&](int r, int64_t j) { to[r] = from[j]; });
        }
        for (int c = 0; c < u_fields; ++c) {
          T value = from_u[c * e.u_count + run.i];
          for (int r = 0; r < run.length; ++r) u[c * kTile + run.start + r] = value;
        }
      }
      for (int r = tile.count; r < kTile; ++r) {
        for (int c = 0; c < v_fields; ++c) v[c * kTile + r] = v[c * kTile];
        for (int c = 0; c < u_fields; ++c) u[c * kTile + r] = u[c * kTile];
      }
      relative.coordinates(v, u, x);
    }

    // Adds the gradients of the elements' fields from that of the coordinates; after coordinates() of the same tile.
    void coordinates_backward(const PointProblem<T>& p, int64_t s, const PairTile& tile, const T* gx, double* grad_v,
                              double* grad_u) const {
      const Features<T>& e = p.elements;
      const int v_fields = relative.v_fields, u_fields = relative.u_fields;
      relative.backward(v, u, gx, gv, gu);
      grad_v += s * e.v_batch;
      grad_u += s * e.u_batch;
      for (int k = 0; k < tile.runs; ++k) {
        const Run& run = tile.run[k];
        for (int c = 0; c < v_fields; ++c) {
          const T* from = gv + c * kTile;
          double* to = grad_v + c * e.v_count;
          for_each_input(p, run, [&](int r, int64_t j) { to[j] += from[r]; });
        }
        for (int c = 0; c < u_fields; ++c) {
          double sum = 0;
          for (int r = 0; r < run.length; ++r) sum += gu[c * kTile + run.start + r];
          grad_u[c * e.u_count + run.i] += sum;
        }
      }
    }
  };

  // The signal of a tile: in place where its inputs are consecutive, else copied, [image][kTile][C].
  struct Signal {
    const T* f;
    int64_t image, row;  // distances of images and of a run's first pair
    bool copied;

    Signal(const PointProblem<T>& p, int64_t s, const PairTile& tile, T* memory) : copied(p.pairs.index != nullptr) {
      int64_t nv = p.elements.Nv, images = p.images();
      f = p.f + s * images * nv * p.C;
      image = nv * p.C;
      if (!copied) return;
      for (int64_t b = 0; b < images; ++b)
        for (int k = 0; k < tile.runs; ++k)
          for_each_input(p, tile.run[k], [&](int r, int64_t j) {
            __builtin_memcpy(memory + (b * kTile + r) * p.C, f + b * image + j * p.C, sizeof(T) * p.C);
          });
      f = memory;
      image = kTile * p.C;
    }
    const T* of(const PointProblem<T>& p, const Run& run, int64_t b) const {
      return f + b * image + (copied ? run.start : run.first) * p.C;
    }
  };
  static int64_t signal_size(const PointProblem<T>& p) { return p.pairs.index ? p.images() * kTile * p.C : 0; }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
