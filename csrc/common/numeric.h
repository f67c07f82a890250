// The few scalar functions that the group formulas and activations are written in, for T = float, double (host and
// device) and, on the CPU, for vectors of them. A vector is a GCC/Clang vector extension type, so arithmetic,
// comparisons and constants (`S(2) * x`, S the scalar type) read the same for all of them.
#pragma once

#if defined(__CUDACC__)
#define PGCONV_EVERYWHERE __host__ __device__
#define PGCONV_INLINE static __host__ __device__ __forceinline__
#define PGCONV_UNROLL _Pragma("unroll")
#define PGCONV_UNROLL_FEW _Pragma("unroll 3")
#define PGCONV_ROLLED _Pragma("unroll 1")
#else
#define PGCONV_EVERYWHERE
#define PGCONV_INLINE static inline __attribute__((always_inline))
#define PGCONV_UNROLL _Pragma("GCC unroll 32")
#define PGCONV_UNROLL_FEW
#define PGCONV_ROLLED
#endif
// The C library's function of that name. On the host without its headers: their inline functions would be compiled for one
// instruction set and merged with everybody else's.
#if defined(__CUDA_ARCH__)
#define PGCONV_MATH(name) ::name
#else
#define PGCONV_MATH(name) __builtin_##name
#endif
// Each translation unit that holds code for one instruction set defines PGCONV_ISA, see params.h.
#ifndef PGCONV_ISA
#error "define PGCONV_ISA before including kernels"
#endif

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Traits {
  using Scalar = T;
  static constexpr int width = 1;
};
template <class T>
using Scalar = typename Traits<T>::Scalar;

// Coefficients, handed around by value: device code cannot refer to a static array of the host.
template <class S, int N>
struct Polynomial {
  S c[N];
};

constexpr double kPi = 3.141592653589793238462643;

PGCONV_INLINE float round_nearest(float x) { return PGCONV_MATH(rintf)(x); }
PGCONV_INLINE double round_nearest(double x) { return PGCONV_MATH(rint)(x); }
PGCONV_INLINE float square_root(float x) { return PGCONV_MATH(sqrtf)(x); }
PGCONV_INLINE double square_root(double x) { return PGCONV_MATH(sqrt)(x); }
PGCONV_INLINE float select(bool m, float a, float b) { return m ? a : b; }
PGCONV_INLINE double select(bool m, double a, double b) { return m ? a : b; }
// x within [low, high]; NaN stays NaN.
PGCONV_INLINE float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
PGCONV_INLINE double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
// x, or -x where the integer n is odd. 2^n for integral n in [-126, 127] (float), [-1022, 1023] (double).
#if defined(__CUDA_ARCH__)
PGCONV_INLINE float negate_if_odd(float n, float x) {
  return __int_as_float(__float_as_int(x) ^ (__float2int_rn(n) << 31));
}
PGCONV_INLINE double negate_if_odd(double n, double x) {
  return __longlong_as_double(__double_as_longlong(x) ^ (__double2ll_rn(n) << 63));
}
PGCONV_INLINE float power_of_two(float n) { return __int_as_float((__float2int_rn(n) + 127) << 23); }
PGCONV_INLINE double power_of_two(double n) { return __longlong_as_double((__double2ll_rn(n) + 1023) << 52); }
#else
PGCONV_INLINE float negate_if_odd(float n, float x) { return __builtin_fmodf(n, 2.0f) == 0 ? x : -x; }
PGCONV_INLINE double negate_if_odd(double n, double x) { return __builtin_fmod(n, 2.0) == 0 ? x : -x; }
PGCONV_INLINE float power_of_two(float n) { return __builtin_ldexpf(1.0f, int(n)); }
PGCONV_INLINE double power_of_two(double n) { return __builtin_ldexp(1.0, int(n)); }
#endif
#if defined(__CUDA_ARCH__)
PGCONV_INLINE float reciprocal(float x) { return __fdividef(1.0f, x); }  // 2 units in the last place, and no call
#else
PGCONV_INLINE float reciprocal(float x) { return 1.0f / x; }
#endif
PGCONV_INLINE double reciprocal(double x) { return 1.0 / x; }

}  // namespace PGCONV_ISA
}  // namespace pgconv

#if !defined(__CUDACC__)
#include "../cpu/simd.h"
#endif

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
PGCONV_INLINE T broadcast(Scalar<T> x) {
  return x - T{};  // not x + T{}: x - 0 is x even for x = -0, so no instruction is left of it
}

template <class T>
PGCONV_INLINE T absolute(T x) {
  return select(x < Scalar<T>(0), -x, x);
}

template <class T>
PGCONV_INLINE T ceiling(T x) {
  T n = round_nearest(x);
  return select(n < x, n + Scalar<T>(1), n);
}

template <class T>
PGCONV_INLINE T flooring(T x) {
  T n = round_nearest(x);
  return select(n > x, n - Scalar<T>(1), n);
}

// sum_k c[k] x^k with coefficients of x's own precision.
template <class T, int N>
PGCONV_INLINE T horner(Polynomial<Scalar<T>, N> a, T x) {
  T p = broadcast<T>(a.c[N - 1]);
  PGCONV_UNROLL
  for (int k = N - 2; k >= 0; --k) p = p * x + a.c[k];
  return p;
}

// The derivative of horner().
template <class T, int N>
PGCONV_INLINE T horner_derivative(Polynomial<Scalar<T>, N> a, T x) {
  using S = Scalar<T>;
  T p = broadcast<T>(S(N - 1) * a.c[N - 1]);
  PGCONV_UNROLL
  for (int k = N - 2; k >= 1; --k) p = p * x + S(k) * a.c[k];
  return p;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
