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

// Where a warp is: its output in a set, and the first of its columns.
struct ListPlace {
  int64_t s, i;
  int column;

  PGCONV_DEVICE ListPlace of(const ListMoments& p, int64_t block, int thread, int channels) {
    int64_t row_block = block % p.row_blocks, rest = block / p.row_blocks;
    return {rest / p.column_blocks, row_block * p.warps + thread / kWarp, int(rest % p.column_blocks) * channels};
  }
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

  const auto place = ListPlace::of(p, block(), thread(), Tile::channels);
  // Pair k of the output is index[begin + k], or else input begin + k. Warps beyond the last output have none.
  int64_t begin = 0;
  int length = 0;
  if (place.i < e.Nu) {
    const int64_t row = place.s * lists.batch + place.i;
    begin = lists.rowptr ? lists.rowptr[row] : row * lists.padded;
    int64_t end = lists.rowptr ? lists.rowptr[row + 1] : begin + lists.padded;
    length = int((lists.index && end > lists.pairs ? lists.pairs : end) - begin);
    if (lists.first) begin = lists.first[row];
  }

  auto* u = reinterpret_cast<float*>(memory);
  if (lane() < p.u_fields)
    u[lane()] = e.u_fields[lane() * e.u_count + place.s * e.u_batch + (place.i < e.Nu ? place.i : 0)];
  const int pair_row = moments.pair_row;
  unsigned char* pairs = memory + shared.coords;
  unsigned char* own_pair = pairs + lane() % Tile::stage * pair_row;
  if (lane() < Tile::stage) put_no_coordinates(own_pair, p.net.shape.coord_dim, 2 * moments.steps);

  // The number of the lane's input among the pairs from k on, or -1.
  auto number = [&](int k) {
    k += lane();
    if (lane() >= Tile::stage || k >= length) return -1;
    int64_t j = lists.index ? lists.index[begin + k] : begin + k;
    return j >= 0 && j < e.Nv ? int(j) : -1;
  };
  // No pair has signal 0. A lane copies the same columns of all pairs that it copies, and all fields of its own pair.
  constexpr int granules = Tile::channels / 8;
  static_assert(kWarp % granules == 0 && Tile::stage % (kWarp / granules) == 0, "whole rows of lanes");
  const int own_column = place.column + lane() % granules * 8, own_image = own_column / p.C;
  const uint16_t* own_f = nullptr;
  if (own_image < p.images) own_f = p.f + (place.s * p.images + own_image) * e.Nv * p.C + (own_column - own_image * p.C);
  const float* own_fields = e.v_fields + place.s * e.v_batch;
  auto load_stage = [&](int j, int buffer) {
    unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    const int lane = thread_anew() % kWarp;
    PGCONV_ROLLED
    for (int k = 0; k < Tile::stage; k += kWarp / granules) {
      int of = k + lane / granules, input = value_of_lane(j, of);
      bool valid = own_f && input >= 0;
      const uint16_t* from = valid ? own_f + int64_t(input) * p.C : p.f;
      PGCONV_UNROLL
      for (int part = 0; part < parts; ++part)
        copy_async<16>(stage + (part * Tile::stage + of) * Tile::signal_row + lane % granules * 16,
                       valid && part ? from + e.S * p.images * e.Nv * p.C : from, valid);
    }
    if (lane >= Tile::stage) return;
    const float* from = own_fields + (j >= 0 ? j : 0);
    PGCONV_ROLLED
    for (int c = 0; c < p.v_fields; ++c)
      copy_async<4>(stage + shared.fields + (c * Tile::stage + lane) * 4, from + (j >= 0 ? c * e.v_count : 0), j >= 0);
  };

  int j = number(0), next = number(Tile::stage), buffer = 0, k = 0;
  load_stage(j, 0);
  commit_copies();
  // For the net.
  wait_copies<1>();
  sync_block();
  if (place.i >= e.Nu) return;
  moments.begin();

  auto add_stage = [&] {
    const bool listed = j >= 0;
    j = next;
    if (k + Tile::stage < length) load_stage(j, buffer ^ 1);
    commit_copies();
    next = number(k + 2 * Tile::stage);
    wait_copies<1>();
    sync_warp();
    const unsigned char* stage = memory + shared.stage + buffer * shared.stage_size;
    if (lane() < Tile::stage) {
      const float* v = reinterpret_cast<const float*>(stage + shared.fields) + lane();
      const float *a = e.correlation ? u : v, *b = e.correlation ? v : u;
      const int a_row = e.correlation ? 1 : Tile::stage, b_row = e.correlation ? Tile::stage : 1;
      // Features of no pair are finite wherever the output is.
      lane_coordinates(e, p.own, a, a_row, b, b_row, [&](int d, float x) { put_coordinate(own_pair, d, listed ? x : 0.0f); });
    }
    sync_warp();
    const int left = length - k < Tile::stage ? length - k : Tile::stage;
    PGCONV_ROLLED
    for (int n = 0; n < left; n += 16)
      moments.add(pairs + n * pair_row, stage + n * Tile::signal_row, Tile::stage * Tile::signal_row);
    sync_warp();
  };
  // Long sums are added up in memory.
  do {
    const int terms = length - k < kMostTerms ? length : k + int(kMostTerms);
    for (; k < terms; k += Tile::stage, buffer ^= 1) add_stage();
    const auto place = ListPlace::of(p, block_anew(), thread_anew(), Tile::channels);
    const int64_t numbers = int64_t(p.net.shape.hidden) * p.C;
    moments.store(p.moments + (place.s * p.images * e.Nu + place.i) * numbers, e.Nu * numbers, place.column, p.images, p.C,
                  k > kMostTerms);
    moments.clear();
  } while (k < length);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
