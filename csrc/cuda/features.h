// Kernel-net features on a GPU: what features.cu offers the operators. All pointers are memory of the machine.
#pragma once

#include "../common/params.h"
#include "machine.h"

namespace pgconv {
namespace PGCONV_ISA {

// Why no kernel takes nets of that shape in numbers of so many bytes, or null.
const char* why_not_net(const NetShape& shape, int bytes);

// coords [count, D] -> out [count, H], and gradients from grad [count, H].
template <class T>
void kernel_net(Machine& machine, const NetShape& shape, int64_t count, const T* coords, const T* params, T* out);
template <class T>
void kernel_net_backward(Machine& machine, const NetShape& shape, int64_t count, const T* grad, const T* coords,
                         const T* params, T* grad_coords, T* grad_params);

// v [Sv, Nv, e], u [Su, Nu, e] -> out [S, Nu, Nv, H], and gradients from grad [S, Nu, Nv, H].
template <class T>
void relative_features(Machine& machine, const FeaturesCall& call, const T* v, const T* u, const T* params, T* out);
template <class T>
void relative_features_backward(Machine& machine, const FeaturesCall& call, const T* grad, const T* v, const T* u,
                                const T* params, T* grad_v, T* grad_u, T* grad_params);

}  // namespace PGCONV_ISA
}  // namespace pgconv
