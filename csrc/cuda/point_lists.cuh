// Moments of a point convolution over neighbour lists on a GPU:
//
//     M[b, i, h, c] = sum_{j in N(i)} phi_h(v_j^-1 u_i) f[b, j, c]
//
// A warp owns an output and walks over its list, Tile::stage pairs at a time: a lane has a pair's number and computes its
// coordinates, and all lanes together gather the signals and fields of the next pairs while they work on these. Lists differ in
// length, so warps wait for each other only for the net; what is behind the coordinates is in warp_moments.cuh.
//
// Per pair a warp reads 8 bytes of the list and 2 C + 4 fields of an input, which many outputs have in common; per output it
// writes 4 H C.
#pragma once

#include "parts.h"
#include "point_lists.h"
#include "warp_moments.cuh"

namespace pgconv {
namespace PGCONV_ISA {

struct ListMoments {
  Features<float> elements;
  HalfNet net;
  PointLists lists;
  int own;                 // coordinates of the relative element
  int v_fields, u_fields;  // that are read: of a all, of b those of the element
  int images, C;           // of a set; columns are (image, channel), and C is a multiple of 8
  int warps;               // of a block
  int64_t row_blocks, column_blocks;
  const uint16_t* f;       // [parts][S images, Nv, C]
  float* moments;          // [S images, Nu, H, C]
};

// Shared memory of a block: the net, and for every warp, in bytes from where its own begins, fields of its output, coordinates,
// and twice signals and fields of pairs.
template <class Tile>
struct ListShared {
  SharedNet<Tile> net;
  int begin, coords, stage, stage_size, fields, warp;

  PGCONV_INLINE ListShared of(const HalfNet& net, int v_fields, int u_fields) {
    ListShared s;
    Places block, warp;
    s.net = SharedNet<Tile>::take(block, net);
    s.begin = block.size;
    warp.take(u_fields * 4);
    s.coords = warp.take(Tile::stage * row_bytes(2 * net.steps()));
    s.fields = Tile::parts * Tile::stage * Tile::signal_row;
    s.stage_size = s.fields + v_fields * Tile::stage * 4;
    s.stage = warp.take(2 * s.stage_size);
    s.warp = warp.size;
    return s;
  }
  PGCONV_EVERYWHERE int size(int warps) const { return begin + warps * warp; }
};

template <class E, class Tile, class Net>
PGCONV_KERNEL_PER(Tile::threads, Tile::blocks) list_moments(const ListMoments p) {
  constexpr int parts = Tile::parts;
  static_assert(Tile::stage == Tile::coords && kMostTerms % Tile::stage == 0, "a pair for each lane");
  const Features<float>& e = p.elements;
  const PointLists& lists = p.lists;
  const auto shared = ListShared<Tile>::of(p.net, p.v_fields, p.u_fields);
  unsigned char* memory = shared_memory<unsigned char>() + shared.begin + warp() * shared.warp;
  WarpMoments<E, Tile, Net> moments(p.net, shared.net);
  moments.load(threads());
  commit_copies();

  int64_t at = block();
  const int64_t i = at % p.row_blocks * p.warps + warp();
  at /= p.row_blocks;
  const int column = int(at % p.column_blocks) * Tile::channels;
  const int64_t s = at / p.column_blocks, row = s * lists.batch + i;
  // Warps beyond the last output have no pairs.
  int64_t begin = 0, end = 0;
  if (i < e.Nu) {
    begin = lists.rowptr ? lists.rowptr[row] : row * lists.padded;
    end = lists.rowptr ? lists.rowptr[row + 1] : begin + lists.padded;
    if (lists.index && end > lists.pairs) end = lists.pairs;
  }
  const int64_t first = lists.first && i < e.Nu ? lists.first[row] : 0;

  auto* u = reinterpret_cast<float*>(memory);
  if (lane() < p.u_fields) u[lane()] = e.u_fields[lane() * e.u_count + s * e.u_batch + (i < e.Nu ? i : 0)];
  const int pair_row = moments.pair_row;
  unsigned char* pairs = memory + shared.coords;
  unsigned char* own_pair = pairs + lane() % Tile::stage * pair_row;
  if (lane() < Tile::stage) put_no_coordinates(own_pair, p.net.shape.coord_dim, 2 * moments.steps);

  // The number of the lane's input among the pairs from k on, or -1.
  auto number = [&](int64_t k) -> int64_t {
    k += lane();
    if (lane() >= Tile::stage || k >= end) return -1;
    int64_t j = lists.index ? lists.index[k] : first + (k - begin);
    return j >= 0 && j < e.Nv ? j : -1;
  };
  // No pair has signal 0. A lane copies the same columns of all pairs that it copies, and all fields of its own pair.
  constexpr int granules = Tile::channels / 8;
  static_assert(kWarp % granules == 0 && Tile::stage % (kWarp / granules) == 0, "whole rows of lanes");
  const int own_column = column + lane() % granules * 8, own_image = own_column / p.C;
  const uint16_t* own_f = p.f + (s * p.images + own_image) * e.Nv * p.C + (own_column - own_image * p.C);
  const int64_t next_part = e.S * p.images * e.Nv * p.C;
  auto load_stage = [&](int64_t j, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    PGCONV_UNROLL
    for (int k = 0; k < Tile::stage; k += kWarp / granules) {
      int of = k + lane() / granules;
      int64_t input = value_of_lane(j, of);
      bool valid = input >= 0 && own_image < p.images;
      const uint16_t* from = valid ? own_f + input * p.C : p.f;
      PGCONV_UNROLL
      for (int part = 0; part < parts; ++part)
        copy_async<16>(stage + (part * Tile::stage + of) * Tile::signal_row + lane() % granules * 16,
                       valid ? from + part * next_part : p.f, valid);
    }
    if (lane() >= Tile::stage) return;
    const float* from = e.v_fields + (j >= 0 ? s * e.v_batch + j : 0);
    PGCONV_ROLLED
    for (int c = 0; c < p.v_fields; ++c)
      copy_async<4>(stage + shared.fields + (c * Tile::stage + lane()) * 4, from + (j >= 0 ? c * e.v_count : 0), j >= 0);
  };

  int64_t j = number(begin);
  wait_copies<0>();
  sync_block();
  if (i >= e.Nu) return;
  moments.begin();
  float* to = p.moments + (s * p.images * e.Nu + i) * p.net.shape.hidden * p.C;
  const int64_t distance = e.Nu * p.net.shape.hidden * p.C;

  load_stage(j, 0);
  commit_copies();
  int64_t next = number(begin + Tile::stage);
  int buffer = 0;
  bool onto = false;
  for (int64_t k = begin; k < end; k += Tile::stage, buffer ^= 1) {
    // Long sums are added up in memory.
    if (k > begin && (k - begin) % kMostTerms == 0) {
      moments.store(to, distance, column, p.images, p.C, onto);
      moments.clear();
      onto = true;
    }
    const int64_t own = j;
    j = next;
    if (k + Tile::stage < end) load_stage(j, buffer ^ 1);
    commit_copies();
    next = number(k + 2 * Tile::stage);
    wait_copies<1>();
    sync_warp();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    if (lane() < Tile::stage) {
      const float* v = reinterpret_cast<const float*>(stage + shared.fields) + lane();
      const float *a = e.correlation ? u : v, *b = e.correlation ? v : u;
      const int v_row = Tile::stage, a_row = e.correlation ? 1 : v_row, b_row = e.correlation ? v_row : 1;
      // Features of no pair are finite wherever the output is.
      lane_coordinates(e, p.own, a, a_row, b, b_row, [&](int d, float x) { put_coordinate(own_pair, d, own >= 0 ? x : 0.0f); });
    }
    sync_warp();
    const int left = end - k < Tile::stage ? int(end - k) : Tile::stage;
    PGCONV_ROLLED
    for (int n = 0; n < left; n += 16)
      moments.add(pairs + n * pair_row, stage + n * Tile::signal_row, Tile::stage * Tile::signal_row);
    sync_warp();
  }
  moments.store(to, distance, column, p.images, p.C, onto);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
