// Moments over neighbour lists on a GPU: what point_lists.cu offers the operators. It takes the nets that point_moments.cu takes.
#pragma once

#include "../common/params.h"
#include "half_type.h"
#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

// Which inputs an output sums over; numbers that are none of an input's stand for no pair. Row r has
// - with rowptr: the pairs rowptr[r] to rowptr[r + 1], of inputs index[pair], or, with index null, of those from first[r] on;
// - without: the pairs r padded to (r + 1) padded, of inputs index[pair].
struct PointLists {
  const int64_t *rowptr, *index, *first;
  int64_t padded;
  int64_t pairs;  // numbers in index
  int64_t batch;  // rows of a set: row s batch + i; 0 where all sets have the same
};

// As point_moments_of() with lists; call.S is the number of sets that differ in elements or lists.
void point_list_moments_of(Machine& machine, const FeaturesCall& call, const PointLists& lists, int64_t B, int64_t C, HalfType type,
                           const uint16_t* f, const float* v, const float* u, const float* params, float* moments);

}  // namespace PGCONV_ISA
}  // namespace pgconv
