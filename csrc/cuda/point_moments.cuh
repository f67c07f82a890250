// Moments of a point convolution on a GPU:
//
//     M[b, i, h, c] = sum_j phi_h(v_j^-1 u_i) f[b, j, c]
//
// A warp owns an output i and walks over the inputs, 16 at a time. Coordinates are computed by one lane for each pair and go
// through shared memory; what is behind them is in warp_moments.cuh.
#pragma once

#include "warp_moments.cuh"

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

// Shared memory of a block, in bytes from its beginning. Fields of u and v are at a distance of Tile::stage.
template <class Tile>
struct PointShared {
  SharedNet<Tile> net;
  int u, coords, stage, stage_size, fields, size;

  PGCONV_INLINE PointShared of(const HalfNet& net, int v_fields, int u_fields) {
    PointShared s;
    Places places;
    s.net = SharedNet<Tile>::take(places, net);
    s.u = places.take(u_fields * Tile::stage * 4);
    s.coords = places.take(Tile::warps * Tile::coords * row_bytes(2 * net.steps()));
    s.fields = Tile::parts * Tile::stage * Tile::signal_row;
    s.stage_size = s.fields + v_fields * Tile::stage * 4;
    s.stage = places.take(2 * s.stage_size);
    s.size = places.size;
    return s;
  }
};

template <class E, class Tile, class Net>
PGCONV_KERNEL_PER(Tile::threads, Tile::blocks) point_moments(const PointMoments p) {
  constexpr int parts = Tile::parts;
  const Features<float>& e = p.elements;
  const auto shared = PointShared<Tile>::of(p.net, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>();
  WarpMoments<E, Tile, Net> moments(p.net, shared.net);

  // Consecutive blocks have the same inputs: rows of outputs first.
  int64_t at = block();
  const int64_t row = at % p.row_blocks * Tile::warps;
  at /= p.row_blocks;
  const int column = int(at % p.column_blocks) * Tile::channels;
  at /= p.column_blocks;
  const int64_t s = at / p.splits, part_of_inputs = at % p.splits, j_begin = part_of_inputs * p.split_inputs;
  const int inputs = int(j_begin + p.split_inputs < e.Nv ? p.split_inputs : e.Nv - j_begin);

  auto* u = reinterpret_cast<float*>(memory + shared.u);
  const int pair_row = moments.pair_row;
  unsigned char* pairs = memory + shared.coords + warp() * Tile::coords * pair_row;
  moments.load(Tile::threads);
  // Outputs beyond the end repeat the last one and are not stored.
  for (int k = thread(); k < p.u_fields * Tile::warps; k += Tile::threads) {
    int64_t i = row + k % Tile::warps;
    u[k / Tile::warps * Tile::stage + k % Tile::warps] =
        e.u_fields[k / Tile::warps * e.u_count + s * e.u_batch + (i < e.Nu ? i : e.Nu - 1)];
  }
  if (lane() < Tile::coords) put_no_coordinates(pairs + lane() * pair_row, p.net.shape.coord_dim, 2 * moments.steps);

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

  moments.begin();
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

      moments.add(pairs + j % Tile::coords * pair_row, stage + j * Tile::signal_row, Tile::stage * Tile::signal_row);
    }
    sync_block();
  }

  const int64_t i = row + warp();
  if (i >= e.Nu) return;
  const int64_t numbers = int64_t(p.net.shape.hidden) * p.C, set = part_of_inputs * e.S + s;
  moments.store(p.moments + (set * p.images * e.Nu + i) * numbers, e.Nu * numbers, column, p.images, p.C, false);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
