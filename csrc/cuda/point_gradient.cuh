// Gradients of elements and kernel net of a point convolution on a GPU, from those of the moments:
//
//     dphi[i, j, h] = sum_{image, c} dM[image, i, h, c] f[image, j, c],  then back through net, chart and group law.
//
// One pass, nothing of the size of the pairs, no atomics. A warp owns 16 inputs j and walks over the outputs, two at a time;
// what belongs to inputs or net is summed where it is, what belongs to outputs is summed over the block's inputs and written.
// Products have the pairs as rows, so that sums are the next one's left operands. Gradients are rounded to the signal's type
// there, with float32 sums; matrices are in two parts of it, since every rounding on the way adds to the error. The net is
// computed again with the phases' accuracy of float32: the slope of a kink must not depend on rounding.
//
// For nets of one or two hidden layers. Per 16 pairs a warp takes 16 H (2 L - 1) + 16 H (L = 1) activations (the last layer's
// values are not needed), 2 * 16 H (D + 1) float32 FLOPs, and products of 32 H (C + 6 (L - 1) H + 32 + 2 (D + 1)) FLOPs.
#pragma once

#include "half_net.cuh"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kGradientInputs = 16 * kPointWarps;  // of a block
constexpr int kGradientOutputs = 2;                // of a stage
constexpr int kGradientWidth = 32;                 // features, padded
constexpr int kGradientColumns = 96;               // of a set, at most
constexpr int kGradientCoords = 16;                // at most one less
constexpr int kGradientMatrixRow = 2 * kGradientWidth + 16, kGradientFirstRow = 2 * kGradientCoords + 16;  // bytes

// A warp's sums of parameter gradients, padded: the first layer [kGradientCoords][width], its bias in row D; then the second
// layer's matrix [width][width] and bias.
constexpr int kGradientParams = kGradientCoords * kGradientWidth + kGradientWidth * (kGradientWidth + 1);

struct PointGradient {
  Features<float> elements;
  HalfNet net;
  const uint16_t* matrix;  // of the second layer, in two parts of the signal's type
  const uint16_t* first;   // [2][width][kGradientCoords] likewise
  int own, v_fields, u_fields;
  int64_t images, C;       // of a set; columns are (image, channel), C a multiple of 8
  int64_t input_blocks, splits, split_outputs;
  const uint16_t* f;       // [S images, Nv, C]
  const uint16_t* moments; // gradient, [S images, Nu, H, C]
  float* params;           // [blocks][warps][kGradientParams]
  float* v;                // gradients of fields, [S][splits][v_fields][Nv]
  float* u;                // [S][input_blocks][u_fields][Nu]
};

// Shared memory of a block, in bytes from its beginning.
struct GradientShared {
  int half_matrix, matrix, first_matrix, first, bias, f, v, coords, grad_coords, grad_v, grad_u, stage, u, stage_size, size;
  int columns_row;

  PGCONV_INLINE GradientShared of(const NetShape& net, int columns, int v_fields, int u_fields) {
    GradientShared s;
    auto take = [at = 0](int bytes) mutable {
      int begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    s.columns_row = (columns + 15) / 16 * 32 + 16;
    s.half_matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.matrix = take(2 * kGradientWidth * kGradientMatrixRow);
    s.first_matrix = take(2 * kGradientWidth * kGradientFirstRow);
    s.first = take((net.coord_dim + 1) * kGradientWidth * 4);
    s.bias = take(kGradientWidth * 4);
    s.f = take(kGradientInputs * s.columns_row);
    s.v = take(v_fields * kGradientInputs * 4);
    s.coords = take(kPointWarps * net.coord_dim * kWarp * 4);
    s.grad_coords = take(kPointWarps * net.coord_dim * kWarp * 4);
    s.grad_v = take(kPointWarps * v_fields * kWarp * 4);
    s.grad_u = take(kPointWarps * u_fields * kGradientOutputs * 4);
    s.u = kGradientOutputs * kGradientWidth * s.columns_row;
    s.stage_size = s.u + (u_fields * kGradientOutputs * 4 + 15) / 16 * 16;
    s.stage = take(2 * s.stage_size);
    s.size = take(0);
    return s;
  }
};

// Back from the coordinates of lane_coordinates(): adds to the fields of v, at a distance of kWarp, and writes those of u, summed
// over the 16 lanes that share it.
template <class G>
PGCONV_DEVICE void group_gradients(const Features<float>& e, int own, const float* v, int v_row, const float* u, int u_row,
                                   const float* gx, float* grad_v, float* grad_u, int grad_u_row) {
  const float *a = e.correlation ? u : v, *b = e.correlation ? v : u;
  int a_row = e.correlation ? u_row : v_row, b_row = e.correlation ? v_row : u_row;
  float fa[G::fields], fb[G::fields] = {}, g[G::element], x[G::max_coords] = {};
  float gg[G::element] = {}, ga[G::fields] = {}, gb[G::fields] = {};
  PGCONV_UNROLL
  for (int c = 0; c < G::fields; ++c) fa[c] = a[(e.orbit + c) * a_row];
  PGCONV_UNROLL
  for (int c = 0; c < G::element; ++c) fb[c] = b[(e.orbit + c) * b_row];
  PGCONV_UNROLL
  for (int c = 0; c < G::max_coords; ++c)
    if (c < own) x[c] = gx[c * kWarp];
  G::relative(fa, fb, g);
  G::coordinates_backward(e.chart, e.part, g, x, gg);
  G::relative_backward(fa, fb, gg, ga, gb);
  auto add = [&](int c, float of_a, float of_b, bool b_read) {
    float of_v = e.correlation ? of_b : of_a, of_u = e.correlation ? of_a : of_b;
    if (b_read || !e.correlation) grad_v[c * kWarp] += of_v;
    if (b_read || e.correlation) {
      for (int mask = 8; mask > 0; mask /= 2) of_u += exchange(of_u, mask);
      if (lane() % 16 == 0) grad_u[c * grad_u_row] = of_u;
    }
  };
  for (int c = 0; c < e.orbit; ++c) add(c, gx[(own + c) * kWarp], gx[(own + e.orbit + c) * kWarp], true);
  // Of b the fields behind the element are not read, and have no place.
  PGCONV_UNROLL
  for (int c = 0; c < G::fields; ++c) add(e.orbit + c, ga[c], gb[c], c < G::element);
}

PGCONV_DEVICE void lane_gradients(const Features<float>& e, int own, const float* v, int v_row, const float* u, int u_row,
                                  const float* gx, float* grad_v, float* grad_u, int grad_u_row) {
  with_group(e.group, [&](auto group) {
    group_gradients<decltype(group)>(e, own, v, v_row, u, u_row, gx, grad_v, grad_u, grad_u_row);
  });
}

// The right operand (pair, number) of coordinates, in two parts: numbers d < D are the high parts, D is 1, those from D + 1 on the
// low parts, 0 in all places behind.
template <class E>
PGCONV_DEVICE void coordinate_operand(const float* x, int D, int number, uint32_t (&right)[2]) {
  int d = number < D + 1 ? number : number - (D + 1);
  bool low = number > D;
  const float* from = x + d * kWarp + lane() % 4 * 2;
  PGCONV_UNROLL
  for (int k = 0; k < 2; ++k) {
    float x0 = 0, x1 = 0;
    if (d < D) x0 = from[8 * k], x1 = from[8 * k + 1];
    if (d == D && !low) x0 = x1 = 1;
    right[k] = E::pack(x0, x1);
    if (low) right[k] = E::pack(x0 - E::value(right[k], 0), x1 - E::value(right[k], 1));
  }
}

// tiles: of 8 numbers, for both parts of the coordinates and the bias.
template <class E, int tiles>
PGCONV_KERNEL(kPointWarps * kWarp) point_gradient(const PointGradient p) {
  constexpr int width = kGradientWidth, T = width / 8;
  const Features<float>& e = p.elements;
  const NetShape& shape = p.net.shape;
  const int D = shape.coord_dim, H = shape.hidden, columns = int(p.images * p.C);
  const bool deep = shape.hidden_layers > 1;
  const auto shared = GradientShared::of(shape, columns, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>();
  const int g = lane() / 4, t = lane() % 4;

  int64_t at = block();
  const int64_t input_block = at % p.input_blocks;
  at /= p.input_blocks;
  const int64_t split = at % p.splits, s = at / p.splits;
  const int64_t j0 = input_block * kGradientInputs, i_begin = split * p.split_outputs;
  const int64_t i_end = i_begin + p.split_outputs < e.Nu ? i_begin + p.split_outputs : e.Nu;

  auto* first = reinterpret_cast<float*>(memory + shared.first);
  auto* bias = reinterpret_cast<float*>(memory + shared.bias);
  auto* v = reinterpret_cast<float*>(memory + shared.v);
  auto* x = reinterpret_cast<float*>(memory + shared.coords) + warp() * D * kWarp;
  auto* gx = reinterpret_cast<float*>(memory + shared.grad_coords) + warp() * D * kWarp;
  auto* grad_v = reinterpret_cast<float*>(memory + shared.grad_v) + warp() * p.v_fields * kWarp;
  auto* grad_u = reinterpret_cast<float*>(memory + shared.grad_u);  // [warp][field][output]
  for (int k = thread(); k < (D + 1) * width; k += threads()) first[k] = p.net.first[k];
  for (int c = 0; c < p.v_fields; ++c) grad_v[c * kWarp + lane()] = 0;
  for (int k = thread(); k < 2 * width * kGradientCoords / 8; k += threads())
    copy_async<16>(memory + shared.first_matrix + k / 2 * kGradientFirstRow + k % 2 * 16, p.first + 8 * k, true);
  if (deep) {
    for (int k = thread(); k < width; k += threads()) bias[k] = p.net.biases[k];
    for (int k = thread(); k < 2 * width * width / 8; k += threads()) {
      int to = k / (width / 8) * kGradientMatrixRow + k % (width / 8) * 16;
      copy_async<16>(memory + shared.half_matrix + to, p.net.matrices + 8 * k, true);
      copy_async<16>(memory + shared.matrix + to, p.matrix + 8 * k, true);
    }
  }
  auto matrix_at = [&](int begin, int row) { return SharedMatrix{memory + begin, row, width * row}; };
  const SharedMatrix half_matrix = matrix_at(shared.half_matrix, kGradientMatrixRow);
  const SharedMatrix matrix = matrix_at(shared.matrix, kGradientMatrixRow);
  const SharedMatrix first_matrix = matrix_at(shared.first_matrix, kGradientFirstRow);
  // Rows of `granules` times 8 columns of what is stored as [image][number][C].
  const int granules = (columns + 15) / 16 * 2;
  auto load_columns = [&](unsigned char* to, int k, const uint16_t* from, int64_t numbers, int64_t number, bool valid) {
    int64_t c = k % granules * 8, image = c / p.C;
    valid = valid && image < p.images;
    from += valid ? ((s * p.images + image) * numbers + number) * p.C + c % p.C : 0;
    copy_async<16>(to + k / granules * shared.columns_row + k % granules * 16, from, valid);
  };
  for (int k = thread(); k < kGradientInputs * granules; k += threads()) {
    int64_t j = j0 + k / granules;
    load_columns(memory + shared.f, k, p.f, e.Nv, j, j < e.Nv);
  }
  // Inputs beyond the end have signal 0 and elements of zeros, so that their gradients are 0; likewise outputs.
  for (int k = thread(); k < p.v_fields * kGradientInputs; k += threads()) {
    int64_t j = j0 + k % kGradientInputs;
    v[k] = j < e.Nv ? e.v_fields[k / kGradientInputs * e.v_count + s * e.v_batch + j] : 0.0f;
  }
  auto load_stage = [&](int64_t i0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    for (int k = thread(); k < kGradientOutputs * width * granules; k += threads()) {
      int row = k / granules, h = row % width;
      int64_t i = i0 + row / width;
      load_columns(stage, k, p.moments, e.Nu * H, i * H + h, i < i_end && h < H);
    }
    for (int k = thread(); k < p.u_fields * kGradientOutputs; k += threads()) {
      int64_t i = i0 + k % kGradientOutputs;
      const float* from = e.u_fields + k / kGradientOutputs * e.u_count + s * e.u_batch + (i < i_end ? i : 0);
      copy_async<4>(stage + shared.u + k * 4, from, i < i_end);
    }
  };

  float sums_first[T / 2][tiles][4] = {}, sums_matrix[T / 2][T + 1][4] = {};
  load_stage(i_begin, 0);
  commit_copies();
  int buffer = 0;
  for (int64_t i0 = i_begin; i0 < i_end; i0 += kGradientOutputs, buffer ^= 1) {
    if (i0 + kGradientOutputs < i_end) load_stage(i0 + kGradientOutputs, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    const float* own_v = v + warp() * 16 + lane() % 16;
    const float* own_u = reinterpret_cast<const float*>(stage + shared.u) + lane() / 16;
    auto put = [x](int d, float value) { x[d * kWarp + lane()] = value; };
    if (e.correlation)
      lane_coordinates(e, p.own, own_u, kGradientOutputs, own_v, kGradientInputs, put);
    else
      lane_coordinates(e, p.own, own_v, kGradientInputs, own_u, kGradientOutputs, put);
    sync_warp();

    for (int r = 0; r < kGradientOutputs; ++r) {
      // The net again: slopes of the first layer, its values, and slopes of the last.
      float slope[T][4], last_slope[T][4], value[T][4];
      first_layer(first, D, x + 16 * r, slope);
      fast_activate_both(shape.activation, slope, value);
      if (deep) {
        Words<T> h;
        pack_both<Half>(value, h);
        multiply_rows<Half>(half_matrix, true, h, bias, last_slope);
        float unused[T][4];
        fast_activate_both(shape.activation, last_slope, unused);
      }

      float dphi[T][4] = {};
      const unsigned char* own_f = memory + shared.f + (warp() * 16 + lane() % 16) * shared.columns_row + lane() / 16 * 16;
      const unsigned char* own_m =
          stage + (r * width + lane() % 8 + lane() / 16 * 8) * shared.columns_row + lane() / 8 % 2 * 16;
      for (int k = 0; k < granules / 2; ++k) {
        uint32_t left[4];
        load_matrices(left, own_f + 32 * k);
        PGCONV_UNROLL
        for (int n = 0; n < T / 2; ++n) {
          uint32_t m[4];
          load_matrices(m, own_m + 16 * n * shared.columns_row + 32 * k);
          E::multiply_add(dphi[2 * n], left, m[0], m[1]);
          E::multiply_add(dphi[2 * n + 1], left, m[2], m[3]);
        }
      }

      // dz: gradients of the first layer's phases, words (pair, feature).
      uint32_t dz[T][2];
      if (deep) {
        PGCONV_UNROLL
        for (int n = 0; n < T; ++n)
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) dphi[n][k] *= last_slope[n][k];
        pack_rows<E>(dphi, dz);
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
      PGCONV_UNROLL
      for (int n = 0; n < T; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) dphi[n][k] *= slope[n][k];
      pack_rows<E>(dphi, dz);

      uint32_t left[T / 2][4];
      transpose_rows(dz, left);
      PGCONV_UNROLL
      for (int n = 0; n < tiles; ++n) {
        uint32_t right[2];
        coordinate_operand<E>(x + 16 * r, D, 8 * n + g, right);
        PGCONV_UNROLL
        for (int m = 0; m < T / 2; ++m) E::multiply_add(sums_first[m][n], left[m], right[0], right[1]);
      }
      float dx[2][4] = {};
      multiply_columns<E>(first_matrix, dz, dx);
      PGCONV_UNROLL
      for (int n = 0; n < 2; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          int d = 8 * n + 2 * t + k % 2;
          if (d < D) gx[d * kWarp + 16 * r + g + k / 2 * 8] = dx[n][k];
        }
    }
    sync_warp();
    lane_gradients(e, p.own, own_v, kGradientInputs, own_u, kGradientOutputs, gx + lane(), grad_v + lane(),
                   grad_u + warp() * p.u_fields * kGradientOutputs + lane() / 16, kGradientOutputs);
    sync_block();
    for (int k = thread(); k < p.u_fields * kGradientOutputs; k += threads()) {
      int64_t i = i0 + k % kGradientOutputs;
      float sum = 0;
      for (int w = 0; w < kPointWarps; ++w) sum += grad_u[w * p.u_fields * kGradientOutputs + k];
      if (i < i_end) p.u[((s * p.input_blocks + input_block) * p.u_fields + k / kGradientOutputs) * e.Nu + i] = sum;
    }
  }

  for (int c = 0; c < p.v_fields; ++c) {
    float both = grad_v[c * kWarp + lane()];
    both += exchange(both, 16);
    int64_t j = j0 + warp() * 16 + lane();
    if (lane() < 16 && j < e.Nv) p.v[((s * p.splits + split) * p.v_fields + c) * e.Nv + j] = both;
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

// The net's matrices as PointGradient has them.
struct PackGradientNet {
  NetShape shape;
  const float* params;
  uint16_t *matrix, *first;
};

template <class E>
PGCONV_KERNEL(256) pack_gradient_net(const PackGradientNet p) {
  constexpr int width = kGradientWidth, coords = kGradientCoords;
  int H = p.shape.hidden, D = p.shape.coord_dim;
  const float* hidden = p.params + H * (D + 1);
  float scale = p.shape.activation == kSin ? hidden[(p.shape.hidden_layers - 1) * H * (H + 1)] : 1.0f;
  for (int k = int(block()) * threads() + thread(); k < 2 * width * (width + coords); k += int(blocks()) * threads()) {
    if (int n = k - 2 * width * width; n >= 0) {
      int h = n / coords % width, c = n % coords;
      p.first[n] = part_of<E>(h < H && c < D ? scale * p.params[h * D + c] : 0.0f, n / (width * coords));
    } else {
      int h = k / width % width, c = k % width;
      bool inside = p.shape.hidden_layers > 1 && h < H && c < H;
      p.matrix[k] = part_of<E>(inside ? scale * hidden[h * H + c] : 0.0f, k / (width * width));
    }
  }
}

// Of the padded sums of all warps, in double: gradients with respect to the phases' parameters, and of the parameters.
struct SumGradientNet {
  NetShape shape;
  int64_t parts;
  const float* sums;
  const float* params;
  double* totals;
  float* grad;
};

PGCONV_KERNEL(256) sum_gradient_net(const SumGradientNet p) {
  constexpr int width = kGradientWidth;
  int H = p.shape.hidden, D = p.shape.coord_dim, first = H * (D + 1);
  int count = first + (p.shape.hidden_layers - 1) * H * (H + 1);
  double slope = p.shape.activation == kSin ? double(p.params[count]) : 1;
  for (int k = int(block()) * threads() + thread(); k < count; k += int(blocks()) * threads()) {
    int n = k < first ? k : k - first, in = k < first ? D : H, from = k < first ? 0 : kGradientCoords * width;
    from += n < H * in ? n % in * width + n / in : in * width + (n - H * in);
    // The second layer's bias stands behind its padded matrix.
    if (k >= first && n >= H * in) from += (width - in) * width;
    double sum = 0;
    for (int64_t q = 0; q < p.parts; ++q) sum += p.sums[q * kGradientParams + from];
    p.totals[k] = sum;
    p.grad[k] = float(slope * sum);
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
