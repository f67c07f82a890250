// Signals as the image kernels read them: samples of a pixel next to each other.
#pragma once

#include <cstdint>

#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

struct GroupLast {
  int64_t planes, pixels;
  int samples, vectors;  // octets of samples
  const void* from;      // [planes, samples, pixels], 16 bits each; float32 where there is a factor
  const float* factor;   // or null; the result is float16, of what is read times the factor
  uint16_t* to;          // [planes, pixels, 8 vectors], zeros behind the samples
};

void group_last_of(Machine& machine, GroupLast p);

}  // namespace PGCONV_ISA
}  // namespace pgconv
