// Numbers of 16 bits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator.h"

namespace pgconv {
namespace emulator {

// Rounded to nearest, ties to even; beyond the largest number to infinity.
uint16_t half_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (std::isnan(x)) return sign | 0x7fff;
  double magnitude = std::fabs(double(x));
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude == 0) return sign;
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude = m 2^exponent, m in [1/2, 1)
  int unit = std::max(exponent - 11, -24);
  auto units = uint32_t(std::nearbyint(std::ldexp(magnitude, -unit)));
  // Units of 2^-24 are subnormals; carries run into the exponent as they should.
  return sign | uint16_t(units + (unit + 24 > 0 ? uint32_t(unit + 24) << 10 : 0));
}
float half_value(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double magnitude = exponent == 31  ? (fraction ? std::nan("") : INFINITY)
                     : exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, exponent - 25);
  return float(bits & 0x8000 ? -magnitude : magnitude);
}
uint16_t bfloat16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float bfloat16_value(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

}  // namespace emulator
}  // namespace pgconv
