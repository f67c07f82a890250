// How the gradients of the planar convolution are cut into work: the host's side.
#pragma once

#include "conv_gradient.h"
#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kTileWarps = 8;
constexpr int kTilePixels = 8, kTilePairs = kTilePixels / 2;
constexpr int kMostTilesAhead = 3;  // 3 or 1, see conv_tiles.cuh
constexpr int kTileHead = 32;       // bytes
constexpr int kTileRow = 16 * kTilePixels + 16;  // bytes of an output's gradient

// Where a granule of a window lies in the image, from the tile's first one: bytes on, rows and columns on.
struct alignas(16) Place {
  int64_t offset;
  int y, x;
};

inline ConvTiles tiles_of_width(const ConvChain& conv, int width) {
  ConvTiles t{};
  t.width = width;
  t.height = kTilePixels / width;
  t.mask = width - 1;
  for (t.shift = 0; 1 << t.shift < width;) ++t.shift;
  t.tiles_x = ceil_div(conv.out_width, t.width);
  t.tiles_y = ceil_div(conv.out_height, t.height);
  t.halo_width = (t.width - 1) * conv.stride_x + conv.reach_x + 1;
  t.positions = ((t.height - 1) * conv.stride_y + conv.reach_y + 1) * t.halo_width * conv.vectors;
  t.window = (t.positions | 1) * 16;
  t.pixel_step = conv.stride_x * conv.vectors * 16;
  t.row_step = conv.stride_y * t.halo_width * conv.vectors * 16;
  return t;
}

// Tiles that waste the fewest pixels, and among those the ones with the smallest windows. Of at most `channels`, with `features`
// bytes beside them; where channels are few, or do not fit, warps share the pixels instead. Whether they fit at all on a GPU of
// that compute capability, times ten.
inline bool cut_into_tiles(ConvGradient& p, int channels, int outputs, int granules, int features, int capability) {
  ConvTiles& t = p.tiles;
  t = tiles_of_width(p.conv, kTilePixels);
  for (int width : {4, 2}) {
    ConvTiles other = tiles_of_width(p.conv, width);
    int64_t more = other.tiles_x * other.tiles_y - t.tiles_x * t.tiles_y;
    if (more < 0 || (more == 0 && other.positions < t.positions)) t = other;
  }
  t.row = int64_t(p.conv.width) * p.conv.vectors * 16;
  t.plane = t.row * p.conv.height;
  t.window_step = int64_t(t.width) * t.pixel_step;
  t.grad_step = int64_t(t.width) * p.u_vectors * 16;
  t.out_plane = int64_t(p.conv.out_height) * p.conv.out_width * p.u_vectors * 16;
  t.granules = granules;
  t.places = 0;
  t.offsets = t.positions * int(sizeof(Place));
  t.features = (t.offsets + granules * 4 + 15) / 16 * 16;
  t.stage = t.features + features;
  for (t.pixel_groups = 1; t.pixel_groups <= kTilePairs; t.pixel_groups *= 2) {
    t.channels = channels / t.pixel_groups;
    const int64_t grad = int64_t(t.channels) * t.window, head = grad + outputs * kTileRow;
    if (t.stage + 2 * (head + kTileHead) > most_shared(capability)) continue;
    t.grad = int(grad);
    t.head = int(head);
    t.stage_size = t.head + kTileHead;
    t.ahead = t.stage + (kMostTilesAhead + 1) * t.stage_size <= most_shared(capability) ? kMostTilesAhead : 1;
    t.size = t.stage + (t.ahead + 1) * t.stage_size;
    if (p.conv.C > t.channels / 2 || t.pixel_groups == kTilePairs) return true;
  }
  return false;
}

// What the tables of a block can hold, whatever fits its memory.
inline const char* why_not_tiles(const ConvChain& conv) {
  if (conv.octets != 1 && conv.octets != 2 && conv.octets != 4 && conv.octets != 8) return "the kernel takes up to 64 features";
  bool fits = conv.stride_y <= 16 && conv.stride_x <= 16 && conv.reach_y <= 256 && conv.reach_x <= 256 && conv.vectors <= 64;
  return fits ? nullptr : "strides, windows or samples are too large for a block";
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
