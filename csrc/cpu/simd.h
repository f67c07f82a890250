// Vectors of one register of the level being compiled: Native<float>, Native<double>. Only rounding, square root and
// reciprocal need intrinsics; without them (other processors) portable forms are used.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pgconv {
namespace PGCONV_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));
typedef decltype(FloatVector{} < FloatVector{}) IntVector;  // results of comparisons, lanes as wide as the number's
typedef decltype(DoubleVector{} < DoubleVector{}) LongVector;

template <>
struct Traits<FloatVector> {
  using Scalar = float;
  static constexpr int width = kVectorBytes / 4;
};
template <>
struct Traits<DoubleVector> {
  using Scalar = double;
  static constexpr int width = kVectorBytes / 8;
};

// 16 bytes at every level, for products with few columns.
#if defined(__AVX2__)
typedef float SmallFloatVector __attribute__((vector_size(16)));
typedef double SmallDoubleVector __attribute__((vector_size(16)));
template <>
struct Traits<SmallFloatVector> {
  using Scalar = float;
  static constexpr int width = 4;
};
template <>
struct Traits<SmallDoubleVector> {
  using Scalar = double;
  static constexpr int width = 2;
};
#else
typedef FloatVector SmallFloatVector;
typedef DoubleVector SmallDoubleVector;
#endif

template <class T>
struct NativeOf;
template <>
struct NativeOf<float> {
  using Type = FloatVector;
  using Small = SmallFloatVector;
};
template <>
struct NativeOf<double> {
  using Type = DoubleVector;
  using Small = SmallDoubleVector;
};
template <class T>
using Native = typename NativeOf<T>::Type;

// Keeps stores on both sides in order. Where whole vectors are stored and the surplus of one is overwritten by the next,
// compilers have been seen to exchange the loops around such stores (GCC 12, unroll and jam).
PGCONV_INLINE void keep_store_order() { asm volatile("" ::: "memory"); }

// Lane numbers, and the results of comparisons: integers as wide as the number's.
template <class V>
using LaneIndex = decltype(V{} < V{});

// Unaligned access: the packed attribute lowers the type's alignment, may_alias lets it overlay arrays of T.
template <class V>
struct __attribute__((packed, may_alias)) Unaligned {
  V value;
};
template <class V>
PGCONV_INLINE V load(const Scalar<V>* p) {
  return reinterpret_cast<const Unaligned<V>*>(p)->value;
}
template <class V>
PGCONV_INLINE void store(Scalar<V>* p, V x) {
  reinterpret_cast<Unaligned<V>*>(p)->value = x;
}

// Store that does not fetch the line it overwrites; p is a multiple of the vector's size. Readers on other threads see it after
// finish_streams().
#if defined(__AVX512F__)
PGCONV_INLINE void stream(float* p, FloatVector x) { _mm512_stream_ps(p, (__m512)x); }
PGCONV_INLINE void stream(double* p, DoubleVector x) { _mm512_stream_pd(p, (__m512d)x); }
#elif defined(__AVX2__)
PGCONV_INLINE void stream(float* p, FloatVector x) { _mm256_stream_ps(p, (__m256)x); }
PGCONV_INLINE void stream(double* p, DoubleVector x) { _mm256_stream_pd(p, (__m256d)x); }
#else
PGCONV_INLINE void stream(float* p, FloatVector x) { store<FloatVector>(p, x); }
PGCONV_INLINE void stream(double* p, DoubleVector x) { store<DoubleVector>(p, x); }
#endif
PGCONV_INLINE void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

PGCONV_INLINE FloatVector select(IntVector m, FloatVector a, FloatVector b) { return m ? a : b; }
PGCONV_INLINE DoubleVector select(LongVector m, DoubleVector a, DoubleVector b) { return m ? a : b; }

// The first n lanes of x, zeros behind them.
template <class V>
PGCONV_INLINE V keep_first(V x, int n) {
  LaneIndex<V> lane;
#pragma GCC unroll 16
  for (int l = 0; l < Traits<V>::width; ++l) lane[l] = l;
  return select(lane < n, x, V{});
}

// Adding 1.5 * 2^23 (2^52) pushes the fraction of x out of the significand and leaves the integer in its low bits.
constexpr float kRoundFloat = 12582912.0f;
constexpr double kRoundDouble = 6755399441055744.0;

#if defined(__AVX512F__)
// Of a number and NaN, the instructions take the second operand.
PGCONV_INLINE FloatVector clamp(FloatVector x, float low, float high) {
  return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x));
}
PGCONV_INLINE DoubleVector clamp(DoubleVector x, double low, double high) {
  return _mm512_min_pd(_mm512_set1_pd(high), _mm512_max_pd(_mm512_set1_pd(low), x));
}
PGCONV_INLINE FloatVector round_nearest(FloatVector x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
PGCONV_INLINE DoubleVector round_nearest(DoubleVector x) { return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT); }
PGCONV_INLINE FloatVector square_root(FloatVector x) { return _mm512_sqrt_ps(x); }
PGCONV_INLINE DoubleVector square_root(DoubleVector x) { return _mm512_sqrt_pd(x); }
// 14 correct bits, doubled by one Newton step. Only for finite x of normal size: 1/0 and 1/inf would be NaN.
PGCONV_INLINE FloatVector reciprocal(FloatVector x) {
  FloatVector r = _mm512_rcp14_ps(x);
  return r + r * (1.0f - x * r);
}
#elif defined(__AVX2__)
PGCONV_INLINE FloatVector clamp(FloatVector x, float low, float high) {
  return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x));
}
PGCONV_INLINE DoubleVector clamp(DoubleVector x, double low, double high) {
  return _mm256_min_pd(_mm256_set1_pd(high), _mm256_max_pd(_mm256_set1_pd(low), x));
}
PGCONV_INLINE FloatVector round_nearest(FloatVector x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT); }
PGCONV_INLINE DoubleVector round_nearest(DoubleVector x) { return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT); }
PGCONV_INLINE FloatVector square_root(FloatVector x) { return _mm256_sqrt_ps(x); }
PGCONV_INLINE DoubleVector square_root(DoubleVector x) { return _mm256_sqrt_pd(x); }
PGCONV_INLINE FloatVector reciprocal(FloatVector x) { return 1.0f / x; }
#else
PGCONV_INLINE FloatVector clamp(FloatVector x, float low, float high) {
  x = select(x < low, FloatVector{} + low, x);
  return select(x > high, FloatVector{} + high, x);
}
PGCONV_INLINE DoubleVector clamp(DoubleVector x, double low, double high) {
  x = select(x < low, DoubleVector{} + low, x);
  return select(x > high, DoubleVector{} + high, x);
}
// Numbers of 2^22 (2^51) and more have at most one fractional bit; they are returned as they are.
PGCONV_INLINE FloatVector round_nearest(FloatVector x) {
  FloatVector n = (x + kRoundFloat) - kRoundFloat;
  return select((x < 4194304.0f) & (x > -4194304.0f), n, x);
}
PGCONV_INLINE DoubleVector round_nearest(DoubleVector x) {
  DoubleVector n = (x + kRoundDouble) - kRoundDouble;
  return select((x < 2251799813685248.0) & (x > -2251799813685248.0), n, x);
}
PGCONV_INLINE FloatVector square_root(FloatVector x) {
#if defined(__SSE2__)
  return _mm_sqrt_ps(x);
#else
  for (int k = 0; k < Traits<FloatVector>::width; ++k) x[k] = __builtin_sqrtf(x[k]);
  return x;
#endif
}
PGCONV_INLINE DoubleVector square_root(DoubleVector x) {
#if defined(__SSE2__)
  return _mm_sqrt_pd(x);
#else
  for (int k = 0; k < Traits<DoubleVector>::width; ++k) x[k] = __builtin_sqrt(x[k]);
  return x;
#endif
}
PGCONV_INLINE FloatVector reciprocal(FloatVector x) { return 1.0f / x; }
#endif
PGCONV_INLINE DoubleVector reciprocal(DoubleVector x) { return 1.0 / x; }

// The lowest bit of n + 1.5 * 2^k moves to the sign's place. Where n has no such bit any more (beyond 2^22, 2^51) nothing is sure
// about the sign.
PGCONV_INLINE FloatVector negate_if_odd(FloatVector n, FloatVector x) {
  return (FloatVector)((IntVector)x ^ ((IntVector)(n + kRoundFloat) << 31));
}
PGCONV_INLINE DoubleVector negate_if_odd(DoubleVector n, DoubleVector x) {
  return (DoubleVector)((LongVector)x ^ ((LongVector)(n + kRoundDouble) << 63));
}

// The integer moves from the low bits of n + 1.5 * 2^k into the exponent field; everything above is shifted out.
PGCONV_INLINE FloatVector power_of_two(FloatVector n) {
  return (FloatVector)(((IntVector)(n + kRoundFloat) + 127) << 23);
}
PGCONV_INLINE DoubleVector power_of_two(DoubleVector n) {
  return (DoubleVector)(((LongVector)(n + kRoundDouble) + 1023) << 52);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
