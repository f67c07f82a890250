// Kernel nets by matrix instructions in 16 bits, on tiles of 16 pairs.
//
// Numbers (pair, feature) of a tile are sums of matrix instructions: z[n] holds features 8 n .. 8 n + 7. Rounded to words they
// are the next product's left operand as they lie: the steps of its depth are pairs of tiles.
#pragma once

#include "fast_activations.cuh"
#include "pair_rows.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kPointWarps = 8;  // of a block

// What the kernels read of a net, numbers padded to `width` features: first layer [width][2 steps][8], see pair_rows.cuh;
// per further layer a matrix [width][width] in two 16-bit parts whose sum it is, [2][layers][width][width]; biases [width] in
// float32. Scaled for the activations of fast_activations.cuh, exact or not.
struct HalfNet {
  NetShape shape;
  int width;
  // Whether both parts of numbers and matrices are multiplied, which leaves phases the accuracy of float32: for three products
  // instead of one.
  bool split;
  const uint16_t* rows;
  const uint16_t* matrices;
  const float* biases;

  PGCONV_EVERYWHERE int parts() const { return split ? 2 : 1; }
  PGCONV_EVERYWHERE int layers() const { return shape.hidden_layers - 1; }
  PGCONV_EVERYWHERE int steps() const { return row_steps(shape.coord_dim); }
};

// Signals in float16 show errors that vanish beside the rounding of bfloat16; and every further layer of sines multiplies the
// rounding of the one before by omega0 times its weights.
template <class E>
inline bool needs_split(const NetShape& shape) {
  constexpr bool half = !E::wide;
  return shape.activation == kSin ? half || shape.hidden_layers > 2 : half && shape.hidden_layers > 2;
}

HalfNet packed_half_net(Machine& machine, const NetShape& shape, int width, bool split, bool exact, const float* params);

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

// Words of numbers.
template <class E, int n>
PGCONV_DEVICE void pack_rows(const float (&z)[n][4], uint32_t (&h)[n][2]) {
  PGCONV_UNROLL
  for (int m = 0; m < n; ++m) h[m][0] = E::pack(z[m][0], z[m][1]), h[m][1] = E::pack(z[m][2], z[m][3]);
}
// Words of their parts: each is what rounding left over of the ones before, rounded.
template <class E, int parts, int n>
PGCONV_DEVICE void pack_parts(const float (&z)[n][4], uint32_t (&h)[parts][n][2]) {
  PGCONV_UNROLL
  for (int part = 0; part < parts; ++part)
    PGCONV_UNROLL
    for (int m = 0; m < n; ++m)
      PGCONV_UNROLL
      for (int k = 0; k < 2; ++k) {
        float x = z[m][2 * k], y = z[m][2 * k + 1];
        PGCONV_UNROLL
        for (int before = 0; before < part; ++before) x -= E::value(h[before][m][k], 0), y -= E::value(h[before][m][k], 1);
        h[part][m][k] = E::pack(x, y);
      }
}

// A matrix in shared memory, rows of `row` bytes, its second part `low` bytes behind.
struct SharedMatrix {
  const unsigned char* begin;
  int row, low;
};

// A lane's row of 16 rows, for load_matrices() of a left operand 16 deep, or transposed of two right ones; and for two right
// ones.
PGCONV_DEVICE const unsigned char* left_rows(const unsigned char* begin, int row) {
  return begin + lane() % 16 * row + lane() / 16 * 16;
}
PGCONV_DEVICE const unsigned char* right_rows(const unsigned char* begin, int row) {
  return begin + (lane() % 8 + lane() / 16 * 8) * row + lane() / 8 % 2 * 16;
}

template <class E, int depth, int n>
PGCONV_DEVICE void multiply_step(int k, const uint32_t (&h)[depth][2], const uint32_t (&w)[4], float (&z)[n][4], int m) {
  uint32_t left[4] = {h[2 * k][0], h[2 * k][1], h[2 * k + 1][0], h[2 * k + 1][1]};
  E::multiply_add(z[2 * m], left, w[0], w[1]);
  E::multiply_add(z[2 * m + 1], left, w[2], w[3]);
}

// z[pair][h] = bias[h] + sum_k h[pair][k] W[h][k], of both parts of both where `split`: the small products first, since every
// step cuts off a part of what is there already.
template <class E, int depth, int n>
PGCONV_DEVICE void multiply_rows(SharedMatrix matrix, bool split, const uint32_t (&h)[2][depth][2], const float* bias,
                                 float (&z)[n][4]) {
  const unsigned char* own = right_rows(matrix.begin, matrix.row);
  auto multiply = [&](const uint32_t(&words)[depth][2], int part) {
    PGCONV_UNROLL
    for (int k = 0; k < depth / 2; ++k)
      PGCONV_UNROLL
      for (int m = 0; m < n / 2; ++m) {
        uint32_t w[4];
        load_matrices(w, own + part + 16 * m * matrix.row + 32 * k);
        multiply_step<E>(k, words, w, z, m);
      }
  };
  bias += lane() % 4 * 2;
  auto for_all = [&](auto set) {
    PGCONV_UNROLL
    for (int m = 0; m < n; ++m)
      PGCONV_UNROLL
      for (int k = 0; k < 4; ++k) set(z[m][k], bias[8 * m + k % 2]);
  };
  if (split) {
    for_all([](float& x, float) { x = 0; });
    multiply(h[1], 0);
    multiply(h[0], matrix.low);
    for_all([](float& x, float b) { x += b; });
  } else {
    for_all([](float& x, float b) { x = b; });
  }
  multiply(h[0], 0);
}
// z[pair][k] += sum_h h[pair][h] W[h][k], of both parts of the matrix and all of the numbers, but for the products of second ones.
template <class E, int parts, int depth, int n>
PGCONV_DEVICE void multiply_columns(SharedMatrix matrix, const uint32_t (&h)[parts][depth][2], float (&z)[n][4]) {
  const unsigned char* own = left_rows(matrix.begin, matrix.row);
  PGCONV_UNROLL
  for (int part = 0; part < 2; ++part)
    PGCONV_UNROLL
    for (int k = 0; k < depth / 2; ++k)
      PGCONV_UNROLL
      for (int m = 0; m < n / 2; ++m) {
        uint32_t w[4];
        load_matrices_transposed(w, own + part * matrix.low + 16 * k * matrix.row + 32 * m);
        const int count = parts < 2 - part ? parts : 2 - part;
        PGCONV_UNROLL
        for (int of = 0; of < count; ++of) multiply_step<E>(k, h[of], w, z, m);
      }
}
// The left operands (feature, pair) of numbers (pair, feature).
template <int n>
PGCONV_DEVICE void transpose_rows(const uint32_t (&h)[n][2], uint32_t (&left)[n / 2][4]) {
  PGCONV_UNROLL
  for (int m = 0; m < n / 2; ++m)
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) left[m][k] = transposed_matrix(h[2 * m + k % 2][k / 2]);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
