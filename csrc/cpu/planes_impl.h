// Planes, panels and what moves between them. A panel is kPanel consecutive pixels of an image with the pixels in the
// lanes; the window side is copied strip by strip into zero-padded planes, see conv_params.h.
#pragma once

#include "../common/conv_params.h"
#include "../common/params.h"
#include "gemm.h"

namespace pgconv {
namespace PGCONV_ISA {

// Numbers as they are stored: converted on the way in and out, rounded to nearest even.
template <class T>
struct Stored {
  using Type = T;
  PGCONV_INLINE T get(const T* p) { return *p; }
  PGCONV_INLINE void put(T* p, T x) { *p = x; }
};
struct Bfloat16 {
  using Type = uint16_t;
  PGCONV_INLINE float get(const uint16_t* p) {
    uint32_t bits = uint32_t(*p) << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
  }
  PGCONV_INLINE void put(uint16_t* p, float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding must not carry a NaN over into infinity or zero.
    *p = uint16_t(x == x ? rounded : (bits >> 16) | 0x40);
  }
};

// Calls f with the storage of a problem.
template <class T, class F>
PGCONV_INLINE void with_storage(Storage storage, F&& f) {
  if constexpr (sizeof(T) == 4) {
    if (storage == kBfloat16) return f(Bfloat16{});
  }
  f(Stored<T>{});
}

// A range of pixels inside one image and the padded planes that hold the window rows it reads.
template <class T>
struct Strip {
  int64_t first_pixel, pixels;
  int64_t first_row, rows;  // of pixels
  int64_t plane;            // numbers per padded plane

  // One plane more than a multiple of 4 KB apart would put equal rows of all planes into the same cache sets.
  static int64_t plane_size(const ConvGrid& g, int64_t pixel_rows) {
    int64_t size = ((pixel_rows - 1) * g.stride_y + g.reach_y + 1) * g.pitch;
    int64_t line = 64 / sizeof(T);
    return (size + line - 1) / line * line + line;
  }
  static int64_t most_rows(const ConvGrid& g, int64_t strip_pixels) {
    int64_t rows = (strip_pixels + g.out_width - 2) / g.out_width + 1;
    return rows < g.out_height ? rows : g.out_height;
  }
  static Strip of(const ConvGrid& g, int64_t begin, int64_t end) {
    int64_t row = begin / g.out_width, last = (end - 1) / g.out_width;
    return {begin, end - begin, row, last - row + 1, plane_size(g, last - row + 1)};
  }
};

// Numbers a workspace needs behind the last plane: vectors of the last row may read over its end.
template <class T>
constexpr int64_t kSlack = 2 * kPanel<T>;

// Copies one window plane into its padded form.
template <class To, class From, class T>
void pad_plane(const ConvGrid& g, const Strip<T>& strip, const typename From::Type* plane, To* to) {
  int64_t first = strip.first_row * g.stride_y - g.pad_y;
  int64_t rows = (strip.rows - 1) * g.stride_y + g.reach_y + 1;
  for (int64_t i = 0; i < rows; ++i, to += g.pitch) {
    int64_t y = first + i;
    if (y < 0 || y >= g.height) {
      __builtin_memset(to, 0, sizeof(To) * g.pitch);
      continue;
    }
    const typename From::Type* row = plane + y * g.width;
    if (g.stride_x == 1) {
      int64_t begin = g.pad_x > 0 ? g.pad_x : 0, end = g.width + g.pad_x < g.pitch ? g.width + g.pad_x : g.pitch;
      for (int64_t x = 0; x < begin; ++x) to[x] = 0;
      for (int64_t x = begin; x < end; ++x) to[x] = From::get(row + x - g.pad_x);
      for (int64_t x = end > begin ? end : begin; x < g.pitch; ++x) to[x] = 0;
    } else {
      for (int64_t r = 0; r < g.stride_x; ++r)
        for (int64_t q = 0; q < g.columns; ++q) {
          int64_t x = q * g.stride_x + r - g.pad_x;
          to[r * g.columns + q] = x >= 0 && x < g.width ? From::get(row + x) : To(0);
        }
    }
  }
  __builtin_memset(to, 0, sizeof(To) * kSlack<T>);
}

// The adjoint of pad_plane: adds a padded plane to sums [height, width].
template <class T>
void add_unpadded(const ConvGrid& g, const Strip<T>& strip, const T* from, T* plane) {
  int64_t first = strip.first_row * g.stride_y - g.pad_y;
  int64_t rows = (strip.rows - 1) * g.stride_y + g.reach_y + 1;
  for (int64_t i = 0; i < rows; ++i, from += g.pitch) {
    int64_t y = first + i;
    if (y < 0 || y >= g.height) continue;
    T* row = plane + y * g.width;
    if (g.stride_x == 1) {
      int64_t begin = g.pad_x > 0 ? g.pad_x : 0, end = g.width + g.pad_x < g.pitch ? g.width + g.pad_x : g.pitch;
      for (int64_t x = begin; x < end; ++x) row[x - g.pad_x] += from[x];
    } else {
      for (int64_t r = 0; r < g.stride_x; ++r)
        for (int64_t q = 0; q < g.columns; ++q) {
          int64_t x = q * g.stride_x + r - g.pad_x;
          if (x >= 0 && x < g.width) row[x] += from[r * g.columns + q];
        }
    }
  }
}

// The lanes of one panel: stretches of pixels in one row, each consecutive in the padded planes.
template <class T>
struct PanelLanes {
  struct Stretch {
    int lane, length;
    int64_t base;
  };
  int count;   // pixels in the panel
  int pieces;
  Stretch piece[kPanel<T>];

  PanelLanes(const ConvGrid& g, const Strip<T>& strip, int64_t pixel) {
    int64_t left = strip.first_pixel + strip.pixels - pixel;
    count = int(left < kPanel<T> ? left : kPanel<T>);
    pieces = 0;
    int64_t y = pixel / g.out_width, x = pixel - y * g.out_width;
    for (int lane = 0; lane < count;) {
      int64_t rest = g.out_width - x;
      int length = int(rest < count - lane ? rest : count - lane);
      piece[pieces++] = {lane, length, (y - strip.first_row) * g.stride_y * g.pitch + x};
      lane += length;
      x = 0;
      ++y;
    }
  }
  bool whole() const { return pieces == 1 && count == kPanel<T>; }
};

// X[(v, t)][kPanel]: what the panel's pixels read from the planes of one channel. Vectors are stored whole; the surplus of
// one stretch is overwritten by the next, that of a row by the following row, so `to` needs kSlack numbers behind it.
// Lanes without a pixel are zero.
template <class T, class Plane>
void gather(const ConvGrid& g, const PanelLanes<T>& lanes, const Plane* planes, int64_t plane, int64_t Nv, Plane* to) {
  using V = Native<Plane>;
  constexpr int W = kWidth<Plane>;
  for (int64_t v = 0; v < Nv; ++v, planes += plane) {
    if (lanes.whole()) {
      const Plane* from = planes + lanes.piece[0].base;
      for (int64_t t = 0; t < g.taps; ++t, to += kPanel<T>) {
        const Plane* tap = from + g.offsets[t];
#pragma GCC unroll 2
        for (int l = 0; l < kPanel<T>; l += W) store<V>(to + l, load<V>(tap + l));
      }
      continue;
    }
    for (int64_t t = 0; t < g.taps; ++t, to += kPanel<T>) {
      const Plane* tap = planes + g.offsets[t];
      for (int s = 0; s < lanes.pieces; ++s) {
        const auto& piece = lanes.piece[s];
        for (int l = 0; l < piece.length; l += W) store<V>(to + piece.lane + l, load<V>(tap + piece.base + l));
        keep_store_order();
      }
      for (int l = lanes.count; l < kPanel<T>; l += W) store<V>(to + l, V{});
      keep_store_order();
    }
  }
}

// The adjoint of gather: adds [(v, t)][kPanel] to the padded planes of one channel.
template <class T>
void scatter_add(const ConvGrid& g, const PanelLanes<T>& lanes, const T* from, T* planes, int64_t plane, int64_t Nv) {
  using V = Native<T>;
  constexpr int W = kWidth<T>;
  for (int64_t v = 0; v < Nv; ++v, planes += plane)
    for (int64_t t = 0; t < g.taps; ++t, from += kPanel<T>) {
      T* tap = planes + g.offsets[t];
      for (int s = 0; s < lanes.pieces; ++s) {
        const auto& piece = lanes.piece[s];
        T* to = tap + piece.base;
        const T* x = from + piece.lane;
        int l = 0;
        for (; l + W <= piece.length; l += W) store<V>(to + l, load<V>(to + l) + load<V>(x + l));
        if (l < piece.length) store<V>(to + l, load<V>(to + l) + keep_first(load<V>(x + l), piece.length - l));
      }
    }
}

// Rows [rows][kPanel] of the pixel side: `planes` are `stride` numbers apart and begin at the panel's first pixel.
template <class T, class From, class To = T>
void load_panel(const typename From::Type* planes, int64_t stride, int64_t rows, int count, To* to) {
  for (int64_t r = 0; r < rows; ++r, planes += stride, to += kPanel<T>) {
    if (count == kPanel<T>) {
      for (int l = 0; l < kPanel<T>; ++l) to[l] = From::get(planes + l);
    } else {
      for (int l = 0; l < count; ++l) to[l] = From::get(planes + l);
      for (int l = count; l < kPanel<T>; ++l) to[l] = 0;
    }
  }
}

// Whether a result is larger than what caches hold: its lines are then not fetched to be overwritten.
template <class To>
constexpr bool exceeds_caches(int64_t numbers) {
  return numbers * int64_t(sizeof(typename To::Type)) > int64_t(32) << 20;
}

template <class T, class To>
void store_panel(const T* from, int64_t rows, int count, typename To::Type* planes, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, planes += stride, from += kPanel<T>) {
    if (count == kPanel<T>) {
      for (int l = 0; l < kPanel<T>; ++l) To::put(planes + l, from[l]);
    } else {
      for (int l = 0; l < count; ++l) To::put(planes + l, from[l]);
    }
  }
}

// The same for a result that exceeds the caches. finish_streams() comes before other threads read it.
template <class T, class To>
void stream_panel(const T* from, int64_t rows, int count, typename To::Type* planes, int64_t stride) {
  if constexpr (sizeof(T) == sizeof(typename To::Type)) {
    if (count == kPanel<T> && stride % kWidth<T> == 0 && reinterpret_cast<uintptr_t>(planes) % kVectorBytes == 0) {
      for (int64_t r = 0; r < rows; ++r, planes += stride, from += kPanel<T>)
        for (int l = 0; l < kPanel<T>; l += kWidth<T>) stream(planes + l, load<Native<T>>(from + l));
      return;
    }
  }
  store_panel<T, To>(from, rows, count, planes, stride);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
