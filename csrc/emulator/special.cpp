// What the special-function unit computes, with errors as large as its own are at most.
#include <cmath>

#include "emulator.h"

namespace pgconv {
namespace emulator {
namespace {

// The argument in turns, cut off to float32; results in steps of 2^-20, so that they err by 2^-21.
template <class F>
float of_turns(float x, F f) {
  const double turns = double(x) * double(0.159154943f);
  float cut_off = float(turns);
  if (std::fabs(double(cut_off)) > std::fabs(turns)) cut_off = std::nextafter(cut_off, 0.0f);
  const double y = f(6.283185307179586 * double(cut_off));
  return float(std::nearbyint(std::ldexp(y, 20)) * 0x1p-20);
}

// Without its last two bits.
float cut(double y) {
  int exponent;
  const double fraction = std::frexp(y, &exponent);
  return std::isfinite(y) && y != 0 ? float(std::ldexp(std::nearbyint(std::ldexp(fraction, 22)), exponent - 22)) : float(y);
}

}  // namespace

float sine(float x) {
  return of_turns(x, [](double y) { return std::sin(y); });
}
float cosine(float x) {
  return of_turns(x, [](double y) { return std::cos(y); });
}
float exp2(float x) { return cut(std::exp2(double(x))); }
float reciprocal(float x) { return cut(1.0 / double(x)); }

}  // namespace emulator
}  // namespace pgconv
