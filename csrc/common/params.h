// Plain data handed from the host code to the kernels. Only data here: a function shared by translation units that are
// compiled for different instruction sets could be merged by the linker into the copy the machine cannot run.
#pragma once

#include <cstdint>

namespace pgconv {

// Pairs evaluated together. 64 pairs x 32 features x 4 bytes = 8 KB per buffer, so a net's buffers stay in the L1/L2.
constexpr int kTile = 64;
// Elements may carry numbers that no group element changes, such as the radius of a point under rotations about the origin:
// orbit coordinates, which the kernel reads as they are.
constexpr int kMaxOrbit = 4;
// Elements have at most 7 components (SE(3)), prepared ones 9 matrix entries more, coordinates at most 12 (SE(3) embed).
constexpr int kMaxFields = 16 + kMaxOrbit;
constexpr int kMaxCoords = 12 + 2 * kMaxOrbit;

enum Activation { kSin, kSilu, kRelu, kGelu, kTanh, kNumActivations };
enum Chart { kProduct, kEmbed, kLie, kRelease, kNumCharts };
enum Part { kAll, kTranslation, kStabilizer, kNumParts };

// A kernel net without its head: hidden_layers layers of width hidden. The layout of its packed parameters is owned by
// pgconv/kernel_nets/packing.py.
struct NetShape {
  int activation;
  int coord_dim;
  int hidden;
  int hidden_layers;
};

constexpr int kGroupCount = 12;

// Facts of a group that the host needs; stabilizer_coords is -1 for charts the group does not have.
struct GroupInfo {
  const char* name;
  int element;      // components of an element, translation first
  int translation;  // of which translation
  int fields;       // numbers per prepared element: its components, then the matrix of the inverse linear part
  int stabilizer_coords[kNumCharts];
};

// Pairs of elements of a call: v [Sv, Nv, e], u [Su, Nu, e] with Sv, Su in {1, S}, and the net at their relative elements.
struct FeaturesCall {
  int group, orbit, chart, part;
  bool correlation;  // relative(u, v) instead of relative(v, u)
  NetShape shape;
  int64_t S, Sv, Su, Nu, Nv;
};

// v [Sv, Nv, e] and u [Su, Nu, e] as prepared fields [field][element], orbit coordinates first; *_batch is Nv (Nu) or 0 for
// a shared batch.
template <class T>
struct Features {
  int group;
  int chart;
  int part;
  int orbit;
  bool correlation;  // relative(u, v) instead of relative(v, u)
  int64_t S, Nu, Nv;
  int64_t v_count, u_count;  // elements in all batches, the stride between fields
  int64_t v_batch, u_batch;
  const T* v_fields;
  const T* u_fields;
};

}  // namespace pgconv
