// Gradients of elements and kernel net of a point convolution on a GPU, from those of the moments:
//
//     dphi[i, j, h] = sum_{image, c} dM[image, i, h, c] f[image, j, c],  then back through net, chart and group law.
//
// One pass, nothing of the size of the pairs, no atomics. A warp owns 16 inputs j and walks over the outputs; what belongs to
// inputs or net is summed where it is, what belongs to outputs is summed over the block's inputs and written. Products have the
// pairs as rows, so that sums are the next one's left operands. Gradients are rounded to the signal's type there, with float32
// sums; matrices are in two parts of it, since every rounding on the way adds to the error. The net is computed again, its first
// layer with the accuracy of float32, and so are further ones if the activation has a kink, whose slope must not depend on
// rounding.
//
// For nets of one or two hidden layers. Per 16 pairs a warp takes 16 H (2 L - 1) + 16 H (L = 1) activations (the last layer's
// values are not needed), and products of 32 H (16 steps + C + 6 (L - 1) H + 32 + 2 (D + 1)) FLOPs, or 4 (L - 1) H where layers
// are not split.
#pragma once

#include <type_traits>

#include "gradient_net.cuh"
#include "pair_gradients.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kGradientInputs = 16 * kPointWarps;  // of a block
constexpr int kGradientColumns = 96;               // of a set, at most
constexpr int kOwnColumns = 32;                    // whose signal is in the registers of its warp
constexpr int kGradientMatrixRow = 2 * kGradientWidth + 16, kGradientFirstRow = 2 * kGradientCoords + 16;  // bytes

struct PointGradient {
  Features<float> elements;
  HalfNet net;
  const uint16_t* matrix;  // of the second layer, in two parts of the signal's type
  const uint16_t* first;   // [2][width][kGradientCoords] likewise
  int own, v_fields, u_fields;
  int images, C;           // of a set; columns are (image, channel), C a multiple of 8
  int outputs;             // of a stage
  int64_t input_blocks, splits, split_outputs;
  const uint16_t* f;       // [S images, Nv, C]
  const uint16_t* moments; // gradient, [S images, Nu, H, C]
  float* params;           // [blocks][warps][kGradientParams]
  float* v;                // gradients of fields, [S][splits][v_fields][Nv]
  float* u;                // [S][input_blocks][u_fields][Nu]
};

// Coordinates beside those of pair_rows.cuh, as right operands (pair, number) of the signal's type, in tiles of 8 numbers: d < D
// are the high parts, D is 1, those from D + 1 on the low parts, 0 in all places behind.
PGCONV_INLINE int number_tiles(int coord_dim) { return 2 * coord_dim + 1 <= 8 ? 1 : 2 * coord_dim + 1 <= 16 ? 2 : 4; }

// Shared memory of a block, in bytes from its beginning.
struct GradientShared {
  int half_matrix, matrix, first_matrix, first, bias, f, v, coords, grad_coords, grad_v, grad_u, stage, u, stage_size, size;
  // Bytes of rows: of columns behind kOwnColumns, of all columns, of pairs.
  int f_row, columns_row, pair_row;

  // `tiles` of numbers of a kernel may be more than the coordinates need.
  PGCONV_INLINE GradientShared of(const NetShape& net, int tiles, int columns, int outputs, int v_fields, int u_fields) {
    GradientShared s;
    auto take = [at = 0](int bytes) mutable {
      int begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    const int steps = row_steps(net.coord_dim), most = columns > kOwnColumns ? (columns + 15) / 16 * 16 : kOwnColumns;
    s.f_row = most > kOwnColumns ? 2 * (most - kOwnColumns) + 16 : 0;
    s.columns_row = 2 * most + 16;
    s.pair_row = row_bytes(2 * steps + tiles);
    s.half_matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.first_matrix = take(2 * kGradientWidth * kGradientFirstRow);
    s.first = take(kGradientWidth * row_bytes(2 * steps));
    s.bias = take(kGradientWidth * 4);
    s.f = take(kGradientInputs * s.f_row);
    s.v = take(kPointWarps * v_fields * kFieldRow * 4);
    s.coords = take(kPointWarps * (outputs > 1 ? 32 : 16) * s.pair_row);
    s.grad_coords = take(kPointWarps * net.coord_dim * outputs * 16 * 4);
    s.grad_v = take(kPointWarps * v_fields * kFieldRow * 4);
    s.grad_u = take(kPointWarps * u_fields * kFieldRow * 4);
    s.u = outputs * kGradientWidth * s.columns_row;
    s.stage_size = s.u + u_fields * kFieldRow * 4;
    s.stage = take(2 * s.stage_size);
    s.size = take(0);
    return s;
  }
};

// tiles: of numbers, see above.
template <class E, class Net, int tiles>
PGCONV_KERNEL(kPointWarps * kWarp) point_gradient(const PointGradient p) {
  constexpr int width = kGradientWidth, T = width / 8, coord_tiles = tiles > 2 ? 2 : 1;
  constexpr bool first_resident = Net::steps == kShortSteps, split = Net::split;
  const Features<float>& e = p.elements;
  const NetShape& shape = p.net.shape;
  const int D = shape.coord_dim, H = shape.hidden, columns = p.images * p.C, steps = p.net.steps();
  const bool deep = (Net::layers >= 0 ? Net::layers : shape.hidden_layers) > 1;
  const auto shared = GradientShared::of(shape, tiles, columns, p.outputs, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4;

  int64_t at = block();
  const int64_t input_block = at % p.input_blocks;
  at /= p.input_blocks;
  const int64_t split_part = at % p.splits, s = at / p.splits, i_begin = split_part * p.split_outputs;
  const int64_t own_inputs = input_block * kGradientInputs + warp() * 16;
  const int outputs = int(i_begin + p.split_outputs < e.Nu ? p.split_outputs : e.Nu - i_begin);

  auto* bias = reinterpret_cast<float*>(memory + shared.bias);
  auto own_fields = [&](int begin, int fields) { return reinterpret_cast<float*>(memory + begin) + warp() * fields * kFieldRow; };
  float *v = own_fields(shared.v, p.v_fields), *grad_v = own_fields(shared.grad_v, p.v_fields);
  auto* grad_u = reinterpret_cast<float*>(memory + shared.grad_u);  // [warp][field][output]
  unsigned char* pairs = memory + shared.coords + warp() * (p.outputs > 1 ? 32 : 16) * shared.pair_row;
  auto* grad_coords = reinterpret_cast<float*>(memory + shared.grad_coords) + warp() * D * p.outputs * 16;
  const int numbers = 2 * steps * kOctetBytes;  // of a pair, from its row's beginning

  for (int k = thread(); k < 2 * width * kGradientCoords / 8; k += threads())
    copy_async<16>(memory + shared.first_matrix + k / 2 * kGradientFirstRow + k % 2 * 16, p.first + 8 * k, true);
  const int first_row = row_bytes(2 * steps);
  for (int k = thread(); k < 2 * steps * width; k += threads())
    copy_async<16>(memory + shared.first + k / (2 * steps) * first_row + k % (2 * steps) * kOctetBytes, p.net.rows + 8 * k, true);
  if (deep) {
    for (int k = thread(); k < width; k += threads()) bias[k] = p.net.biases[k];
    for (int k = thread(); k < 2 * width * width / 8; k += threads()) {
      int to = k / (width / 8) * kGradientMatrixRow + k % (width / 8) * 16;
      if (split || k < width * width / 8) copy_async<16>(memory + shared.half_matrix + to, p.net.matrices + 8 * k, true);
      copy_async<16>(memory + shared.matrix + to, p.matrix + 8 * k, true);
    }
  }
  // Inputs beyond the end have signal 0 and elements of zeros, so that their gradients are 0; likewise outputs.
  for (int k = lane(); k < p.v_fields * kFieldRow; k += kWarp) {
    int64_t j = own_inputs + k % kFieldRow;
    v[k] = j < e.Nv ? e.v_fields[k / kFieldRow * e.v_count + s * e.v_batch + j] : 0.0f;
    grad_v[k] = 0;
  }
  if (lane() < (p.outputs > 1 ? 32 : 16)) {
    unsigned char* own_pair = pairs + lane() * shared.pair_row;
    put_no_coordinates(own_pair, D, 2 * steps);
    PGCONV_UNROLL
    for (int k = 0; k < tiles; ++k) put_octet(own_pair, 2 * steps + k, {});
    reinterpret_cast<uint16_t*>(own_pair + numbers)[D] = uint16_t(E::pack(1, 1));
  }

  // Where column c of a number's row is, of what is stored as [image][number][C].
  auto column_at = [&](const uint16_t* from, int c, int64_t count, int64_t number) {
    int image = c / p.C;
    return from + ((s * p.images + image) * count + number) * p.C + (c - image * p.C);
  };
  const int more = (shared.columns_row - 16) / 16 - kOwnColumns / 8;  // octets of columns behind those in registers
  for (int k = thread(); k < kGradientInputs * more; k += threads()) {
    int c = kOwnColumns + k % more * 8;
    int64_t j = input_block * kGradientInputs + k / more;
    bool valid = c < columns && j < e.Nv;
    copy_async<16>(memory + shared.f + k / more * shared.f_row + k % more * 16, valid ? column_at(p.f, c, e.Nv, j) : p.f, valid);
  }
  // Where the columns are those of one image, and few, a thread has the same piece of every second output and divides nothing.
  constexpr int own_octets = kOwnColumns / 8, sweep = kPointWarps * kWarp / (own_octets * width);
  const int own_h = thread() / own_octets % width, own_c = thread() % own_octets * 8, own_i = thread() / (own_octets * width);
  const bool plain = more == 0 && p.images == 1, own_piece = own_h < H && own_c < columns;
  const uint16_t* moments = p.moments + ((s * e.Nu + i_begin) * H + own_h) * p.C + own_c;
  const int octets = own_octets + more;
  auto load_stage = [&](int i0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    if (plain) {
      unsigned char* own = stage + own_h * shared.columns_row + 2 * own_c;
      for (int i = own_i; i < p.outputs; i += sweep) {
        bool valid = own_piece && i0 + i < outputs;
        copy_async<16>(own + i * width * shared.columns_row, valid ? moments + (i0 + i) * H * p.C : p.moments, valid);
      }
    } else {
      for (int k = thread(); k < p.outputs * width * octets; k += threads()) {
        int row = k / octets, c = (k - row * octets) * 8, i = i0 + row / width, h = row % width;
        bool valid = c < columns && i < outputs && h < H;
        copy_async<16>(stage + row * shared.columns_row + 2 * c,
                       valid ? column_at(p.moments, c, e.Nu * H, (i_begin + i) * H + h) : p.moments, valid);
      }
    }
    for (int k = thread(); k < p.u_fields * kFieldRow; k += threads()) {
      int i = i0 + k % kFieldRow;
      bool valid = i < outputs && k % kFieldRow < p.outputs;
      const float* from = e.u_fields + k / kFieldRow * e.u_count + s * e.u_batch + (valid ? i_begin + i : 0);
      copy_async<4>(stage + shared.u + k * 4, from, valid);
    }
  };
  commit_copies();
  load_stage(0, 0);
  commit_copies();

  // The signal of the first columns, left operands (pair, column).
  uint32_t signal[kOwnColumns / 16][4];
  PGCONV_UNROLL
  for (int k = 0; k < kOwnColumns / 16; ++k)
    PGCONV_UNROLL
    for (int n = 0; n < 4; ++n) {
      int64_t j = own_inputs + g + n % 2 * 8;
      int c = 16 * k + n / 2 * 8 + 2 * t;
      signal[k][n] = j < e.Nv && c < columns ? *reinterpret_cast<const uint32_t*>(column_at(p.f, c, e.Nv, j)) : 0u;
    }
  wait_copies<1>();
  sync_block();

  // Right operands of the first layer, there and back.
  const unsigned char* own_first = right_rows(memory + shared.first, first_row);
  uint32_t first[first_resident ? Net::steps : 1][T / 2][4], first_back[2][T / 2][4];
  if constexpr (first_resident)
    PGCONV_UNROLL
    for (int k = 0; k < Net::steps; ++k)
      PGCONV_UNROLL
      for (int m = 0; m < T / 2; ++m) load_matrices(first[k][m], own_first + 16 * m * first_row + 32 * k);
  const unsigned char* own_back = left_rows(memory + shared.first_matrix, kGradientFirstRow);
  if constexpr (first_resident)
    PGCONV_UNROLL
    for (int part = 0; part < 2; ++part)
      PGCONV_UNROLL
      for (int k = 0; k < T / 2; ++k)
        load_matrices_transposed(first_back[part][k], own_back + (part * width + 16 * k) * kGradientFirstRow);
  auto matrix_at = [&](int begin) { return SharedMatrix{memory + begin, kGradientMatrixRow, width * kGradientMatrixRow}; };
  const SharedMatrix half_matrix = matrix_at(shared.half_matrix), matrix = matrix_at(shared.matrix);

  float sums_first[T / 2][tiles][4] = {}, sums_matrix[T / 2][T + 1][4] = {};
  int buffer = 0;
  for (int i0 = 0; i0 < outputs; i0 += p.outputs, buffer ^= 1) {
    if (i0 + p.outputs < outputs) load_stage(i0 + p.outputs, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    auto* u = reinterpret_cast<const float*>(stage + shared.u);
    const int count = outputs - i0 < p.outputs ? outputs - i0 : p.outputs;

    for (int r = 0; r < count; ++r) {
      // Coordinates of two outputs, one of them for half of the lanes.
      if (r % 2 == 0) {
        sync_warp();
        if (r + lane() / 16 < p.outputs) {
          const float *own_v = v + lane() % 16, *own_u = u + r + lane() / 16;
          const float *a = e.correlation ? own_u : own_v, *b = e.correlation ? own_v : own_u;
          unsigned char* own_pair = pairs + lane() * shared.pair_row;
          lane_coordinates(e, p.own, a, kFieldRow, b, kFieldRow, [&](int d, float x) {
            uint32_t both = put_coordinate(own_pair, d, x);
            if constexpr (std::is_same<E, Half>::value) both = E::pack(x, x - E::value(E::pack(x, 0), 0));
            auto* own_numbers = reinterpret_cast<uint16_t*>(own_pair + numbers) + d;
            own_numbers[0] = uint16_t(both);
            own_numbers[D + 1] = uint16_t(both >> 16);
          });
        }
        sync_warp();
      }
      const unsigned char* rows = pairs + r % 2 * 16 * shared.pair_row;

      // The net again: slopes of the first layer, its values, and slopes of the last.
      float slope[T][4] = {}, last_slope[T][4], value[T][4];
      const unsigned char* own_pairs = left_rows(rows, shared.pair_row);
      repeat<Net::steps>(steps, [&](int k) {
        uint32_t x[4];
        load_matrices(x, own_pairs + 32 * k);
        PGCONV_UNROLL
        for (int m = 0; m < T / 2; ++m) {
          uint32_t loaded[4];
          if constexpr (!first_resident) load_matrices(loaded, own_first + 16 * m * first_row + 32 * k);
          const uint32_t(&w)[4] = first_resident ? first[first_resident ? k : 0][m] : loaded;
          Bfloat16::multiply_add(slope[2 * m], x, w[0], w[1]);
          Bfloat16::multiply_add(slope[2 * m + 1], x, w[2], w[3]);
        }
      });
      fast_activate_both<Net::activation>(shape.activation, slope, value);
      if (deep) {
        Words<T> h;
        if constexpr (split)
          pack_both<Half>(value, h);
        else
          pack_rows<Half>(value, h.high);
        multiply_rows<Half>(half_matrix, split, h, bias, last_slope);
        float unused[T][4];
        fast_activate_both<Net::activation>(shape.activation, last_slope, unused);
      }

      float dphi[T][4] = {};
      const unsigned char* own_m = right_rows(stage + r * width * shared.columns_row, shared.columns_row);
      auto multiply_columns_of = [&](int k, const uint32_t(&left)[4]) {
        PGCONV_UNROLL
        for (int n = 0; n < T / 2; ++n) {
          uint32_t m[4];
          load_matrices(m, own_m + 16 * n * shared.columns_row + 32 * k);
          E::multiply_add(dphi[2 * n], left, m[0], m[1]);
          E::multiply_add(dphi[2 * n + 1], left, m[2], m[3]);
        }
      };
      PGCONV_UNROLL
      for (int k = 0; k < kOwnColumns / 16; ++k) multiply_columns_of(k, signal[k]);
      const unsigned char* own_f = left_rows(memory + shared.f + warp() * 16 * shared.f_row, shared.f_row);
      PGCONV_ROLLED
      for (int k = 0; k < more / 2; ++k) {
        uint32_t left[4];
        load_matrices(left, own_f + 32 * k);
        multiply_columns_of(kOwnColumns / 16 + k, left);
      }

      // dz: gradients of the phases, words (pair, feature); the last layer's first.
      uint32_t dz[T][2];
      auto multiply_slope = [&](const float(&own)[T][4]) {
        PGCONV_UNROLL
        for (int n = 0; n < T; ++n)
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) dphi[n][k] *= own[n][k];
        pack_rows<E>(dphi, dz);
      };
      if (deep) {
        multiply_slope(last_slope);
        uint32_t left[T / 2][4], h[T][2];
        transpose_rows(dz, left);
        pack_rows<E>(value, h);
        PGCONV_UNROLL
        for (int n = 0; n < T; ++n) {
          uint32_t low = transposed_matrix(h[n][0]), high = transposed_matrix(h[n][1]);
          PGCONV_UNROLL
          for (int m = 0; m < T / 2; ++m) E::multiply_add(sums_matrix[m][n], left[m], low, high);
        }
        const uint32_t one = E::pack(1, 1);
        PGCONV_UNROLL
        for (int m = 0; m < T / 2; ++m) E::multiply_add(sums_matrix[m][T], left[m], one, one);
        PGCONV_UNROLL
        for (int n = 0; n < T; ++n)
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) dphi[n][k] = 0;
        multiply_columns<E>(matrix, dz, dphi);
      }
      multiply_slope(slope);

      uint32_t left[T / 2][4];
      transpose_rows(dz, left);
      PGCONV_UNROLL
      for (int n = 0; n < tiles; n += 2) {
        uint32_t right[4];
        load_matrices_transposed(right, rows + numbers + lane() % 16 * shared.pair_row + (tiles > 1 ? n + lane() / 16 : 0) * 16);
        PGCONV_UNROLL
        for (int m = 0; m < T / 2; ++m) {
          E::multiply_add(sums_first[m][n], left[m], right[0], right[1]);
          if constexpr (tiles > 1) E::multiply_add(sums_first[m][n + 1], left[m], right[2], right[3]);
        }
      }
      float dx[2][coord_tiles][4] = {};  // of the two parts of the matrix, so as to wait for half as long
      PGCONV_UNROLL
      for (int part = 0; part < 2; ++part)
        PGCONV_UNROLL
        for (int k = 0; k < T / 2; ++k) {
          uint32_t loaded[4];
          if constexpr (!first_resident)
            load_matrices_transposed(loaded, own_back + (part * width + 16 * k) * kGradientFirstRow);
          const uint32_t(&w)[4] = first_resident ? first_back[part][k] : loaded;
          uint32_t of_pairs[4] = {dz[2 * k][0], dz[2 * k][1], dz[2 * k + 1][0], dz[2 * k + 1][1]};
          E::multiply_add(dx[part][0], of_pairs, w[0], w[1]);
          if constexpr (coord_tiles > 1) E::multiply_add(dx[part][1], of_pairs, w[2], w[3]);
        }
      PGCONV_UNROLL
      for (int n = 0; n < coord_tiles; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          int d = 8 * n + 2 * t + k % 2;
          if (d < D) grad_coords[(d * p.outputs + r) * 16 + g + k / 2 * 8] = dx[0][n][k] + dx[1][n][k];
        }
    }
    sync_warp();
    lane_gradients(e, p.own, {v + lane() % 16, u, grad_coords + lane() % 16, count, p.outputs, grad_v + lane() % 16,
                              grad_u + warp() * p.u_fields * kFieldRow});
    sync_block();
    for (int k = thread(); k < p.u_fields * count; k += threads()) {
      int field = k / count, r = k - field * count;
      float sum = 0;
      for (int w = 0; w < kPointWarps; ++w) sum += grad_u[(w * p.u_fields + field) * kFieldRow + r];
      p.u[((s * p.input_blocks + input_block) * p.u_fields + field) * e.Nu + i_begin + i0 + r] = sum;
    }
  }

  sync_warp();
  for (int k = lane(); k < p.v_fields * kFieldRow; k += kWarp) {
    int64_t j = own_inputs + k % kFieldRow;
    if (j < e.Nv) p.v[((s * p.splits + split_part) * p.v_fields + k / kFieldRow) * e.Nv + j] = grad_v[k];
  }
  float* to = p.params + (block() * kPointWarps + warp()) * kGradientParams;
  PGCONV_UNROLL
  for (int m = 0; m < T / 2; ++m)
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) {
      int h = 16 * m + g + k / 2 * 8;
      PGCONV_UNROLL
      for (int n = 0; n < tiles; ++n) {
        int number = 8 * n + 2 * t + k % 2;
        if (number <= D) to[number * width + h] = sums_first[m][n][k];
      }
      float* second = to + kGradientCoords * width;
      PGCONV_UNROLL
      for (int n = 0; n <= T; ++n) {
        int number = 8 * n + 2 * t + k % 2;
        if (number <= width) second[number * width + h] = sums_matrix[m][n][k];
      }
    }
  // The low parts of the coordinates, which other lanes hold.
  sync_warp();
  PGCONV_UNROLL
  for (int m = 0; m < T / 2; ++m)
    PGCONV_UNROLL
    for (int n = 0; n < tiles; ++n)
      PGCONV_UNROLL
      for (int k = 0; k < 4; ++k) {
        int h = 16 * m + g + k / 2 * 8, number = 8 * n + 2 * t + k % 2 - (D + 1);
        if (number >= 0 && number < D) to[number * width + h] += sums_first[m][n][k];
      }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
