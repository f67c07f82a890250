// Moments of a point convolution on a GPU:
//
//     M[b, i, h, c] = sum_j phi_h(v_j^-1 u_i) f[b, j, c]
//
// A warp owns an output i and walks over the inputs, 16 at a time. Coordinates are computed by one lane for each pair and go
// through shared memory; everything behind them by matrix instructions whose results are the next one's operands as they lie in
// the registers:
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

struct PointMoments {
  Features<float> elements;
  HalfNet net;
  int own;                 // coordinates of the relative element
  int v_fields, u_fields;  // that are read: of a all, of b those of the element
  int images, C;           // of a set; columns are (image, channel), and C is a multiple of 8
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

// What a net is known to be when a kernel is compiled; kAny: what is read when it runs.
constexpr int kAny = -1;
template <int activation_ = kAny, int layers_ = kAny, int steps_ = kAny, int split_ = kAny>
struct KnownNet {
  static constexpr int activation = activation_;
  static constexpr int layers = layers_;  // hidden ones
  static constexpr int steps = steps_;    // of the first layer
  static constexpr int split = split_;    // whether products are of two parts
};

// f(k) for k < count, of which the compiler may know.
template <int known, class F>
PGCONV_DEVICE void repeat(int count, F f) {
  if constexpr (known >= 0) {
    PGCONV_UNROLL
    for (int k = 0; k < known; ++k) f(k);
  } else {
    PGCONV_ROLLED
    for (int k = 0; k < count; ++k) f(k);
  }
}

// Tiles of 16 features and of 8 columns, of a warp: what it sums up has features * columns * 4 numbers for each lane. Parts of
// the signal: 1, or 2 for float32. Warps of a block, blocks of a multiprocessor; inputs whose signal and fields a block holds at
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

// Shared memory of a block, in bytes from its beginning. Fields of u and v are at a distance of Tile::stage.
template <class Tile>
struct PointShared {
  int matrices, first, biases, u, coords, stage, stage_size, fields, size;

  PGCONV_INLINE PointShared of(const HalfNet& net, int v_fields, int u_fields) {
    PointShared s;
    auto take = [at = 0](int bytes) mutable {
      int begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    s.matrices = take(net.parts() * net.layers() * Tile::width * Tile::matrix_row);
    s.first = take(Tile::width * row_bytes(net.steps()));
    s.biases = take(net.layers() * Tile::width * 4);
    s.u = take(u_fields * Tile::stage * 4);
    s.coords = take(Tile::warps * Tile::coords * row_bytes(net.steps()));
    s.fields = Tile::parts * Tile::stage * Tile::signal_row;
    s.stage_size = s.fields + v_fields * Tile::stage * 4;
    s.stage = take(2 * s.stage_size);
    s.size = take(0);
    return s;
  }
};

template <class E, class Tile, class Net>
PGCONV_KERNEL_PER(Tile::threads, Tile::blocks) point_moments(const PointMoments p) {
  constexpr int M = Tile::features, N = Tile::columns, parts = Tile::parts, width = Tile::width;
  constexpr bool exact = parts == 2;
  const Features<float>& e = p.elements;
  const NetShape& shape = p.net.shape;
  const auto shared = PointShared<Tile>::of(p.net, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4;
  const int last = (Net::layers >= 0 ? Net::layers : shape.hidden_layers) - 1, steps = p.net.steps();
  const bool split = Net::split == kAny ? p.net.split : Net::split == 1;

  // Consecutive blocks have the same inputs: rows of outputs first.
  int64_t at = block();
  const int64_t row = at % p.row_blocks * Tile::warps;
  at /= p.row_blocks;
  const int column = int(at % p.column_blocks) * Tile::channels;
  at /= p.column_blocks;
  const int64_t s = at / p.splits, part_of_inputs = at % p.splits, j_begin = part_of_inputs * p.split_inputs;
  const int inputs = int(j_begin + p.split_inputs < e.Nv ? p.split_inputs : e.Nv - j_begin);

  auto* biases = reinterpret_cast<float*>(memory + shared.biases);
  auto* u = reinterpret_cast<float*>(memory + shared.u);
  const int pair_row = row_bytes(steps);
  unsigned char* pairs = memory + shared.coords + warp() * Tile::coords * pair_row;
  for (int k = thread(); k < 2 * steps * width; k += Tile::threads)
    copy_async<16>(memory + shared.first + k / (2 * steps) * pair_row + k % (2 * steps) * kOctetBytes, p.net.rows + 8 * k, true);
  for (int k = thread(); k < last * width; k += Tile::threads) biases[k] = p.net.biases[k];
  for (int k = thread(); k < p.net.parts() * last * width * width / 8; k += Tile::threads)
    copy_async<16>(memory + shared.matrices + k / (width / 8) * Tile::matrix_row + k % (width / 8) * 16,
                   p.net.matrices + 8 * k, true);
  // Outputs beyond the end repeat the last one and are not stored.
  for (int k = thread(); k < p.u_fields * Tile::warps; k += Tile::threads) {
    int64_t i = row + k % Tile::warps;
    u[k / Tile::warps * Tile::stage + k % Tile::warps] =
        e.u_fields[k / Tile::warps * e.u_count + s * e.u_batch + (i < e.Nu ? i : e.Nu - 1)];
  }
  if (lane() < Tile::coords) put_no_coordinates(pairs + lane() * pair_row, shape.coord_dim, 2 * steps);

  // Inputs beyond the end have signal 0; their elements are zeros, too, and no coordinates of those are NaN. A thread copies the
  // same columns of all inputs that it copies, and the same inputs of all fields.
  constexpr int granules = Tile::channels / 8;
  static_assert(Tile::threads % granules == 0 && Tile::threads % Tile::stage == 0, "whole rows of threads");
  const int own_column = column + thread() % granules * 8, own_image = own_column / p.C;
  const uint16_t* own_f = p.f + ((s * p.images + own_image) * e.Nv + j_begin) * p.C + (own_column - own_image * p.C);
  const float* own_fields = e.v_fields + s * e.v_batch + j_begin + thread() % Tile::stage;
  auto load_stage = [&](int j0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    PGCONV_UNROLL
    for (int part = 0; part < parts; ++part)
      PGCONV_UNROLL
      for (int k = 0; k < Tile::stage; k += Tile::threads / granules) {
        int j = k + thread() / granules;
        if (Tile::stage % (Tile::threads / granules) && j >= Tile::stage) continue;
        bool valid = j0 + j < inputs && own_image < p.images;
        const uint16_t* from = own_f + (part * e.S * p.images * e.Nv + j0 + j) * p.C;
        copy_async<16>(stage + (part * Tile::stage + j) * Tile::signal_row + thread() % granules * 16, valid ? from : p.f, valid);
      }
    bool valid = j0 + thread() % Tile::stage < inputs;
    const float* from = valid ? own_fields + j0 : e.v_fields;
    PGCONV_ROLLED
    for (int c = thread() / Tile::stage; c < p.v_fields; c += Tile::threads / Tile::stage)
      copy_async<4>(stage + shared.fields + (c * Tile::stage + thread() % Tile::stage) * 4, from + c * e.v_count, valid);
  };

  commit_copies();
  load_stage(0, 0);
  commit_copies();
  wait_copies<1>();
  sync_block();

  // Operands of a known net stay in registers as far as there are some: of the first layer right ones, of the last left ones.
  constexpr bool top_resident = Net::layers == 2 && Net::split == 0, first_resident = Net::steps == kShortSteps;
  const unsigned char* own_first = right_rows(memory + shared.first, pair_row);
  uint32_t first[first_resident ? Net::steps : 1][M][4], top[M][M][4];
  if constexpr (first_resident)
    PGCONV_UNROLL
    for (int k = 0; k < Net::steps; ++k)
      PGCONV_UNROLL
      for (int m = 0; m < M; ++m) load_matrices(first[k][m], own_first + 16 * m * pair_row + 32 * k);
  auto matrix = [&](int l) {
    int size = width * Tile::matrix_row;
    return SharedMatrix{memory + shared.matrices + l * size, Tile::matrix_row, last * size};
  };
  const SharedMatrix top_matrix = matrix(last - 1);
  const unsigned char* own_top = left_rows(top_matrix.begin, Tile::matrix_row);
  auto load_top = [&](int m, int k, int part, uint32_t(&w)[4]) {
    load_matrices(w, own_top + part * top_matrix.low + 16 * m * Tile::matrix_row + 32 * k);
  };
  if constexpr (top_resident)
    PGCONV_UNROLL
    for (int m = 0; m < M; ++m)
      PGCONV_UNROLL
      for (int k = 0; k < M; ++k) load_top(m, k, 0, top[m][k]);

  float sums[M][N][4] = {};
  int buffer = 0;
  for (int j0 = 0; j0 < inputs; j0 += Tile::stage, buffer ^= 1) {
    if (j0 + Tile::stage < inputs) load_stage(j0 + Tile::stage, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    const int left = inputs - j0 < Tile::stage ? inputs - j0 : Tile::stage;
    for (int j = 0; j < left; j += 16) {
      if (j % Tile::coords == 0) {
        sync_warp();
        if (lane() < Tile::coords) {
          const float* v = reinterpret_cast<const float*>(stage + shared.fields) + j + lane();
          const float *a = e.correlation ? u + warp() : v, *b = e.correlation ? v : u + warp();
          unsigned char* own_pair = pairs + lane() * pair_row;
          lane_coordinates(e, p.own, a, Tile::stage, b, Tile::stage,
                           [own_pair](int d, float x) { put_coordinate(own_pair, d, x); });
        }
        sync_warp();
      }

      float z[2 * M][4] = {};
      const unsigned char* own_pairs = left_rows(pairs + j % Tile::coords * pair_row, pair_row);
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
        Words<2 * M> words;
        pack_both<E>(z, words);
        transpose_rows(words.high, phi[0]);
        if constexpr (exact) transpose_rows(words.low, phi[1]);
      } else {
        Words<2 * M> h;
        auto keep = [&] {
          if (split)
            pack_both<Half>(z, h);
          else
            pack_rows<Half>(z, h.high);
        };
        keep();
        repeat<Net::layers >= 0 ? Net::layers - 2 : kAny>(last - 1, [&](int l) {
          multiply_rows<Half>(matrix(l), split, h, biases + l * width, z);
          fast_activate<Net::activation, exact>(shape.activation, z);
          keep();
        });
        // Left operands are the matrix's, and the pairs' words the right ones.
        PGCONV_UNROLL
        for (int m = 0; m < M; ++m) {
          const float* bias = biases + (last - 1) * width + 16 * m + g;
          float y[2][4] = {};
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
            multiply(h.low, 0);
            multiply(h.high, 1);
          }
          PGCONV_UNROLL
          for (int n = 0; n < 2; ++n)
            PGCONV_UNROLL
            for (int k = 0; k < 4; ++k) y[n][k] += bias[k / 2 * 8];
          multiply(h.high, 0);
          fast_activate<Net::activation, exact>(shape.activation, y);
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) {
            float one = y[k / 2][k % 2 * 2], two = y[k / 2][k % 2 * 2 + 1];
            phi[0][m][k] = E::pack(one, two);
            if constexpr (exact) phi[1][m][k] = E::pack(one - E::value(phi[0][m][k], 0), two - E::value(phi[0][m][k], 1));
          }
        }
      }

      const unsigned char* own_signal = left_rows(stage + j * Tile::signal_row, Tile::signal_row);
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
          load_matrices_transposed(signal, own_signal + Tile::stage * Tile::signal_row + 32 * n);
          multiply(0, signal);
        }
      }
    }
    sync_block();
  }

  const int64_t i = row + warp();
  if (i >= e.Nu) return;
  float* to = p.moments + part_of_inputs * e.S * p.images * e.Nu * shape.hidden * p.C;
  PGCONV_UNROLL
  for (int n = 0; n < N; ++n) {
    int c = column + 8 * n, image = c / p.C;
    if (image >= p.images) break;
    float* of_image = to + ((s * p.images + image) * e.Nu + i) * shape.hidden * p.C + (c - image * p.C) + 2 * t;
    PGCONV_UNROLL
    for (int m = 0; m < M; ++m)
      PGCONV_UNROLL
      for (int k = 0; k < 2; ++k) {
        int h = 16 * m + g + 8 * k;
        if (h < shape.hidden)
          *reinterpret_cast<TwoNumbers*>(of_image + int64_t(h) * p.C) = {sums[m][n][2 * k], sums[m][n][2 * k + 1]};
      }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
