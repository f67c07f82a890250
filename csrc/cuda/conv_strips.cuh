// Output pixels that are counted along the rows of a strip of the images, and on from one image to the next where they are counted
// together: a block of so many pixels lacks none but at the very end. What it reads of a channel are rows of the images' windows,
// one behind the other.
#pragma once

#include <numeric>

#include "conv_chain.h"
#include "device.h"
#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kWidestStrip = 64;
// More granules of a channel's window do not fit a block, and would leave 32 bits.
constexpr int64_t kMostPlane = 1 << 20;

// Strips of whole rows where they are short; else of about equal widths, whose rows are stored in whole sectors. Sets p's tiles of
// `pixels` pixels.
inline void set_strips(ConvChain& p, int pixels, int64_t images, int widest = kWidestStrip) {
  p.tiles_x = int(ceil_div(p.out_width, widest));
  p.tile_width = p.tiles_x == 1 ? p.out_width : int(ceil_div(ceil_div(p.out_width, p.tiles_x), 8) * 8);
  p.images = int(images);
  p.tiles_y = int(ceil_div(images * p.out_height * p.tile_width, pixels));
}

// The window of a tile.
struct Strips {
  int pitch, apart;  // granules of a row of one octet of v; rows from an image to the next
  int plane;         // granules of a channel, [octet of v][row][column]

  static Strips of(const ConvChain& p, int pixels) {
    Strips s;
    const int more_y = p.reach_y + 1 - p.stride_y, more_x = p.reach_x + 1 - p.stride_x, width = p.tile_width;
    // A row's end and the next one's beginning lie as many banks apart as pixels within.
    s.pitch = width * p.stride_x + (more_x > 0 ? (more_x + 7) / 8 * 8 : 0);
    s.apart = p.out_height * p.stride_y + (more_y > 0 ? more_y : 0);
    // Rows of pixels, of which the first begins at a multiple of what both have in common; and images that begin within.
    const int rows = (width - std::gcd(pixels, width) + pixels - 1) / width + 1;
    const int begin = p.images > 1 ? (rows - 1 + p.out_height - 1) / p.out_height : 0;
    const int64_t lines = (rows - 1) * p.stride_y + begin * (s.apart - p.out_height * p.stride_y) + p.reach_y + 1;
    const int64_t plane = lines * s.pitch * p.vectors;
    s.plane = int(plane < kMostPlane ? plane : kMostPlane);
    return s;
  }

  // Whether all pixels and rows can be counted.
  bool countable(const ConvChain& p, int pixels) const {
    const int64_t most = INT32_MAX - pixels;
    return int64_t(p.images) * (apart + p.reach_y) <= most && int64_t(p.images) * p.out_height * p.tile_width <= most;
  }
};

// Where a pixel lies. Those beyond the end are the last one again, and do not count.
struct StripPixel {
  int image;       // of those counted together
  int y, x, line;  // x: in the strip; line: row of its window, counted from the first image's
  bool beyond;

  PGCONV_DEVICE StripPixel of(const ConvChain& p, const Strips& strips, int number) {
    const int count = p.images * p.out_height * p.tile_width;
    StripPixel at;
    at.beyond = number >= count;
    if (at.beyond) number = count - 1;
    const int row = unsigned(number) / unsigned(p.tile_width);
    at.image = unsigned(row) / unsigned(p.out_height);
    at.y = row - at.image * p.out_height;
    at.x = number - row * p.tile_width;
    at.line = at.image * strips.apart + at.y * p.stride_y;
    return at;
  }
};

// Where a granule of a plane comes from, for a tile whose first pixel is `first` and whose strip begins at x0.
struct StripSource {
  int image;    // counted from the first pixel's
  int y, x, v;  // in the signal
  bool inside;  // or beside it

  PGCONV_DEVICE StripSource of(const ConvChain& p, const Strips& strips, const StripPixel& first, int x0, int granule) {
    const int of_octet = strips.plane / p.vectors;
    StripSource at;
    at.v = granule / of_octet;
    const int line = (granule - at.v * of_octet) / strips.pitch, column = granule % strips.pitch;
    const int of_first = first.y * p.stride_y + line;
    at.image = of_first / strips.apart;
    at.y = of_first - at.image * strips.apart - p.pad_y;
    at.x = x0 * p.stride_x - p.pad_x + column;
    at.inside = at.y >= 0 && at.y < p.height && at.x >= 0 && at.x < p.width && first.image + at.image < p.images;
    return at;
  }
};

// Bytes from a pixel's first granule to that of a tap and octet of v.
PGCONV_DEVICE int strip_offset(const ConvChain& p, const Strips& strips, int granule) {
  const int tap = granule / p.vectors;
  return (granule % p.vectors * (strips.plane / p.vectors) + p.taps[tap][0] * strips.pitch + p.taps[tap][1]) * 16;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
