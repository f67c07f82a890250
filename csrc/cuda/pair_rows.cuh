// The first layer of kernel nets as a matrix product in 16 bits, with the accuracy of float32: phases are large, and their errors
// are those of the features.
//
// A number of float32 is the sum of three bfloat16 ones, which share its range: x = h + m + l, 8 bits of the significand each. Of
// the nine products of two such sums the six largest are formed; the others are below 2^-22 of the product. A pair has a row of
// octets of 16-bit numbers, one for each coordinate, and so has a feature, of its weights:
//
//     coordinate   h   h   h   m   m   l   1   1
//     weight       h   m   l   h   m   h   b   b'
//
// The bias goes where the ones are: h and m of it in octet 0, l in octet 1, zeros behind. Two octets are a step of a matrix
// instruction. Octets without a coordinate are zeros and ones.
#pragma once

#include "../common/semidirect.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kOctetBytes = 16;
constexpr int kShortSteps = 2;  // at least, and enough for 4 coordinates

PGCONV_INLINE int row_steps(int coord_dim) {
  int steps = (coord_dim + 1) / 2;
  return steps < kShortSteps ? kShortSteps : steps;
}
// Rows of shared memory that matrices are read from begin in different banks.
PGCONV_INLINE int row_bytes(int octets) { return (octets | 1) * kOctetBytes; }

// The k-th of the parts of a number: each is what rounding left over of the ones before, rounded.
template <class E>
PGCONV_DEVICE uint16_t part_of(float x, int k) {
  for (; k > 0; --k) x -= E::value(E::pack(x, 0.0f), 0);
  return uint16_t(E::pack(x, 0.0f));
}

// One of the eight numbers of the weights' octet d.
PGCONV_DEVICE uint16_t weight_slot(float weight, float bias, int d, int slot) {
  const int parts[8] = {0, 1, 2, 0, 1, 0, 2 * d, 1};  // of the bias: 0 and 1 in octet 0, 2 in octet 1
  return part_of<Bfloat16>(slot < 6 ? weight : d == 0 || (d == 1 && slot == 6) ? bias : 0.0f, parts[slot]);
}

constexpr uint32_t kBfloat16Ones = 0x3f803f80u;

PGCONV_DEVICE void put_octet(unsigned char* row, int d, FourWords words) {
  *reinterpret_cast<FourWords*>(row + d * kOctetBytes) = words;
}
struct CoordinateParts {
  uint32_t first_two, last;  // a word of h and m, and l
};
// Cut off instead of rounded: the parts are exact, and NaN stays NaN.
PGCONV_DEVICE CoordinateParts put_coordinate(unsigned char* row, int d, float x) {
  float rest = x - number_of(bits_of(x) & 0xffff0000u);
  uint32_t low = bits_of(rest - number_of(bits_of(rest) & 0xffff0000u));
  uint32_t high = bits_of(x), middle = bits_of(rest);
  uint32_t both = high_halves(high, middle);
  put_octet(row, d, {{high_halves(high, high), both, high_halves(middle, low), kBfloat16Ones}});
  return {both, low >> 16};
}
PGCONV_DEVICE void put_no_coordinates(unsigned char* row, int begin, int end) {
  for (int d = begin; d < end; ++d) put_octet(row, d, {{0, 0, 0, kBfloat16Ones}});
}

// f(group) for the group of that number: one jump, the same for the whole launch. A kernel for each would be 12 times the code.
template <class F>
PGCONV_DEVICE void with_group(int number, F f) {
  static_assert(kGroupCount == 12, "a case for every group");
  switch (number) {
    case 0: return f(GroupAt<0>{});
    case 1: return f(GroupAt<1>{});
    case 2: return f(GroupAt<2>{});
    case 3: return f(GroupAt<3>{});
    case 4: return f(GroupAt<4>{});
    case 5: return f(GroupAt<5>{});
    case 6: return f(GroupAt<6>{});
    case 7: return f(GroupAt<7>{});
    case 8: return f(GroupAt<8>{});
    case 9: return f(GroupAt<9>{});
    case 10: return f(GroupAt<10>{});
    default: return f(GroupAt<11>{});
  }
}

// put(d, x) of the coordinates of a^-1 b, those of orbits last, from fields at a distance of `a_row` and `b_row`.
template <class F>
PGCONV_DEVICE void lane_coordinates(const Features<float>& e, int own, const float* a, int a_row, const float* b, int b_row,
                                    F put) {
  const float *of_a = a + e.orbit * a_row, *of_b = b + e.orbit * b_row;
  with_group(e.group, [&](auto group) {
    using G = decltype(group);
    float fa[G::fields], fb[G::element], g[G::element], x[G::max_coords] = {};
    PGCONV_UNROLL
    for (int c = 0; c < G::fields; ++c) fa[c] = of_a[c * a_row];
    PGCONV_UNROLL
    for (int c = 0; c < G::element; ++c) fb[c] = of_b[c * b_row];
    G::relative(fa, fb, g);
    G::coordinates(e.chart, e.part, g, x);
    PGCONV_UNROLL
    for (int c = 0; c < G::max_coords; ++c)
      if (c < own) put(c, x[c]);
  });
  for (int c = 0; c < e.orbit; ++c) {
    put(own + c, a[c * a_row]);
    put(own + e.orbit + c, b[c * b_row]);
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
