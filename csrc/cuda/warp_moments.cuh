// What the kernels of moments do behind the coordinates of pairs, 16 pairs of a warp at a time. All of it are matrix instructions
// whose results are the next one's operands as they lie in the registers:
//
//     first layer        z[j, h] = x[j, d] W[h, d]       by parts, see pair_rows.cuh
//     hidden layers      z[j, h] = h'[j, k] W[h, k]      sums (j, h) are the left operand (j, k) of the next
//     the last of them   z[h, j] = W[h, k] h'[j, k]      sums (j, k) are the right operand, too
//     moments            M[h, c] += phi[h, j] f[j, c]    sums (h, j) are the left operand
//
// A net of one hidden layer has its features as (j, h) and transposes them in the registers.
//
// Signals are of 16 bits, or of float32 as two float16 parts whose sum it is: then features have two parts as well, of whose
// products the smallest is left out, and activations are exact.
//
// Per 16 pairs a warp takes 16 H L activations (8 clocks of the special-function unit for 32 of them), and matrix products of
// 32 H (16 steps + (L - 1) H + C) FLOPs. With H = C = 32 and L = 2 the special functions are what it waits for, if there are
// enough warps to wait in turns: so what is common is known to the compiler, in one stretch of instructions without a branch, and
// lives in registers that two blocks of a multiprocessor have.
#pragma once

#include "half_net.cuh"

namespace pgconv {
namespace PGCONV_ISA {

// Tiles of 16 features and of 8 columns, of a warp: what it sums up has features * columns * 4 numbers for each lane. Parts of
// the signal: 1, or 2 for float32. Warps of a block, blocks of a multiprocessor; inputs whose signal and fields are held at
// a time, twice, and whose coordinates a warp does.
template <int features_, int columns_, int parts_, int warps_, int blocks_, int stage_, int coords_>
struct PointTile {
  static constexpr int features = features_, columns = columns_, parts = parts_;
  static constexpr int warps = warps_, threads = warps_ * kWarp, blocks = blocks_, stage = stage_, coords = coords_;
  static constexpr int width = 16 * features, channels = 8 * columns;
  static_assert(columns % 2 == 0, "pairs of column tiles");
  static_assert(coords <= kWarp && coords % 16 == 0 && stage % coords == 0, "at most one lane a pair");
  // Rows of shared memory that matrices are read from begin in different banks.
  static constexpr int matrix_row = 2 * width + 16, signal_row = 2 * channels + 16;  // bytes
};

// Bytes one behind the other, on boundaries of 16.
struct Places {
  int size = 0;
  PGCONV_EVERYWHERE int take(int bytes) {
    int begin = size;
    size += (bytes + 15) / 16 * 16;
    return begin;
  }
};

// A net in the shared memory of a block, in bytes from its beginning.
template <class Tile>
struct SharedNet {
  int matrices, first, biases;

  PGCONV_INLINE SharedNet take(Places& places, const HalfNet& net) {
    SharedNet s;
    s.matrices = places.take(net.parts() * net.layers() * Tile::width * Tile::matrix_row);
    s.first = places.take(Tile::width * row_bytes(2 * net.steps()));
    s.biases = places.take(net.layers() * Tile::width * 4);
    return s;
  }
};

// What a warp keeps of a net and sums up.
template <class E, class Tile, class Net>
struct WarpMoments {
  static constexpr int M = Tile::features, N = Tile::columns, parts = Tile::parts, width = Tile::width;
  static constexpr bool exact = parts == 2;
  // Operands of a known net stay in registers as far as there are some: of the first layer right ones, of the last left ones.
  static constexpr bool top_resident = Net::layers == 2 && Net::split == 0, first_resident = Net::steps == kShortSteps;

  const HalfNet& net;
  const SharedNet<Tile> shared;
  unsigned char* const memory;
  const int steps, last, pair_row;  // hidden layers behind the first; bytes of a row of coordinates
  const bool split;
  const unsigned char *own_first, *own_top;
  uint32_t first[first_resident ? Net::steps : 1][M][4], top[M][M][4];
  float sums[M][N][4];

  PGCONV_MEMBER WarpMoments(const HalfNet& net, SharedNet<Tile> shared)
      : net(net),
        shared(shared),
        memory(shared_memory<unsigned char>()),
        steps(net.steps()),
        last((Net::layers >= 0 ? Net::layers : net.shape.hidden_layers) - 1),
        pair_row(row_bytes(2 * steps)),
        split(Net::split == kAny ? net.split : Net::split == 1) {}

  PGCONV_MEMBER float* biases() const { return reinterpret_cast<float*>(memory + shared.biases); }
  PGCONV_MEMBER SharedMatrix matrix(int l) const {
    int size = width * Tile::matrix_row;
    return SharedMatrix{memory + shared.matrices + l * size, Tile::matrix_row, last * size};
  }

  // The net on its way into shared memory, by all `count` threads of a block.
  PGCONV_MEMBER void load(int count) const {
    for (int k = thread(); k < 2 * steps * width; k += count)
      copy_async<16>(memory + shared.first + k / (2 * steps) * pair_row + k % (2 * steps) * kOctetBytes, net.rows + 8 * k, true);
    for (int k = thread(); k < last * width; k += count) biases()[k] = net.biases[k];
    for (int k = thread(); k < net.parts() * last * width * width / 8; k += count)
      copy_async<16>(memory + shared.matrices + k / (width / 8) * Tile::matrix_row + k % (width / 8) * 16, net.matrices + 8 * k,
                     true);
  }
  // When it is there.
  PGCONV_MEMBER void begin() {
    own_first = right_rows(memory + shared.first, pair_row);
    own_top = left_rows(matrix(last - 1).begin, Tile::matrix_row);
    if constexpr (first_resident)
      PGCONV_UNROLL
      for (int k = 0; k < Net::steps; ++k)
        PGCONV_UNROLL
        for (int m = 0; m < M; ++m) load_matrices(first[k][m], own_first + 16 * m * pair_row + 32 * k);
    if constexpr (top_resident)
      PGCONV_UNROLL
      for (int m = 0; m < M; ++m)
        PGCONV_UNROLL
        for (int k = 0; k < M; ++k) load_top(m, k, 0, top[m][k]);
    clear();
  }
  PGCONV_MEMBER void clear() {
    PGCONV_UNROLL
    for (int m = 0; m < M; ++m)
      PGCONV_UNROLL
      for (int n = 0; n < N; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) sums[m][n][k] = 0;
  }

  // 16 pairs with coordinates in rows from `pairs` on and signals in rows from `signals` on, second parts `low` bytes behind.
  PGCONV_MEMBER void add(const unsigned char* pairs, const unsigned char* signals, int low) {
    const NetShape& shape = net.shape;
    float z[2 * M][4] = {};
    const unsigned char* own_pairs = left_rows(pairs, pair_row);
    repeat<Net::steps>(steps, [&](int k) {
      uint32_t x[4];
      load_matrices(x, own_pairs + 32 * k);
      PGCONV_UNROLL
      for (int m = 0; m < M; ++m) {
        uint32_t loaded[4];
        if constexpr (!first_resident) load_matrices(loaded, own_first + 16 * m * pair_row + 32 * k);
        const uint32_t(&w)[4] = first_resident ? first[first_resident ? k : 0][m] : loaded;
        Bfloat16::multiply_add(z[2 * m], x, w[0], w[1]);
        Bfloat16::multiply_add(z[2 * m + 1], x, w[2], w[3]);
      }
    });
    fast_activate<Net::activation, exact>(shape.activation, z);

    // phi: left operands (h, j) of the moments.
    uint32_t phi[parts][M][4];
    if (last == 0) {
      uint32_t words[parts][2 * M][2];
      pack_parts<E>(z, words);
      PGCONV_UNROLL
      for (int part = 0; part < parts; ++part) transpose_rows(words[part], phi[part]);
    } else {
      uint32_t h[2][2 * M][2];
      auto keep = [&] {
        if (split)
          pack_parts<Half>(z, h);
        else
          pack_rows<Half>(z, h[0]);
      };
      keep();
      repeat<Net::layers >= 0 ? Net::layers - 2 : kAny>(last - 1, [&](int l) {
        multiply_rows<Half>(matrix(l), split, h, biases() + l * width, z);
        fast_activate<Net::activation, exact>(shape.activation, z);
        keep();
      });
      // Left operands are the matrix's, and the pairs' words the right ones.
      PGCONV_UNROLL
      for (int m = 0; m < M; ++m) {
        const float* bias = biases() + (last - 1) * width + 16 * m + lane() / 4;
        float y[2][4] = {};
        auto add_bias = [&] {
          PGCONV_UNROLL
          for (int n = 0; n < 2; ++n)
            PGCONV_UNROLL
            for (int k = 0; k < 4; ++k) y[n][k] = split ? y[n][k] + bias[k / 2 * 8] : bias[k / 2 * 8];
        };
        auto multiply = [&](const uint32_t(&words)[2 * M][2], int part) {
          PGCONV_UNROLL
          for (int k = 0; k < M; ++k) {
            uint32_t loaded[4];
            if constexpr (!top_resident) load_top(m, k, part, loaded);
            const uint32_t(&w)[4] = top_resident ? top[m][k] : loaded;
            PGCONV_UNROLL
            for (int n = 0; n < 2; ++n) Half::multiply_add(y[n], w, words[2 * k][n], words[2 * k + 1][n]);
          }
        };
        // Small products first, see multiply_rows().
        if (split) {
          multiply(h[1], 0);
          multiply(h[0], 1);
        }
        add_bias();
        multiply(h[0], 0);
        fast_activate<Net::activation, exact>(shape.activation, y);
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          float one = y[k / 2][k % 2 * 2], two = y[k / 2][k % 2 * 2 + 1];
          phi[0][m][k] = E::pack(one, two);
          if constexpr (exact) phi[1][m][k] = E::pack(one - E::value(phi[0][m][k], 0), two - E::value(phi[0][m][k], 1));
        }
      }
    }

    const unsigned char* own_signal = left_rows(signals, Tile::signal_row);
    PGCONV_UNROLL
    for (int n = 0; n < N / 2; ++n) {
      auto multiply = [&](int part, const uint32_t(&signal)[4]) {
        PGCONV_UNROLL
        for (int m = 0; m < M; ++m) {
          E::multiply_add(sums[m][2 * n], phi[part][m], signal[0], signal[1]);
          E::multiply_add(sums[m][2 * n + 1], phi[part][m], signal[2], signal[3]);
        }
      };
      uint32_t signal[4];
      load_matrices_transposed(signal, own_signal + 32 * n);
      multiply(0, signal);
      if constexpr (exact) {
        multiply(1, signal);
        load_matrices_transposed(signal, own_signal + low + 32 * n);
        multiply(0, signal);
      }
    }
  }

  // Moments of the columns (image, channel) from `column` on into those of an output, [images at a distance][H][C], or onto them.
  PGCONV_MEMBER void store(float* to, int64_t distance, int column, int images, int C, bool onto) const {
    const int g = lane() / 4, t = lane() % 4, hidden = net.shape.hidden;
    PGCONV_UNROLL
    for (int n = 0; n < N; ++n) {
      int c = column + 8 * n, image = c / C;
      if (image >= images) break;
      float* of_image = to + image * distance + (c - image * C) + 2 * t;
      PGCONV_UNROLL
      for (int m = 0; m < M; ++m)
        PGCONV_UNROLL
        for (int k = 0; k < 2; ++k) {
          int h = 16 * m + g + 8 * k;
          if (h >= hidden) continue;
          auto* two = reinterpret_cast<TwoNumbers*>(of_image + int64_t(h) * C);
          TwoNumbers sum{sums[m][n][2 * k], sums[m][n][2 * k + 1]};
          if (onto) sum.number[0] += two->number[0], sum.number[1] += two->number[1];
          *two = sum;
        }
    }
  }

 private:
  PGCONV_MEMBER void load_top(int m, int k, int part, uint32_t (&w)[4]) const {
    load_matrices(w, own_top + part * matrix(last - 1).low + 16 * m * Tile::matrix_row + 32 * k);
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
