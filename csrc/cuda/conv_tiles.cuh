// What the kernels of both gradients share: tiles of output pixels and how they come into shared memory.
//
// A tile is 8 output pixels, 8 x 1, 4 x 2 or 2 x 4. A stage of shared memory holds of one tile
// - the window of the block's channels with its halo: a channel's granules (pixel, octet of v) one after the other;
// - the gradient of the block's outputs for one octet of u: 8 granules (pixel) for each output.
// Channels, and outputs, begin an odd number of granules apart: 8 rows of a matrix that belong to 8 of them lie in different banks.
// While a stage is worked on, the next ones are on their way, three where there is room for them, else one: a tile's products take
// no longer than its granules, which all multiprocessors ask for at once.
//
// Both kernels take the pixels two at a time, and every product of theirs has the samples u, or v, of one pixel as an operand's
// granules. So a tap is an offset, strides and dilations are offsets, and nothing is transposed or expanded on the way.
//
// Pixels of a tile beyond the image have gradient 0, and the window of the last pixel of their row or column: what no output reads
// is not read here, be it NaN.
#pragma once

#include "conv_tiles.h"
#include "conv_walk.cuh"

namespace pgconv {
namespace PGCONV_ISA {

PGCONV_DEVICE int least(int a, int b) { return a < b ? a : b; }

// A tile: its image, its first output pixel, and the octet of samples u. Tiles are counted along rows, through images, then octets.
struct Tile {
  int b, y, x, octet;

  // Whether features that belong to an image, or an octet, are others than the tile's before.
  PGCONV_DEVICE bool begins(const Tile& tile, const ConvGradient& p) {
    return (tile.y | tile.x) == 0 && (tile.b == 0 || p.conv.S > 1);
  }
};

// Where the stage begins of the tile with which so many are left.
PGCONV_DEVICE int stage_of(const ConvTiles& tiles, int left) { return tiles.stage + (left & tiles.ahead) * tiles.stage_size; }

// What is known of a stage's tile, in shared memory behind it: registers go to the tile that is loaded.
struct alignas(16) TileHead {
  int rest_y, rest_x;  // rows and columns of the image from the tile's first pixel on, without that one
  int begins;          // whether features are to be loaded, of
  int b, octet;

  // Bytes from the first granule of a channel's window to that of a pixel, the last one's for a pixel beyond the image.
  PGCONV_MEMBER int window_of(int pixel, const ConvTiles& tiles) const {
    const int row = pixel >> tiles.shift, column = pixel & tiles.mask;
    return least(row, rest_y) * tiles.row_step + least(column, rest_x) * tiles.pixel_step;
  }
};

// Walks over tiles, a block's channels from c0 and outputs from o0 on, and brings them into shared memory. A thread's granules of the
// window are 8 channels apart, those of the gradient 32 outputs: it keeps the address of the first of each, and goes on from it.
struct TileLoader {
  const ConvGradient& p;
  const int c0, o0;
  Tile tile;
  const unsigned char *window, *grad;

  // The pair of pixels before which a warp whose first is `own` brings its share of the next tile. Warps that share a scheduler do so
  // at different times, so that one's products hide the other's addresses.
  PGCONV_DEVICE int pair(const ConvGradient& p, int own) {
    return p.tiles.pixel_groups < kTilePairs ? own + thread_anew() / (kTileWarps / 2 * kWarp) * (kTilePairs / 2) : own;
  }

  // The unit-th tile from the first one of an image and octet on.
  PGCONV_DEVICE TileLoader at(const ConvGradient& p, int c0, int o0, int b, int octet, int64_t unit) {
    TileLoader loader{p, c0, o0, {}, nullptr, nullptr};
    Tile& tile = loader.tile;
    tile.x = int(unit % p.tiles.tiles_x) * p.tiles.width;
    unit /= p.tiles.tiles_x;
    tile.y = int(unit % p.tiles.tiles_y) * p.tiles.height;
    unit = unit / p.tiles.tiles_y + b;
    const int64_t images = p.conv.B > 0 ? p.conv.B : 1;
    tile.b = int(unit % images);
    tile.octet = octet + int(unit / images);
    loader.locate();
    return loader;
  }

  PGCONV_MEMBER void advance() {
    if ((tile.x += p.tiles.width) < p.conv.out_width) {
      window += p.tiles.window_step;
      grad += p.tiles.grad_step;
      return;
    }
    tile.x = 0;
    if ((tile.y += p.tiles.height) >= p.conv.out_height) {
      tile.y = 0;
      if (++tile.b == p.conv.B) {
        tile.b = 0;
        ++tile.octet;
      }
    }
    locate();
  }

  PGCONV_MEMBER void locate() {
    const ConvChain& conv = p.conv;
    const Own own = Own::of(p);
    const int64_t row = tile.y * conv.stride_y - conv.pad_y, column = tile.x * conv.stride_x - conv.pad_x;
    window = reinterpret_cast<const unsigned char*>(conv.f) + (tile.b * conv.C + (c0 + own.channel)) * p.tiles.plane +
             row * p.tiles.row + column * conv.vectors * 16;
    const int64_t pixel = int64_t(tile.y + own.y) * conv.out_width + tile.x + own.x;
    grad = reinterpret_cast<const unsigned char*>(p.grad) + (tile.b * conv.O + (o0 + own.output)) * p.tiles.out_plane +
           (pixel * p.u_vectors + tile.octet) * 16;
  }

  // The first tiles of a walk over so many.
  template <int channels, int outputs>
  PGCONV_MEMBER void begin(unsigned char* memory, int tiles) {
    for (int k = 0; k < p.tiles.ahead; ++k) {
      if (k > 0 && k < tiles) advance();
      if (k < tiles) load<channels, outputs>(memory, tiles - k, k == 0);
      commit_copies();
    }
  }
  // The next tile, where so many are left, the one that is worked on among them.
  template <int channels, int outputs>
  PGCONV_MEMBER void next(unsigned char* memory, int left) {
    if (left > p.tiles.ahead) {
      advance();
      load<channels, outputs>(memory, left - p.tiles.ahead, false);
    }
    commit_copies();
  }

 private:
  // What a thread brings first: of the window, of the gradient.
  struct Own {
    int channel, granule, output, pixel, y, x;

    PGCONV_DEVICE Own of(const ConvGradient& p) {
      // Unsigned: dividing by a power of two is a shift.
      const unsigned number = thread_anew();
      const int pixel = number % kTilePixels;
      return {int(number / kWarp), int(number % kWarp), int(number / kTilePixels), pixel, pixel >> p.tiles.shift, pixel & p.tiles.mask};
    }
  };

  // At most so many channels and outputs. Those that do not exist stay as they are.
  template <int channels, int outputs>
  PGCONV_MEMBER void load(unsigned char* memory, int left, bool first) const {
    const ConvChain& conv = p.conv;
    const Own own = Own::of(p);
    unsigned char* stage = memory + stage_of(p.tiles, left);
    if (thread_anew() == 0)
      *reinterpret_cast<TileHead*>(stage + p.tiles.head) = {conv.out_height - 1 - tile.y, conv.out_width - 1 - tile.x,
                                                            int(first || Tile::begins(tile, p)), tile.b, tile.octet};
    const int y0 = tile.y * conv.stride_y - conv.pad_y, x0 = tile.x * conv.stride_x - conv.pad_x;
    const int left_channels = least(int(conv.C) - c0, p.tiles.channels) - own.channel;
    auto* places = reinterpret_cast<const Place*>(memory + p.tiles.places);
    PGCONV_ROLLED
    for (int k = own.granule; k < p.tiles.positions; k += kWarp) {
      const Place place = places[k];
      const bool inside = unsigned(y0 + place.y) < unsigned(conv.height) && unsigned(x0 + place.x) < unsigned(conv.width);
      const unsigned char* from = window + place.offset;
      unsigned char* to = stage + own.channel * p.tiles.window + k * 16;
      PGCONV_UNROLL
      for (int c = 0; c < channels; c += kTileWarps) {
        if (c < left_channels) copy_async<16>(to, from, inside);
        from += kTileWarps * p.tiles.plane;
        to += kTileWarps * p.tiles.window;
      }
    }

    constexpr int rows = kTileWarps * kWarp / kTilePixels;
    const bool inside = tile.y + own.y < conv.out_height && tile.x + own.x < conv.out_width;
    const int left_outputs = least(int(conv.O) - o0, outputs) - own.output;
    const unsigned char* from = grad;
    unsigned char* to = stage + p.tiles.grad + own.output * kTileRow + own.pixel * 16;
    PGCONV_UNROLL
    for (int o = 0; o < outputs; o += rows) {
      if (o < left_outputs) copy_async<16>(to + o * kTileRow, from, inside);
      from += rows * p.tiles.out_plane;
    }
  }
};

// Before the first tile: zeros where no channel or output comes, offsets of the block's granules (tap, octet of v) from a pixel's
// first, and the places of a window's. Offsets beyond the last granule are the last again.
PGCONV_DEVICE void begin_tiles(const ConvGradient& p, unsigned char* memory, int first_granule = 0) {
  const ConvChain& conv = p.conv;
  auto* words = reinterpret_cast<uint32_t*>(memory + p.tiles.stage);
  for (int k = thread(); k < (p.tiles.size - p.tiles.stage) / 4; k += threads()) words[k] = 0;
  auto* offsets = reinterpret_cast<int*>(memory + p.tiles.offsets);
  for (int k = thread(); k < p.tiles.granules; k += threads()) {
    const int granule = first_granule + k < conv.real ? first_granule + k : conv.real - 1, tap = granule / conv.vectors;
    offsets[k] = ((conv.taps[tap][0] * p.tiles.halo_width + conv.taps[tap][1]) * conv.vectors + granule % conv.vectors) * 16;
  }
  auto* places = reinterpret_cast<Place*>(memory + p.tiles.places);
  const int row = p.tiles.halo_width * conv.vectors;
  for (int k = thread(); k < p.tiles.positions; k += threads())
    places[k] = {k / row * p.tiles.row + k % row * 16, k / row, k % row / conv.vectors};
  sync_block();
}

// The next of the tiles is there for the thread itself, of those on their way.
PGCONV_DEVICE void wait_for_tile(const ConvTiles& tiles) {
  if (tiles.ahead > 1)
    wait_copies<kMostTilesAhead - 1>();
  else
    wait_copies<0>();
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
