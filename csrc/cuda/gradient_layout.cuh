// What the kernel of point_gradient.cuh is called with, how numbers go into its products, and what a block has in shared memory.
#pragma once

#include "half_net.cuh"
#include "pair_gradients.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kGradientWidth = 32;   // features, padded
constexpr int kGradientCoords = 16;  // at most one less

// A warp's sums of parameter gradients, padded: the first layer [kGradientCoords][width], its bias in row D; then the second
// layer's matrix [width][width] and bias.
constexpr int kGradientParams = kGradientCoords * kGradientWidth + kGradientWidth * (kGradientWidth + 1);

constexpr int kGradientInputs = 16 * kPointWarps;  // of a block
constexpr int kGradientColumns = 96;               // of a set, at most
constexpr int kOwnColumns = 32;                    // that there is always room for
constexpr int kGradientMatrixRow = 2 * kGradientWidth + 16, kGradientFirstRow = 2 * kGradientCoords + 16;  // bytes

// Numbers of 16 bits are rounded to their type again behind every product.
template <class E>
struct Rounded {
  using Number = E;  // of signal, gradients of moments, and what becomes of them
  using First = E;   // of the first layer, there and its gradients
  static constexpr bool exact = false;
  // Columns whose signal is in the registers of its warp.
  static constexpr int resident = kOwnColumns;
  // Of numbers; of gradients of the first layer's phases; of its weights and inputs.
  static constexpr int parts = 1, first_parts = 1, input_parts = 2;
};
// Numbers of float32 are the sum of two of float16 from the signal to the last layer, scaled into their range (by the caller, see
// PointGradient::factor, and behind the sum over the columns by a power of two for each output and 16 inputs), and of three of
// bfloat16 in the first layer, which have the range of float32. Products of parts that are below 2^-22 of the whole are not formed.
struct InParts {
  using Number = Half;
  using First = Bfloat16;
  static constexpr bool exact = true;
  static constexpr int resident = 0;
  static constexpr int parts = 2, first_parts = 3, input_parts = 3;
};

PGCONV_DEVICE float larger(float a, float b) { return a < b ? b : a; }

// What brings the largest of the numbers in a warp just below 2^14; 1 if all are 0. The same in all lanes.
PGCONV_DEVICE float power_for(float largest) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) largest = larger(largest, exchange(largest, mask));
  constexpr int most = 240;  // 2^113, as an exponent of float32
  const int exponent = 267 - int(bits_of(largest) >> 23);
  return largest == 0 ? 1.0f : number_of(uint32_t(exponent < most ? exponent : most) << 23);
}
// The inverse of a power of two.
PGCONV_DEVICE float inverse_power(float power) { return number_of((254u << 23) - bits_of(power)); }

struct PointGradient {
  Features<float> elements;
  HalfNet net;
  const uint16_t* matrix;  // of the second layer, in two parts
  const uint16_t* first;   // [input_parts][width][kGradientCoords]
  int own, v_fields, u_fields;
  int images, C;           // of a set; columns are (image, channel), C a multiple of 8
  int outputs;             // of a stage
  int64_t input_blocks, splits, split_outputs;
  const uint16_t* f;       // [parts][S images, Nv, C]
  const uint16_t* moments; // gradient, [parts][S images, Nu, H, C]
  const float* factor;     // [S], what results are multiplied with; null, as power, for 16 bits: 1
  const float* power;      // what the second layer's matrix is multiplied with, and what lies before it divided by
  float* params;           // [blocks][warps][kGradientParams]
  float* v;                // gradients of fields, [S][splits][v_fields][Nv]
  float* u;                // [S][input_blocks][u_fields][Nu]
};

// Coordinates beside those of pair_rows.cuh, as right operands (pair, number), in tiles of 8 numbers: d < D are the first parts,
// D is 1, further parts follow, D each, 0 in all places behind.
PGCONV_INLINE int number_tiles(int coord_dim, int input_parts) { return (input_parts * coord_dim + 8) / 8; }

// Shared memory of a block, in bytes from its beginning.
struct GradientShared {
  int half_matrix, matrix, first_matrix, first, bias, f, v, coords, grad_coords, grad_v, grad_u, stage, u, stage_size, size;
  // Bytes of rows: of columns that are not resident, of all columns, of pairs.
  int f_row, columns_row, pair_row;
  // Of one part: bytes of f and of a stage's moments.
  int f_part, moments_part;

  // `tiles` of numbers of a kernel may be more than the coordinates need.
  template <class Type>
  PGCONV_INLINE GradientShared of(const NetShape& net, int tiles, int columns, int outputs, int v_fields, int u_fields) {
    GradientShared s;
    auto take = [at = 0](int bytes) mutable {
      int begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    const int steps = row_steps(net.coord_dim), most = columns > kOwnColumns ? (columns + 15) / 16 * 16 : kOwnColumns;
    s.f_row = most > Type::resident ? 2 * (most - Type::resident) + 16 : 0;
    s.columns_row = 2 * most + 16;
    s.pair_row = row_bytes(2 * steps + tiles);
    s.half_matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.first_matrix = take(Type::input_parts * kGradientWidth * kGradientFirstRow);
    s.first = take(kGradientWidth * row_bytes(2 * steps));
    s.bias = take(kGradientWidth * 4);
    s.f_part = kGradientInputs * s.f_row;
    s.f = take(Type::parts * s.f_part);
    s.v = take(kPointWarps * v_fields * kFieldRow * 4);
    s.coords = take(kPointWarps * (outputs > 1 ? 32 : 16) * s.pair_row);
    s.grad_coords = take(kPointWarps * net.coord_dim * outputs * 16 * 4);
    s.grad_v = take(kPointWarps * v_fields * kFieldRow * 4);
    s.grad_u = take(kPointWarps * u_fields * kFieldRow * 4);
    s.moments_part = outputs * kGradientWidth * s.columns_row;
    s.u = Type::parts * s.moments_part;
    s.stage_size = s.u + u_fields * kFieldRow * 4;
    s.stage = take(2 * s.stage_size);
    s.size = take(0);
    return s;
  }
};

// A kernel, the tiles of numbers that it has, and whether it splits layers.
struct GradientKernel {
  void (*kernel)(PointGradient);
  int tiles;
  bool split;
};

// For signals of float32, in a source of its own so as to be compiled side by side: point_gradient_exact.cu.
GradientKernel exact_gradient(const NetShape& shape);

}  // namespace PGCONV_ISA
}  // namespace pgconv
