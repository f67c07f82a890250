#include "conv_chain.cuh"

#include "parts.h"

namespace pgconv {
namespace PGCONV_ISA {
namespace {

// Granules of the disc in a 3 x 3 window with up to 8 and up to 16 samples: numbers that the compiler knows.
constexpr int kDisc = 5, kDisc16 = 10;

int outputs_of(const ConvChain& p) { return p.O > 64 ? kMostOutputs : kMostOutputs / 2; }

// Rows of 16 pixels are stored in whole sectors; narrow images take squarer blocks.
void set_tiles(ConvChain& p) {
  p.tile_width = p.out_width > 8 ? 16 : 8;
  p.tiles_x = int(ceil_div(p.out_width, p.tile_width));
  p.tiles_y = int(ceil_div(p.out_height, kChainPixels / p.tile_width));
  p.u_blocks = int(ceil_div(p.Nu, kChainSamples));
  p.o_blocks = int(ceil_div(p.O, outputs_of(p)));
}

bool features_in_registers(const ConvChain& p) { return p.octets == 1 && (p.real == kDisc || p.real == kDisc16); }

template <class E, int N, bool warpgroups>
auto kernel_of_width(const ConvChain& p) {
  if (p.octets == 1 && p.real == kDisc) return conv_chain<E, N, kDisc, warpgroups>;
  // A warp's instructions leave no registers for more beside the sums of all outputs.
  if constexpr (warpgroups || N < kMostOutputs / 8)
    if (p.octets == 1 && p.real == kDisc16) return conv_chain<E, N, kDisc16, warpgroups>;
  return conv_chain<E, N, 0, warpgroups>;
}

template <class E, bool warpgroups>
auto kernel_for(const ConvChain& p) {
  return outputs_of(p) == kMostOutputs ? kernel_of_width<E, kMostOutputs / 8, warpgroups>(p)
                                       : kernel_of_width<E, kMostOutputs / 16, warpgroups>(p);
}

int shared_of(const ConvChain& p, bool warpgroups) { return ChainShared::of(p, outputs_of(p), warpgroups).size; }

// Compute capability 9.0 has instructions of warpgroups, and more shared memory; what fits only the portable kernel takes that.
bool by_warpgroups(const ConvChain& p, int capability) {
  return capability == 90 && shared_of(p, true) <= kMostSharedBytes90;
}

}  // namespace

const char* set_taps(ConvChain& p, const int64_t* taps, int64_t count) {
  if (count < 1 || count > kMostTaps) return "expected 1 to 128 taps";
  p.reach_y = p.reach_x = 0;
  for (int64_t k = 0; k < count; ++k)
    for (int axis = 0; axis < 2; ++axis) {
      int64_t tap = taps[2 * k + axis];
      if (tap < 0 || tap > 1024) return "expected taps counted from the window's first, 0 to 1024";
      p.taps[k][axis] = int16_t(tap);
      int& reach = axis == 0 ? p.reach_y : p.reach_x;
      if (tap > reach) reach = int(tap);
    }
  p.real = int(count) * p.vectors;
  p.granules = (p.real + 1) / 2 * 2;
  return nullptr;
}

const char* why_not_chain(ConvChain p, int capability) {
  if (p.octets != 1 && p.octets != 2 && p.octets != 4 && p.octets != 8) return "the kernel takes up to 64 features";
  if (int64_t(p.height) * p.width * p.vectors > INT32_MAX) return "the images are too large";
  if (p.stride_y > 16 || p.stride_x > 16 || p.reach_y > 256 || p.reach_x > 256 || p.vectors > 64)
    return "strides, windows or samples are too large for a block";
  set_tiles(p);
  ConvChain one = p;
  one.B = one.S = one.C = one.Nu = 1;
  bool fits = by_warpgroups(p, capability) || shared_of(p, false) <= kMostSharedBytes ||
              (!features_in_registers(p) && wide_takes(one, capability));
  return fits ? nullptr : "window, features and samples do not fit a block's shared memory";
}

void conv_chain_of(Machine& machine, ConvChain p, HalfType type) {
  if (!features_in_registers(p) && wide_takes(p, machine.capability)) return conv_wide_of(machine, p, type);
  set_tiles(p);
  const bool warpgroups = by_warpgroups(p, machine.capability);
  Grid grid{p.B * p.tiles_y * p.tiles_x * int64_t(p.u_blocks) * p.o_blocks, kChainThreads, shared_of(p, warpgroups)};
  auto kernel = [&](auto e) {
    using E = decltype(e);
    return warpgroups ? kernel_for<E, true>(p) : kernel_for<E, false>(p);
  };
  launch(machine, type == kFloat16 ? kernel(Half()) : kernel(Bfloat16()), grid, p);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
