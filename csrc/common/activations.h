// Activations of kernel nets, value and derivative side by side, for every T of numeric.h. Polynomials interpolate at
// Chebyshev nodes (within a small factor of minimax); the errors given are maximal, absolute unless said otherwise,
// for float including its rounding.
#pragma once

#include "numeric.h"
#include "params.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class S>
struct Coefficients;
// sin: sin(pi z) / z in z^2 for |z| <= 1/2;
// exp2m1: (2^f - 1) / f for |f| <= 1/2;  erfcx: e^(z^2) erfc(z) / t in 2 t - 1 with t = 1 / (1 + z/2), z >= 0.
template <>
struct Coefficients<float> {
  PGCONV_INLINE constexpr Polynomial<float, 5> sin() {
    return {{3.14159264f, -5.167710075f, 2.5500773875f, -0.59829041094f, 0.0776559123f}};
  }
  PGCONV_INLINE constexpr Polynomial<float, 6> exp2m1() {
    return {{0.693147188f, 0.240226508f, 0.0555035711f, 0.00961808256f, 0.00133908634f, 0.000154531629f}};
  }
  PGCONV_INLINE constexpr Polynomial<float, 11> erfcx() {
    return {{0.510791353f, 0.343580313f, 0.139735946f, 0.0182217491f, -0.0107533109f, -0.00324373307f, 0.00153384704f,
             0.000431040022f, -0.000304719086f, -3.67643616e-5f, 4.42884147e-5f}};
  }
};
template <>
struct Coefficients<double> {
  PGCONV_INLINE constexpr Polynomial<double, 10> sin() {
    return {{3.14159265358979323850, -5.16771278004997002875, 2.55016403987734534281, -0.599264529320786899141,
             0.0821458866109935574414, -0.00737043094370213584961, 0.000466302787459327272949,
             -0.0000219152503018513742676, 7.94853903737232084656E-7, -2.22837121606969688797E-8}};
  }
  PGCONV_INLINE constexpr Polynomial<double, 12> exp2m1() {
    return {{0.693147180559945309, 0.240226506959100712, 0.055504108664821627, 0.00961812910762847949,
             0.00133335581464064707, 0.000154035303933707334, 0.0000152527338415567726, 1.32154868087055628e-6,
             1.01780570877339411e-7, 7.05489730415549928e-9, 4.45581790833606449e-10, 2.57293241773623042e-11}};
  }
  PGCONV_INLINE constexpr Polynomial<double, 32> erfcx() {
    return {{0.510791352621011488, 0.3435803422069053, 0.1397360462780274, 0.0182211157534387674,
             -0.0107553309447482558, -0.00323959253383180168, 0.00154530602983793364, 0.000418648030305729291,
             -0.000331536757451035153, -0.0000171857049600481185, 0.0000722354234120510024, -0.0000170745592754189711,
             -0.0000108483963473919113, 8.06105024834115901e-6, -5.61796232401235328e-7, -1.82395514098898079e-6,
             9.98971742138639197e-7, 3.79624328658144074e-9, -2.83485275912052075e-7, 1.54488588872588213e-7,
             -1.96517786211431628e-9, -4.67897136959871502e-8, 2.64496175635784234e-8, -8.14985264195085297e-10,
             -5.76335964246859018e-9, 3.71183669021416947e-9, -1.72598317685111568e-9, -3.14540767497006987e-10,
             1.13181058966230789e-9, -3.35694007732273846e-10, -1.83944415295980646e-10, 8.36359349751930537e-11}};
  }
};

// sin(pi t): 1.6e-7 (1.8e-7 without fused multiply-add). t = n + r with an exact r, and every half turn changes the sign;
// sin(0) is 0 exactly, which padded features rely on.
template <class T>
PGCONV_INLINE T sin_of_fraction(T r) {
  return r * horner(Coefficients<Scalar<T>>::sin(), r * r);
}

template <class T>
PGCONV_INLINE T sin_half_turns(T t) {
  T n = round_nearest(t);
  return negate_if_odd(n, sin_of_fraction(t - n));
}

// The cosine is the sine a quarter turn further, of the same polynomial: cos(pi r) = sin(pi (1/2 - |r|)).
template <class T>
PGCONV_INLINE void sincos_half_turns(T t, T& sine, T& cosine) {
  T n = round_nearest(t), r = t - n;
  sine = negate_if_odd(n, sin_of_fraction(r));
  cosine = negate_if_odd(n, sin_of_fraction(Scalar<T>(0.5) - absolute(r)));
}

// 2^(n + f) - 1 = scale - 1 + scale * rest with n whole and |f| <= 1/2. scale is a power of two.
template <class T>
PGCONV_INLINE void power_parts(T n, T f, T& scale, T& rest) {
  scale = power_of_two(n);
  rest = f * horner(Coefficients<Scalar<T>>::exp2m1(), f);
}

// e^x for |x| <= 87 (clamped beyond; float), 700 (double). The relative error grows with |x|, as the exponent is rounded: for where
// e^x does not matter when it is large, and small values need no relative accuracy.
template <class T>
PGCONV_INLINE T exponential(T x) {
  using S = Scalar<T>;
  constexpr S limit = sizeof(S) == 4 ? S(125.5) : S(1010);
  T t = clamp(x * S(1.4426950408889634), -limit, limit);
  T n = round_nearest(t), scale, rest;
  power_parts(n, t - n, scale, rest);
  return scale + scale * rest;
}

// e^x - 1 in the same range, with full relative accuracy.
template <class T>
PGCONV_INLINE T exponential_minus_one(T x) {
  using S = Scalar<T>;
  constexpr S limit = sizeof(S) == 4 ? S(87) : S(700);
  x = clamp(x, -limit, limit);
  T n = round_nearest(x * S(1.4426950408889634));
  // Cody-Waite: n * high is exact, high having 11 (float) or 21 (double) trailing zero bits.
  constexpr S high = sizeof(S) == 4 ? S(0.693145751953125) : S(0.69314718036912381649);
  constexpr S low = sizeof(S) == 4 ? S(1.42860682030941723e-6) : S(1.90821492927058770002e-10);
  T scale, rest;
  power_parts(n, ((x - n * high) - n * low) * S(1.4426950408889634), scale, rest);
  return (scale - S(1)) + scale * rest;
}

// An activation's argument is scale() times the pre-activation z, and its derivative is with respect to
// derivative_scale() times z: both factors are folded into the weights.
template <int A>
struct Act;

template <>
struct Act<kSin> {
  static constexpr double kScale = 1 / kPi;  // times omega0: phases in half turns
  template <class T>
  PGCONV_INLINE T value(T t) {
    return sin_half_turns(t);
  }
  template <class T>
  PGCONV_INLINE void both(T t, T& y, T& dy) {
    sincos_half_turns(t, y, dy);
  }
};

// x / (1 + e^-x): relative error 4e-7, derivative 3e-7.
template <>
struct Act<kSilu> {
  static constexpr double kScale = 1;
  template <class T>
  PGCONV_INLINE T value(T x) {
    return x * reciprocal(Scalar<T>(1) + exponential(-x));
  }
  template <class T>
  PGCONV_INLINE void both(T x, T& y, T& dy) {
    T sigmoid = reciprocal(Scalar<T>(1) + exponential(-x));
    y = x * sigmoid;
    dy = sigmoid + y * (Scalar<T>(1) - sigmoid);
  }
};

// NaN stays NaN, and the derivative at 0 is 0, as in torch.
template <>
struct Act<kRelu> {
  static constexpr double kScale = 1;
  template <class T>
  PGCONV_INLINE T value(T x) {
    return select(x <= Scalar<T>(0), T{}, x);
  }
  template <class T>
  PGCONV_INLINE void both(T x, T& y, T& dy) {
    y = value(x);
    dy = select(x <= Scalar<T>(0), T{}, broadcast<T>(1));
  }
};

// x Phi(x) with Phi(-|x|) = e^(-x^2/2) erfcx(|x| / sqrt 2) / 2: the density needed for the derivative comes for free.
template <>
struct Act<kGelu> {
  static constexpr double kScale = 1;
  template <class T>
  PGCONV_INLINE void both(T x, T& y, T& dy) {
    using S = Scalar<T>;
    T t = reciprocal(S(1) + S(0.35355339059327376) * absolute(x));
    T gauss = exponential(S(-0.5) * x * x);
    T tail = S(0.5) * gauss * t * horner(Coefficients<S>::erfcx(), S(2) * t - S(1));
    T phi = select(x > S(0), S(1) - tail, tail);
    y = x * phi;
    dy = phi + x * gauss * S(0.3989422804014327);
  }
  template <class T>
  PGCONV_INLINE T value(T x) {
    T y, dy;
    both(x, y, dy);
    return y;
  }
};

// -m / (2 + m) with m = e^(-2|x|) - 1 has full relative accuracy at 0.
template <>
struct Act<kTanh> {
  static constexpr double kScale = 1;
  template <class T>
  PGCONV_INLINE T value(T x) {
    using S = Scalar<T>;
    T m = exponential_minus_one(S(-2) * absolute(x));
    T y = -m * reciprocal(S(2) + m);
    return select(x < S(0), -y, y);
  }
  template <class T>
  PGCONV_INLINE void both(T x, T& y, T& dy) {
    y = value(x);
    dy = Scalar<T>(1) - y * y;
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
