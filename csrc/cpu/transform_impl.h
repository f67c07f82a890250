// Discrete Fourier transforms of planes as small dense matrix products: any size, any stride, any padding - they are only
// in the tables. Of a real plane half the frequencies are kept, kx in [0, size_x) and ky in [0, size_y / 2], numbered
// kx (size_y / 2 + 1) + ky and held in chunks of one vector.
#pragma once

#include "arena.h"
#include "lane_gemm.h"
#include "planes_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Transforms {
  // Planes transformed together, so that a chunk receives or gives them in one run.
  static constexpr int kGroup = 8;

  static int64_t half(const Spectrum& s) { return s.size_y / 2 + 1; }
  static int64_t half_lanes(const Spectrum& s) { return round_up<T>(half(s)); }
  static int64_t frequencies(const Spectrum& s) { return s.size_x * half(s); }
  static int64_t chunks(const Spectrum& s) { return (frequencies(s) + kWidth<T> - 1) / kWidth<T>; }
  // Numbers of one image in one chunk: an array of vectors for each part. A vector more than a multiple of 4 KB: images
  // would share cache sets.
  static int64_t image_size(int64_t planes, int parts) { return (planes * parts + 1) * kWidth<T>; }
  static int64_t plane_of(const SpectrumSide& side, int64_t entry) {
    return entry % side.inner * side.outer + entry / side.inner;
  }
  // One part of one plane in local memory; rows of half_lanes are read and written over its end.
  static int64_t local_size(const Spectrum& s) { return chunks(s) * kWidth<T> + half_lanes(s) + kWidth<T>; }

  static int64_t into_size(const Spectrum& s, const SpectrumSide& side) {
    return 2 * half_lanes(s) * side.height + 4 * s.size_x * side.width;
  }
  static int64_t back_size(const Spectrum& s, const SpectrumSide& side) {
    return 4 * side.width * s.size_x + 2 * side.height * half(s);
  }

  // What the inverse transform of a real plane gives a frequency: those that stand for their mirror count twice.
  static double weight(const Spectrum& s, int64_t ky) {
    return (ky == 0 || 2 * ky == s.size_y ? 1.0 : 2.0) / (double(s.size_y) * double(s.size_x));
  }

  // Plane to frequencies, exp(-i w x): rows (part, ky) of the transform along y, then rows kx of that along x for the real
  // and the imaginary part. With weights it is the adjoint of the weighted `back` of that side.
  static void pack_into(const Spectrum& s, const SpectrumSide& side, bool weighted, T* to) {
    int64_t lanes = half_lanes(s);
    pack_rows(2 * lanes, side.height, to, [&](int64_t row, int64_t y) {
      int64_t ky = row % lanes;
      if (ky >= half(s)) return T(0);
      int64_t angle = ky * (side.first_y + y * side.step_y) % s.size_y;
      double value = row < lanes ? s.cos_y[angle] : -s.sin_y[angle];
      return T(weighted ? value * weight(s, ky) : value);
    });
    to += 2 * lanes * side.height;
    for (int part = 0; part < 2; ++part, to += 2 * s.size_x * side.width)
      pack_rows(s.size_x, 2 * side.width, to, [&](int64_t kx, int64_t k) {
        int64_t angle = kx * (side.first_x + k % side.width * side.step_x) % s.size_x;
        double c = s.cos_x[angle], n = s.sin_x[angle];
        return T(k < side.width ? (part == 0 ? c : -n) : (part == 0 ? n : c));
      });
  }

  // Frequencies to plane, exp(i w x): rows x for the real and the imaginary part, then rows y.
  static void pack_back(const Spectrum& s, const SpectrumSide& side, bool weighted, T* to) {
    for (int part = 0; part < 2; ++part, to += 2 * s.size_x * side.width)
      pack_rows(side.width, 2 * s.size_x, to, [&](int64_t x, int64_t k) {
        int64_t angle = k % s.size_x * (side.first_x + x * side.step_x) % s.size_x;
        double c = s.cos_x[angle], n = s.sin_x[angle];
        return T(k < s.size_x ? (part == 0 ? c : n) : (part == 0 ? -n : c));
      });
    pack_rows(side.height, 2 * half(s), to, [&](int64_t y, int64_t k) {
      int64_t ky = k % half(s), angle = ky * (side.first_y + y * side.step_y) % s.size_y;
      double value = k < half(s) ? s.cos_y[angle] : -s.sin_y[angle];
      return T(weighted ? value * weight(s, ky) : value);
    });
  }

  struct Memory {
    T *plane, *along_y, *along_x, *local;
    Memory(Arena<T>& arena, const Spectrum& s, const SpectrumSide& side) {
      int64_t columns = round_up<T>(side.width), lanes = 2 * half_lanes(s);
      int64_t longest = s.size_x > columns ? s.size_x : columns;
      plane = arena.take(side.height * columns + kSlack<T>);
      along_y = arena.take((2 * columns > s.size_x ? lanes * columns : lanes / 2 * s.size_x) + kSlack<T>);
      along_x = arena.take(longest * lanes + kSlack<T>);
      local = arena.take(2 * kGroup * local_size(s));
    }
  };
  static int64_t workspace(const Spectrum& s, const SpectrumSide& side) {
    Arena<T> arena(nullptr);
    Memory(arena, s, side);
    return arena.used();
  }

  // Rows kx with frequencies in a band.
  struct Columns {
    int64_t begin, end;
  };
  static Columns columns_of(const Spectrum& s, Band band) {
    int64_t end = (band.end * kWidth<T> + half(s) - 1) / half(s);
    return {band.begin * kWidth<T> / half(s), end < s.size_x ? end : s.size_x};
  }

  // Entries [begin, end) of one image of `entries` in every chunk of a band from its planes, as left or right factors.
  template <class From>
  static void into(const Spectrum& s, const SpectrumSide& side, const T* table, bool left,
                   const typename From::Type* planes, int64_t begin, int64_t end, int64_t entries, Band band,
                   T* workspace, int64_t chunk_size, T* to) {
    using V = Native<T>;
    constexpr int W = kWidth<T>;
    Arena<T> arena(workspace);
    Memory m(arena, s, side);
    int64_t columns = round_up<T>(side.width), lanes = half_lanes(s), local = local_size(s);
    const T* table_x = table + 2 * lanes * side.height;
    Columns kept = columns_of(s, band);
    for (int64_t i = begin; i < end; i += kGroup) {
      int64_t count = end - i < kGroup ? end - i : kGroup;
      for (int64_t g = 0; g < count; ++g) {
        const typename From::Type* plane = planes + plane_of(side, i + g) * side.height * side.width;
        for (int64_t y = 0; y < side.height; ++y) {
          T* row = m.plane + y * columns;
          for (int64_t x = 0; x < side.width; ++x) row[x] = From::get(plane + y * side.width + x);
          for (int64_t x = side.width; x < columns; ++x) row[x] = 0;
        }
        multiply_packed<T>({1, side.height, table, 0, 0, m.plane, 0, columns, m.along_y, columns, false}, 2 * lanes,
                           int(columns / W));
        transpose(m.along_y, columns, m.along_x, 2 * lanes, 2 * lanes, columns);
        T* rows = m.along_y;  // has been read
        for (int part = 0; part < 2; ++part) {
          T* out = m.local + (2 * g + part) * local;
          // Rows of lanes are closed up to rows of the frequencies alone.
          T* target = half(s) == lanes ? out : rows;
          multiply_packed<T>({2, side.width, table_x + part * 2 * s.size_x * side.width, 0, 0, m.along_x, lanes,
                              2 * lanes, target, lanes, false},
                             s.size_x, int(lanes / W), {kept.begin, kept.end, side.width, 0});
          for (int64_t kx = kept.begin; target == rows && kx < kept.end; ++kx) {
            for (int64_t l = 0; l < half(s); l += W) store<V>(out + kx * half(s) + l, load<V>(rows + kx * lanes + l));
            keep_store_order();
          }
          for (int64_t l = frequencies(s); l < chunks(s) * W; ++l) out[l] = 0;
        }
      }
      for (int64_t chunk = band.begin; chunk < band.end; ++chunk) {
        T *real = to + (chunk - band.begin) * chunk_size + i * W, *second = real + entries * W, *sum = second + entries * W;
        for (int64_t g = 0; g < count; ++g) {
          V x = load<V>(m.local + 2 * g * local + chunk * W), y = load<V>(m.local + (2 * g + 1) * local + chunk * W);
          store<V>(real + g * W, x);
          store<V>(second + g * W, left ? y : y - x);
          store<V>(sum + g * W, x + y);
        }
      }
    }
  }

  // Entries [begin, end) of one image of `entries`, real parts and imaginary parts in the chunks of a band, to planes: what
  // the first band gives is stored, that of the others added, which planes of another type than T do not allow.
  template <class To>
  static void back(const Spectrum& s, const SpectrumSide& side, const T* table, const T* from, int64_t chunk_size,
                   int64_t begin, int64_t end, int64_t entries, Band band, T* workspace, typename To::Type* planes) {
    using V = Native<T>;
    constexpr int W = kWidth<T>;
    Arena<T> arena(workspace);
    Memory m(arena, s, side);
    int64_t columns = round_up<T>(side.width), lanes = half_lanes(s), local = local_size(s);
    const T* table_y = table + 4 * s.size_x * side.width;
    // Lanes past a row's frequencies read the next row, those of the last row this: values that meet no coefficient.
    for (int64_t part = 0; part < 2 * kGroup; ++part)
      for (int64_t l = 0; l < local; ++l)
        if (l < band.begin * W || l >= band.end * W) m.local[part * local + l] = 0;
    Columns kept = columns_of(s, band);
    for (int64_t x = side.width; x < columns; ++x)
      for (int64_t l = 0; l < 2 * lanes; ++l) m.along_x[x * 2 * lanes + l] = 0;
    for (int64_t i = begin; i < end; i += kGroup) {
      int64_t count = end - i < kGroup ? end - i : kGroup;
      for (int64_t chunk = band.begin; chunk < band.end; ++chunk) {
        const T *real = from + (chunk - band.begin) * chunk_size + i * W, *imaginary = real + entries * W;
        for (int64_t g = 0; g < count; ++g) {
          store<V>(m.local + 2 * g * local + chunk * W, load<V>(real + g * W));
          store<V>(m.local + (2 * g + 1) * local + chunk * W, load<V>(imaginary + g * W));
        }
      }
      for (int64_t g = 0; g < count; ++g) {
        for (int part = 0; part < 2; ++part)
          multiply_packed<T>({2, kept.end - kept.begin, table + part * 2 * s.size_x * side.width, 0, 0,
                              m.local + 2 * g * local + kept.begin * half(s), local, half(s), m.along_x + part * lanes,
                              2 * lanes, false},
                             side.width, int(lanes / W), {0, side.width, s.size_x, kept.begin});
        transpose(m.along_x, 2 * lanes, m.along_y, columns, columns, 2 * lanes);
        multiply_packed<T>({2, half(s), table_y, 0, 0, m.along_y, lanes * columns, columns, m.plane, columns, false},
                           side.height, int(columns / W));
        typename To::Type* plane = planes + plane_of(side, i + g) * side.height * side.width;
        for (int64_t y = 0; y < side.height; ++y)
          for (int64_t x = 0; x < side.width; ++x) {
            T value = m.plane[y * columns + x];
            if (band.begin > 0) value += To::get(plane + y * side.width + x);
            To::put(plane + y * side.width + x, value);
          }
      }
    }
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
