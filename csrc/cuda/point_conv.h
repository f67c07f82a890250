// The point convolution on a GPU: what point_moments.cu and point_gradient.cu offer the operators. All pointers are memory of the machine.
#pragma once

#include "../common/params.h"
#include "half_type.h"
#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

// Why no kernel computes the moments of a net of that shape, or null.
const char* why_not_moments(const NetShape& shape);

// moments [B, Nu, H, C] of f [B, Nv, C] (kFloat16Parts: [2, B, Nv, C]), C a multiple of 8; all sets of elements are used by B / S images each.
void point_moments_of(Machine& machine, const FeaturesCall& call, int64_t B, int64_t C, HalfType type, const uint16_t* f,
                      const float* v, const float* u, const float* params, float* moments);

// Why no kernel computes the gradients of elements with so many fields and of the net for so many columns (channels of all
// images that share a set) on a GPU of that compute capability, times ten, or null.
const char* why_not_gradient(HalfType type, const NetShape& shape, int fields, int64_t columns, int capability);

// Gradients of v, u and params from that of the moments, [B, Nu, H, C] in the type of f (kFloat16Parts: [2, B, Nu, H, C]). Parts
// are those of the numbers times powers of two that bring them below 2^14: results are multiplied with `factor` [S] then. The
// outputs are walked over in at most `most_parts`
// parts, 0: as many as keep a GPU busy.
void point_features_gradient(Machine& machine, const FeaturesCall& call, int64_t B, int64_t C, HalfType type,
                             int most_parts, const uint16_t* grad_moments, const uint16_t* f, const float* factor, const float* v,
                             const float* u, const float* params, float* grad_v, float* grad_u, float* grad_params);

}  // namespace PGCONV_ISA
}  // namespace pgconv
