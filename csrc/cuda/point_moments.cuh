// Moments of a point convolution on a GPU:
//
//     M[b, i, h, c] = sum_j phi_h(v_j^-1 u_i) f[b, j, c]
//
// A warp owns `outputs` outputs i and walks over the inputs, 16 at a time. Coordinates are computed by one lane for each pair;
// the first layer in float32, since its phases are large; everything behind it by matrix instructions whose results are the
// next one's operands as they lie in the registers:
//
//     hidden layers      z[j, h] = h'[j, k] W[h, k]      sums (j, h) are the left operand (j, k) of the next
//     the last of them   z[h, j] = W[h, k] h'[j, k]      sums (j, k) are the right operand, too
//     moments            M[h, c] += phi[h, j] f[j, c]    sums (h, j) are the left operand
//
// A net of one hidden layer has its features as (j, h) and transposes them in the registers.
//
// Signals are of 16 bits, or of float32 as two float16 parts whose sum they are: then features have two parts as well, of whose
// products the smallest is left out, and activations are exact.
//
// Per 16 pairs and output a warp takes 16 H L activations (8 clocks of the special-function unit for 32 of them), 16 (D + 1) H
// float32 multiply-adds, and matrix products of 32 H ((L - 1) H + C) FLOPs. With H = C = 32 and L = 2 the special functions
// are what it waits for.
#pragma once

#include "half_net.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kStageInputs = 64;  // whose signal and fields a block holds at a time, twice

struct PointMoments {
  Features<float> elements;
  HalfNet net;
  int own;                 // coordinates of the relative element
  int v_fields, u_fields;  // that are read: of a all, of b those of the element
  int64_t images, C;       // of a set; columns are (image, channel), and C is a multiple of 8
  int64_t row_blocks, column_blocks, splits, split_inputs;
  const uint16_t* f;       // [parts][S images, Nv, C]
  float* moments;          // [splits][S images, Nu, H, C]
};

struct SumParts {
  int64_t count, parts;
  const float* from;  // [parts][count]
  float* to;
};

PGCONV_KERNEL(256) sum_parts(const SumParts p) {
  for (int64_t k = block() * threads() + thread(); k < p.count; k += blocks() * threads()) {
    float sum = 0;
    for (int64_t n = 0; n < p.parts; ++n) sum += p.from[n * p.count + k];
    p.to[k] = sum;
  }
}

// Tiles of 16 features and of 8 columns, and outputs of a warp: what a warp sums up has outputs * features * columns / 32
// numbers for each lane. Parts of the signal: 1, or 2 for float32.
template <int features_, int columns_, int outputs_, int parts_ = 1>
struct PointTile {
  static constexpr int features = features_, columns = columns_, outputs = outputs_, parts = parts_;
  static constexpr int width = 16 * features, channels = 8 * columns;
  static_assert(columns % 2 == 0 && (outputs == 1 || outputs == 2), "pairs of column tiles, at most one lane a pair");
  static constexpr int block_outputs = kPointWarps * outputs;
  // Rows of shared memory that matrices are read from begin in different banks.
  static constexpr int matrix_row = 2 * width + 16, signal_row = 2 * channels + 16;  // bytes
};

// Shared memory of a block, in bytes from its beginning.
template <class Tile>
struct PointShared {
  int first, matrices, biases, u, coords, stage, stage_size, fields, size;

  PGCONV_INLINE PointShared of(const HalfNet& half, int v_fields, int u_fields) {
    const NetShape& net = half.shape;
    PointShared s;
    auto take = [at = 0](int bytes) mutable {
      int begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    s.matrices = take(half.parts() * half.layers() * Tile::width * Tile::matrix_row);
    s.first = take((net.coord_dim + 1) * Tile::width * 4);
    s.biases = take(half.layers() * Tile::width * 4);
    s.u = take(u_fields * Tile::block_outputs * 4);
    s.coords = take(kPointWarps * net.coord_dim * kWarp * 4);
    s.fields = Tile::parts * kStageInputs * Tile::signal_row;
    s.stage_size = s.fields + (v_fields * kStageInputs * 4 + 15) / 16 * 16;
    s.stage = take(2 * s.stage_size);
    s.size = take(0);
    return s;
  }
};

template <class E, class Tile>
PGCONV_KERNEL(kPointWarps * kWarp) point_moments(const PointMoments p) {
  constexpr int M = Tile::features, N = Tile::columns, R = Tile::outputs, parts = Tile::parts, width = Tile::width;
  constexpr bool exact = parts == 2;
  const Features<float>& e = p.elements;
  const NetShape& shape = p.net.shape;
  const auto shared = PointShared<Tile>::of(p.net, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4, last = shape.hidden_layers - 1;

  // Consecutive blocks have the same inputs: rows of outputs first.
  int64_t at = block();
  const int64_t row = at % p.row_blocks * Tile::block_outputs;
  at /= p.row_blocks;
  const int64_t column = at % p.column_blocks * Tile::channels;
  at /= p.column_blocks;
  const int64_t split = at % p.splits, s = at / p.splits;
  const int64_t j_begin = split * p.split_inputs, j_end = j_begin + p.split_inputs < e.Nv ? j_begin + p.split_inputs : e.Nv;

  auto* first = reinterpret_cast<float*>(memory + shared.first);
  auto* biases = reinterpret_cast<float*>(memory + shared.biases);
  auto* u = reinterpret_cast<float*>(memory + shared.u);
  auto* x = reinterpret_cast<float*>(memory + shared.coords) + warp() * shape.coord_dim * kWarp;
  for (int k = thread(); k < (shape.coord_dim + 1) * width; k += threads()) first[k] = p.net.first[k];
  for (int k = thread(); k < last * width; k += threads()) biases[k] = p.net.biases[k];
  for (int k = thread(); k < p.net.parts() * last * width * width / 8; k += threads())
    copy_async<16>(memory + shared.matrices + k / (width / 8) * Tile::matrix_row + k % (width / 8) * 16,
                   p.net.matrices + 8 * k, true);
  // Outputs beyond the end repeat the last one and are not stored.
  for (int k = thread(); k < p.u_fields * Tile::block_outputs; k += threads()) {
    int64_t i = row + k % Tile::block_outputs;
    u[k] = e.u_fields[k / Tile::block_outputs * e.u_count + s * e.u_batch + (i < e.Nu ? i : e.Nu - 1)];
  }

  // Inputs beyond the end have signal 0; their elements are zeros, too, and no coordinates of those are NaN.
  auto load_stage = [&](int64_t j0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    constexpr int granules = Tile::channels / 8;
    for (int k = thread(); k < parts * kStageInputs * granules; k += threads()) {
      int64_t part = k / (kStageInputs * granules), j = j0 + k / granules % kStageInputs;
      int64_t c = column + k % granules * 8, image = c / p.C;
      bool valid = j < j_end && image < p.images;
      const uint16_t* from =
          p.f + (valid ? (((part * e.S + s) * p.images + image) * e.Nv + j) * p.C + c % p.C : 0);
      copy_async<16>(stage + k / granules * Tile::signal_row + k % granules * 16, from, valid);
    }
    for (int k = thread(); k < p.v_fields * kStageInputs; k += threads()) {
      int64_t j = j0 + k % kStageInputs;
      const float* from = e.v_fields + k / kStageInputs * e.v_count + s * e.v_batch + (j < j_end ? j : 0);
      copy_async<4>(stage + shared.fields + k * 4, from, j < j_end);
    }
  };

  float sums[R][M][N][4] = {};
  load_stage(j_begin, 0);
  commit_copies();
  int buffer = 0;
  for (int64_t j0 = j_begin; j0 < j_end; j0 += kStageInputs, buffer ^= 1) {
    if (j0 + kStageInputs < j_end) load_stage(j0 + kStageInputs, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    auto* v = reinterpret_cast<const float*>(stage + shared.fields);

    for (int j = 0; j < kStageInputs && j0 + j < j_end; j += 16) {
      // A lane computes the coordinates of input lane % 16 and output lane / 16; with one output half the lanes suffice.
      if (R == 2 || lane() < 16) {
        const float* own_v = v + j + lane() % 16;
        const float* own_u = u + warp() * R + lane() / 16;
        const float *a = e.correlation ? own_u : own_v, *b = e.correlation ? own_v : own_u;
        int a_row = e.correlation ? Tile::block_outputs : kStageInputs, b_row = e.correlation ? kStageInputs : Tile::block_outputs;
        lane_coordinates(e, p.own, a, a_row, b, b_row, x + lane());
      }
      sync_warp();

      uint32_t signal[parts][N / 2][4];
      PGCONV_UNROLL
      for (int part = 0; part < parts; ++part)
        PGCONV_UNROLL
        for (int n = 0; n < N / 2; ++n)
          load_matrices_transposed(signal[part][n], stage + (part * kStageInputs + j + lane() % 16) * Tile::signal_row + n * 32 +
                                                        lane() / 16 * 16);

      PGCONV_UNROLL
      for (int r = 0; r < R; ++r) {
        float z[2 * M][4];
        first_layer(first, shape.coord_dim, x + 16 * r, z);
        fast_activate<exact>(shape.activation, z);

        // phi: left operands (h, j) of the moments.
        uint32_t phi[parts][M][4];
        if (last == 0) {
          Words<2 * M> words;
          pack_both<E>(z, words);
          transpose_rows(words.high, phi[0]);
          if constexpr (exact) transpose_rows(words.low, phi[1]);
        } else {
          Words<2 * M> h;
          auto keep = [&] {
            if (p.net.split)
              pack_both<Half>(z, h);
            else
              pack_rows<Half>(z, h.high);
          };
          auto matrix = [&](int l) {
            int size = width * Tile::matrix_row;
            return SharedMatrix{memory + shared.matrices + l * size, Tile::matrix_row, last * size};
          };
          keep();
          for (int l = 0; l + 1 < last; ++l) {
            set_rows(biases + l * width, z);
            multiply_rows<Half>(matrix(l), p.net.split, h, z);
            fast_activate<exact>(shape.activation, z);
            keep();
          }
          // Left operands are the matrix's, and the pairs' words the right ones.
          const SharedMatrix top = matrix(last - 1);
          const unsigned char* own = top.begin + lane() % 16 * top.row + lane() / 16 * 16;
          PGCONV_UNROLL
          for (int m = 0; m < M; ++m) {
            const float* layer_bias = biases + (last - 1) * width + 16 * m + g;
            float y[2][4];
            PGCONV_UNROLL
            for (int n = 0; n < 2; ++n) y[n][0] = y[n][1] = layer_bias[0], y[n][2] = y[n][3] = layer_bias[8];
            PGCONV_UNROLL
            for (int k = 0; k < M; ++k) {
              uint32_t w[4];
              auto multiply = [&](const uint32_t(&words)[2 * M][2]) {
                PGCONV_UNROLL
                for (int n = 0; n < 2; ++n) Half::multiply_add(y[n], w, words[2 * k][n], words[2 * k + 1][n]);
              };
              load_matrices(w, own + 16 * m * top.row + 32 * k);
              multiply(h.high);
              if (!p.net.split) continue;
              multiply(h.low);
              load_matrices(w, own + top.low + 16 * m * top.row + 32 * k);
              multiply(h.high);
            }
            fast_activate<exact>(shape.activation, y);
            PGCONV_UNROLL
            for (int k = 0; k < 4; ++k) {
              float first = y[k / 2][k % 2 * 2], second = y[k / 2][k % 2 * 2 + 1];
              phi[0][m][k] = E::pack(first, second);
              if constexpr (exact)
                phi[1][m][k] = E::pack(first - E::value(phi[0][m][k], 0), second - E::value(phi[0][m][k], 1));
            }
          }
        }
        auto multiply = [&](const uint32_t(&features)[M][4], const uint32_t(&columns)[N / 2][4]) {
          PGCONV_UNROLL
          for (int m = 0; m < M; ++m)
            PGCONV_UNROLL
            for (int n = 0; n < N / 2; ++n) {
              E::multiply_add(sums[r][m][2 * n], features[m], columns[n][0], columns[n][1]);
              E::multiply_add(sums[r][m][2 * n + 1], features[m], columns[n][2], columns[n][3]);
            }
        };
        multiply(phi[0], signal[0]);
        if constexpr (exact) {
          multiply(phi[0], signal[1]);
          multiply(phi[1], signal[0]);
        }
      }
      sync_warp();
    }
    sync_block();
  }

  float* to = p.moments + split * e.S * p.images * e.Nu * shape.hidden * p.C;
  PGCONV_UNROLL
  for (int r = 0; r < R; ++r) {
    int64_t i = row + warp() * R + r;
    PGCONV_UNROLL
    for (int m = 0; m < M; ++m)
      PGCONV_UNROLL
      for (int n = 0; n < N; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          int h = 16 * m + g + k / 2 * 8;
          int64_t c = column + 8 * n + 2 * t + k % 2, image = c / p.C;
          if (i < e.Nu && h < shape.hidden && image < p.images)
            to[(((s * p.images + image) * e.Nu + i) * shape.hidden + h) * p.C + c % p.C] = sums[r][m][n][k];
        }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
