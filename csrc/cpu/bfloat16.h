// Words of two bfloat16 numbers that lie next to each other in the depth of a product. Where the level has the
// instruction, one multiply-add takes two steps of the depth: twice the rate of float32, with sums in float32.
#pragma once

#include "../common/numeric.h"

namespace pgconv {
namespace PGCONV_ISA {

using Pair = uint32_t;  // the number at even depth in the low half

typedef Pair PairVector __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes)));

template <>
struct Traits<PairVector> {
  using Scalar = Pair;
  static constexpr int width = kVectorBytes / 4;
};
template <>
struct Traits<HalfVector> {
  using Scalar = uint16_t;
  static constexpr int width = kVectorBytes / 2;
};
template <>
struct NativeOf<Pair> {
  using Type = PairVector;
};
template <>
struct NativeOf<uint16_t> {
  using Type = HalfVector;
};

// Numbers of depth in a word.
template <class Word>
constexpr int kPerWord = 1;
template <>
constexpr int kPerWord<Pair> = 2;

PGCONV_INLINE FloatVector multiply_add(FloatVector sum, FloatVector x, FloatVector y) { return sum + x * y; }
PGCONV_INLINE DoubleVector multiply_add(DoubleVector sum, DoubleVector x, DoubleVector y) { return sum + x * y; }

#if defined(__AVX512BF16__)
// These treat subnormal numbers as zero.
PGCONV_INLINE FloatVector multiply_add(FloatVector sum, PairVector x, PairVector y) {
  return (FloatVector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}
// 32 numbers in order, rounded to nearest even.
PGCONV_INLINE PairVector rounded(FloatVector first, FloatVector second) {
  return (PairVector)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
// From two rows of 32 numbers the words (a[i], b[i]): those of the first 16 columns and of the others.
PGCONV_INLINE void interleave(PairVector a, PairVector b, PairVector& first, PairVector& second) {
  HalfVector low, high;
#pragma GCC unroll 32
  for (int l = 0; l < 32; ++l) {
    low[l] = uint16_t(l / 2 + 32 * (l % 2));
    high[l] = uint16_t(low[l] + 16);
  }
  first = (PairVector)_mm512_permutex2var_epi16((__m512i)a, (__m512i)low, (__m512i)b);
  second = (PairVector)_mm512_permutex2var_epi16((__m512i)a, (__m512i)high, (__m512i)b);
}
#endif

}  // namespace PGCONV_ISA
}  // namespace pgconv
