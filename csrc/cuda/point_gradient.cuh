// Gradients of elements and kernel net of a point convolution on a GPU, from those of the moments:
//
//     dphi[i, j, h] = sum_{image, c} dM[image, i, h, c] f[image, j, c],  then back through net, chart and group law.
//
// One pass, nothing of the size of the pairs, no atomics. A warp owns 16 inputs j and walks over the outputs; what belongs to
// inputs or net is summed where it is, what belongs to outputs is summed over the block's inputs and written. Products have the
// pairs as rows, so that sums are the next one's left operands. Of a signal in 16 bits gradients are rounded to its type there,
// with float32 sums; matrices are in two parts of it, since every rounding on the way adds to the error. Of a float32 signal all
// operands are in parts, see gradient_layout.cuh. The net is computed again, its first layer with the accuracy of float32, and so
// are further ones for float32 or if the activation has a kink, whose slope must not depend on rounding.
//
// For nets of one or two hidden layers. Per 16 pairs a warp takes 16 H (2 L - 1) + 16 H (L = 1) activations (the last layer's
// values are not needed), and products of 32 H (16 steps + C + 6 (L - 1) H + 32 + 2 (D + 1)) FLOPs, or 4 (L - 1) H where layers
// are not split; for float32 32 H (16 steps + 3 C + 9 (L - 1) H + 96 + 9 (D + 1)).
#pragma once

#include <type_traits>

#include "gradient_layout.cuh"

namespace pgconv {
namespace PGCONV_ISA {

// Sums of matrix instructions, multiply(sums), onto what there is: directly, or if `apart` on their own first, times a factor, and then
// rounded. The instructions cut off what they add, see parts.h.
template <bool apart, int n, class F>
PGCONV_DEVICE void add_products(float (&sums)[n][4], float factor, F multiply) {
  if constexpr (apart) {
    float own[n][4] = {};
    multiply(own);
    PGCONV_UNROLL
    for (int m = 0; m < n; ++m)
      PGCONV_UNROLL
      for (int k = 0; k < 4; ++k) sums[m][k] += factor * own[m][k];
  } else {
    multiply(sums);
  }
}

// tiles: of numbers, at least as many as the coordinates have.
template <class Type, class Net, int tiles>
PGCONV_KERNEL(kPointWarps * kWarp) point_gradient(const PointGradient p) {
  using E = typename Type::Number;
  using First = typename Type::First;
  constexpr int parts = Type::parts, input_parts = Type::input_parts;
  constexpr int width = kGradientWidth, T = width / 8, coord_tiles = (8 * tiles - 1) / input_parts > 8 ? 2 : 1;
  constexpr bool first_resident = Net::steps == kShortSteps && !Type::exact, split = Net::split;
  const Features<float>& e = p.elements;
  const NetShape& shape = p.net.shape;
  const int D = shape.coord_dim, H = shape.hidden, columns = p.images * p.C, steps = p.net.steps();
  const bool deep = (Net::layers >= 0 ? Net::layers : shape.hidden_layers) > 1;
  const auto shared = GradientShared::of<Type>(shape, tiles, columns, p.outputs, p.v_fields, p.u_fields);
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

  for (int k = thread(); k < input_parts * width * kGradientCoords / 8; k += threads())
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
    reinterpret_cast<uint16_t*>(own_pair + numbers)[D] = uint16_t(First::pack(1, 1));
  }

  // Where column c of a number's row is, of what is stored as [image][number][C].
  auto column_at = [&](const uint16_t* from, int c, int64_t count, int64_t number) {
    int image = c / p.C;
    return from + ((s * p.images + image) * count + number) * p.C + (c - image * p.C);
  };
  // Octets of columns, and of those that are not in registers.
  const int octets = (shared.columns_row - 16) / 16, more = octets - Type::resident / 8;
  const int64_t sets = blocks() / (p.input_blocks * p.splits), image_parts = sets * p.images * p.C;
  const int64_t f_part = image_parts * e.Nv, moments_part = image_parts * e.Nu * H;
  for (int k = thread(); k < kGradientInputs * more; k += threads()) {
    int c = Type::resident + k % more * 8;
    int64_t j = input_block * kGradientInputs + k / more;
    bool valid = c < columns && j < e.Nv;
    const uint16_t* from = valid ? column_at(p.f, c, e.Nv, j) : p.f;
    PGCONV_UNROLL
    for (int part = 0; part < parts; ++part)
      copy_async<16>(memory + shared.f + part * shared.f_part + k / more * shared.f_row + k % more * 16,
                     from + (valid ? part * f_part : 0), valid);
  }
  // Where the columns are those of one image, and few, a thread has the same piece of every second output and divides nothing.
  constexpr int own_octets = kOwnColumns / 8, sweep = kPointWarps * kWarp / (own_octets * width);
  const int own_h = thread() / own_octets % width, own_c = thread() % own_octets * 8, own_i = thread() / (own_octets * width);
  const bool plain = octets == own_octets && p.images == 1, own_piece = own_h < H && own_c < columns;
  const uint16_t* moments = p.moments + ((s * e.Nu + i_begin) * H + own_h) * p.C + own_c;
  auto load_stage = [&](int i0, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    if (plain) {
      unsigned char* own = stage + own_h * shared.columns_row + 2 * own_c;
      for (int i = own_i; i < p.outputs; i += sweep) {
        bool valid = own_piece && i0 + i < outputs;
        const uint16_t* from = valid ? moments + (i0 + i) * H * p.C : p.moments;
        PGCONV_UNROLL
        for (int part = 0; part < parts; ++part)
          copy_async<16>(own + part * shared.moments_part + i * width * shared.columns_row,
                         from + (valid ? part * moments_part : 0), valid);
      }
    } else {
      for (int k = thread(); k < p.outputs * width * octets; k += threads()) {
        int row = k / octets, c = (k - row * octets) * 8, i = i0 + row / width, h = row % width;
        bool valid = c < columns && i < outputs && h < H;
        const uint16_t* from = valid ? column_at(p.moments, c, e.Nu * H, (i_begin + i) * H + h) : p.moments;
        PGCONV_UNROLL
        for (int part = 0; part < parts; ++part)
          copy_async<16>(stage + part * shared.moments_part + row * shared.columns_row + 2 * c,
                         from + (valid ? part * moments_part : 0), valid);
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
  uint32_t signal[Type::resident ? Type::resident / 16 : 1][parts][4];
  PGCONV_UNROLL
  for (int k = 0; k < Type::resident / 16; ++k)
    PGCONV_UNROLL
    for (int n = 0; n < 4; ++n) {
      int64_t j = own_inputs + g + n % 2 * 8;
      int c = 16 * k + n / 2 * 8 + 2 * t;
      PGCONV_UNROLL
      for (int part = 0; part < parts; ++part)
        signal[k][part][n] =
            j < e.Nv && c < columns ? *reinterpret_cast<const uint32_t*>(column_at(p.f, c, e.Nv, j) + part * f_part) : 0u;
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
    for (int part = 0; part < input_parts; ++part)
      PGCONV_UNROLL
      for (int k = 0; k < T / 2; ++k)
        load_matrices_transposed(first_back[part][k], own_back + (part * width + 16 * k) * kGradientFirstRow);
  auto matrix_at = [&](int begin) { return SharedMatrix{memory + begin, kGradientMatrixRow, width * kGradientMatrixRow}; };
  const SharedMatrix half_matrix = matrix_at(shared.half_matrix), matrix = matrix_at(shared.matrix);

  float sums_first[tiles * T / 2][4] = {}, sums_matrix[T + 1][T / 2][4] = {};
  // Of the last layer's gradients, and of what lies before the second layer's matrix.
  const float factor = Type::exact ? p.factor[s] : 1.0f, before = Type::exact ? factor / *p.power : 1.0f;
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
            CoordinateParts of = put_coordinate(own_pair, d, x);
            if constexpr (std::is_same<First, Half>::value) of.first_two = Half::pack(x, x - Half::value(Half::pack(x, 0), 0));
            auto* own_numbers = reinterpret_cast<uint16_t*>(own_pair + numbers) + d;
            own_numbers[0] = uint16_t(of.first_two);
            own_numbers[D + 1] = uint16_t(of.first_two >> 16);
            if constexpr (input_parts > 2) own_numbers[2 * D + 1] = uint16_t(of.last);
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
      fast_activate_both<Net::activation, Type::exact>(shape.activation, slope, value);
      if (deep) {
        uint32_t h[2][T][2];
        if constexpr (split)
          pack_parts<Half>(value, h);
        else
          pack_rows<Half>(value, h[0]);
        multiply_rows<Half>(half_matrix, split, h, bias, last_slope);
        float unused[T][4];
        fast_activate_both<Net::activation, Type::exact>(shape.activation, last_slope, unused);
      }

      float dphi[T][4] = {};
      const unsigned char* own_m = right_rows(stage + r * width * shared.columns_row, shared.columns_row);
      auto multiply_columns_of = [&](int k, const uint32_t(&left)[parts][4]) {
        PGCONV_UNROLL
        for (int part = parts - 1; part >= 0; --part)
          PGCONV_UNROLL
          for (int n = 0; n < T / 2; ++n) {
            uint32_t m[4];
            load_matrices(m, own_m + part * shared.moments_part + 16 * n * shared.columns_row + 32 * k);
            PGCONV_UNROLL
            for (int of = 0; of < parts - part; ++of) {
              E::multiply_add(dphi[2 * n], left[of], m[0], m[1]);
              E::multiply_add(dphi[2 * n + 1], left[of], m[2], m[3]);
            }
          }
      };
      PGCONV_UNROLL
      for (int k = 0; k < Type::resident / 16; ++k) multiply_columns_of(k, signal[k]);
      const unsigned char* own_f = left_rows(memory + shared.f + warp() * 16 * shared.f_row, shared.f_row);
      auto multiply_stored = [&](int k) {
        uint32_t left[parts][4];
        PGCONV_UNROLL
        for (int part = 0; part < parts; ++part) load_matrices(left[part], own_f + part * shared.f_part + 32 * k);
        multiply_columns_of(Type::resident / 16 + k, left);
      };
      constexpr int always = (kOwnColumns - Type::resident) / 16;
      PGCONV_UNROLL
      for (int k = 0; k < always; ++k) multiply_stored(k);
      PGCONV_ROLLED
      for (int k = always; k < more / 2; ++k) multiply_stored(k);

      // dz: gradients of the phases, words (pair, feature); the last layer's first.
      auto for_all = [&](auto f) {
        PGCONV_UNROLL
        for (int n = 0; n < T; ++n)
          PGCONV_UNROLL
          for (int k = 0; k < 4; ++k) f(dphi[n][k], n, k);
      };
      float back = 1;  // of what the last layer's gradients are multiplied with
      if (deep) {
        uint32_t dz[parts][T][2], left[parts][T / 2][4], h[parts][T][2];
        for_all([&](float& x, int n, int k) { x *= last_slope[n][k]; });
        if constexpr (Type::exact) {
          float largest = 0;
          for_all([&](float& x, int, int) { largest = larger(largest, absolute(x)); });
          const float power = power_for(largest);
          back = inverse_power(power);
          for_all([&](float& x, int, int) { x *= power; });
        }
        pack_parts<E>(dphi, dz);
        PGCONV_UNROLL
        for (int part = 0; part < parts; ++part) transpose_rows(dz[part], left[part]);
        pack_parts<E>(value, h);
        // The last number is 1, for the bias.
        const uint32_t one = E::pack(1, 1);
        PGCONV_UNROLL
        for (int n = 0; n <= T; ++n) {
          add_products<Type::exact>(sums_matrix[n], back, [&](float(&sums)[T / 2][4]) {
            PGCONV_UNROLL
            for (int part = n < T ? parts - 1 : 0; part >= 0; --part) {
              uint32_t low = n < T ? transposed_matrix(h[part][n][0]) : one, high = n < T ? transposed_matrix(h[part][n][1]) : one;
              PGCONV_UNROLL
              for (int of = parts - part - 1; of >= 0; --of)
                PGCONV_UNROLL
                for (int m = 0; m < T / 2; ++m) E::multiply_add(sums[m], left[of][m], low, high);
            }
          });
        }
        for_all([](float& x, int, int) { x = 0; });
        multiply_columns<E>(matrix, dz, dphi);
      }
      uint32_t dz[Type::first_parts][T][2];
      for_all([&](float& x, int n, int k) { x *= Type::exact && deep ? back * slope[n][k] : slope[n][k]; });
      pack_parts<First>(dphi, dz);

      uint32_t inputs[(tiles + 1) / 2][4];
      PGCONV_UNROLL
      for (int n = 0; n < tiles; n += 2) {
        const int tile = n + 1 < tiles ? n + lane() / 16 : n;
        load_matrices_transposed(inputs[n / 2], rows + numbers + lane() % 16 * shared.pair_row + tile * 16);
      }
      add_products<Type::exact>(sums_first, 1, [&](float(&sums)[tiles * T / 2][4]) {
        PGCONV_UNROLL
        for (int part = Type::first_parts - 1; part >= 0; --part) {
          uint32_t left[T / 2][4];
          transpose_rows(dz[part], left);
          PGCONV_UNROLL
          for (int n = 0; n < tiles; ++n)
            PGCONV_UNROLL
            for (int m = 0; m < T / 2; ++m)
              First::multiply_add(sums[n * T / 2 + m], left[m], inputs[n / 2][n % 2 * 2], inputs[n / 2][n % 2 * 2 + 1]);
        }
      });
      float dx[T / 2][coord_tiles][4] = {};  // of two halves, so as to wait for half as long
      PGCONV_UNROLL
      for (int part = input_parts - 1; part >= 0; --part)
        PGCONV_UNROLL
        for (int k = 0; k < T / 2; ++k) {
          uint32_t loaded[4];
          if constexpr (!first_resident)
            load_matrices_transposed(loaded, own_back + (part * width + 16 * k) * kGradientFirstRow);
          const uint32_t(&w)[4] = first_resident ? first_back[first_resident ? part : 0][k] : loaded;
          const int count = Type::first_parts < input_parts - part ? Type::first_parts : input_parts - part;
          PGCONV_UNROLL
          for (int of = 0; of < count; ++of) {
            const uint32_t(&z)[T][2] = dz[of];
            uint32_t of_pairs[4] = {z[2 * k][0], z[2 * k][1], z[2 * k + 1][0], z[2 * k + 1][1]};
            First::multiply_add(dx[k][0], of_pairs, w[0], w[1]);
            if constexpr (coord_tiles > 1) First::multiply_add(dx[k][1], of_pairs, w[2], w[3]);
          }
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
      p.u[((s * p.input_blocks + input_block) * p.u_fields + field) * e.Nu + i_begin + i0 + r] = before * sum;
    }
  }

  sync_warp();
  for (int k = lane(); k < p.v_fields * kFieldRow; k += kWarp) {
    int64_t j = own_inputs + k % kFieldRow;
    if (j < e.Nv) p.v[((s * p.splits + split_part) * p.v_fields + k / kFieldRow) * e.Nv + j] = before * grad_v[k];
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
        if (number <= D) to[number * width + h] = before * sums_first[n * T / 2 + m][k];
      }
      float* second = to + kGradientCoords * width;
      PGCONV_UNROLL
      for (int n = 0; n <= T; ++n) {
        int number = 8 * n + 2 * t + k % 2;
        if (number <= width) second[number * width + h] = factor * sums_matrix[n][m][k];
      }
    }
  // Further parts of the coordinates, which other lanes hold.
  PGCONV_UNROLL
  for (int part = 1; part < input_parts; ++part) {
    sync_warp();
    PGCONV_UNROLL
    for (int m = 0; m < T / 2; ++m)
      PGCONV_UNROLL
      for (int n = 0; n < tiles; ++n)
        PGCONV_UNROLL
        for (int k = 0; k < 4; ++k) {
          int h = 16 * m + g + k / 2 * 8, number = 8 * n + 2 * t + k % 2 - (D * part + 1);
          if (number >= 0 && number < D) to[number * width + h] += before * sums_first[n * T / 2 + m][k];
        }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
