// Activations of kernel nets between matrix products. Where the result is rounded to 16 bits they are the special-function unit's,
// with errors far below the rounding; arguments of the sine are then in radians and not reduced, see fast_sine(). `exact`
// values are those of the CPU (../common/activations.h), but for SiLU beside its derivative; arguments of the sine in half turns.
// Derivatives of sine and SiLU, whose errors no further layer multiplies, are the special-function unit's, the cosine's of a reduced
// argument.
#pragma once

#include "../common/activations.h"
#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

template <int A>
PGCONV_DEVICE float fast_value(float x) {
  if constexpr (A == kSin) {
    return fast_sine(x);
  } else if constexpr (A == kSilu) {
    return x * fast_reciprocal(1.0f + fast_exp2(-1.44269504f * x));
  } else if constexpr (A == kTanh) {
    return 1.0f - 2.0f * fast_reciprocal(1.0f + fast_exp2(2.88539008f * x));
  } else {
    return Act<A>::value(x);
  }
}

template <int A, bool exact, int n>
PGCONV_DEVICE void fast_values(float (&z)[n][4]) {
  PGCONV_UNROLL
  for (int k = 0; k < n; ++k)
    PGCONV_UNROLL
    for (int e = 0; e < 4; ++e) z[k][e] = exact ? Act<A>::value(z[k][e]) : fast_value<A>(z[k][e]);
}

// Known to the compiler, or one branch, the same for the whole launch, for many values.
template <int known, bool exact, int n>
PGCONV_DEVICE void fast_activate(int activation, float (&z)[n][4]) {
  if constexpr (known >= 0) {
    fast_values<known, exact>(z);
  } else {
    switch (activation) {
      case kSin: return fast_values<kSin, exact>(z);
      case kSilu: return fast_values<kSilu, exact>(z);
      case kRelu: return fast_values<kRelu, exact>(z);
      case kGelu: return fast_values<kGelu, exact>(z);
      default: return fast_values<kTanh, exact>(z);
    }
  }
}

// The value, and the derivative in place of the argument; arguments of the sine in half turns if `exact`.
template <int A, bool exact>
PGCONV_DEVICE float fast_both(float& x) {
  float y, dy;
  if constexpr (A == kSin && exact) {
    const float half_turns = round_nearest(x), rest = x - half_turns;
    y = negate_if_odd(half_turns, sin_of_fraction(rest));
    dy = negate_if_odd(half_turns, fast_cosine(3.14159265f * rest));
  } else if constexpr (A == kSin) {
    y = fast_sine(x);
    dy = fast_cosine(x);
  } else if constexpr (A == kSilu) {
    float sigmoid = fast_reciprocal(1.0f + fast_exp2(-1.44269504f * x));
    y = x * sigmoid;
    dy = sigmoid + y * (1.0f - sigmoid);
  } else if constexpr (A == kTanh && !exact) {
    y = fast_value<A>(x);
    dy = 1.0f - y * y;
  } else {
    Act<A>::both(x, y, dy);
  }
  x = dy;
  return y;
}

template <int A, bool exact, int n>
PGCONV_DEVICE void fast_boths(float (&z)[n][4], float (&y)[n][4]) {
  PGCONV_UNROLL
  for (int k = 0; k < n; ++k)
    PGCONV_UNROLL
    for (int e = 0; e < 4; ++e) y[k][e] = fast_both<A, exact>(z[k][e]);
}

template <int known, bool exact, int n>
PGCONV_DEVICE void fast_activate_both(int activation, float (&z)[n][4], float (&y)[n][4]) {
  if constexpr (known >= 0) {
    fast_boths<known, exact>(z, y);
  } else {
    switch (activation) {
      case kSin: return fast_boths<kSin, exact>(z, y);
      case kSilu: return fast_boths<kSilu, exact>(z, y);
      case kRelu: return fast_boths<kRelu, exact>(z, y);
      case kGelu: return fast_boths<kGelu, exact>(z, y);
      default: return fast_boths<kTanh, exact>(z, y);
    }
  }
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
