#include "features.h"

#include "elements.h"
#include "net.cuh"

namespace pgconv {
namespace PGCONV_ISA {

const char* why_not_net(const NetShape& shape, int bytes) {
  int warps = bytes == 4 ? NetWarps::backward<float>(shape).warps : NetWarps::backward<double>(shape).warps;
  int forward = bytes == 4 ? NetWarps::forward<float>(shape).warps : NetWarps::forward<double>(shape).warps;
  return warps < 1 || forward < 1 ? "the kernel net is too wide and deep for a block's shared memory" : nullptr;
}

template <class T>
void kernel_net(Machine& machine, const NetShape& shape, int64_t count, const T* coords, const T* params, T* out) {
  net_values(machine, shape, count, coords, params, out);
}
template <class T>
void kernel_net_backward(Machine& machine, const NetShape& shape, int64_t count, const T* grad, const T* coords,
                         const T* params, T* grad_coords, T* grad_params) {
  net_gradients(machine, shape, count, coords, params, grad, grad_coords, grad_params);
}

template <class T>
void relative_features(Machine& machine, const FeaturesCall& call, const T* v, const T* u, const T* params, T* out) {
  Relative<T> relative(machine, call, v, u);
  net_values<T>(machine, call.shape, relative.pairs(), relative.coordinates(), params, out);
}

template <class T>
void relative_features_backward(Machine& machine, const FeaturesCall& call, const T* grad, const T* v, const T* u,
                                const T* params, T* grad_v, T* grad_u, T* grad_params) {
  Relative<T> relative(machine, call, v, u);
  const T* coords = relative.coordinates();
  T* grad_coords = machine.take<T>(relative.pairs() * call.shape.coord_dim);
  net_gradients(machine, call.shape, relative.pairs(), coords, params, grad, grad_coords, grad_params);
  relative.gradients(grad_coords, grad_v, grad_u);
}

#define PGCONV_FOR(T)                                                                                             \
  template void kernel_net<T>(Machine&, const NetShape&, int64_t, const T*, const T*, T*);                        \
  template void kernel_net_backward<T>(Machine&, const NetShape&, int64_t, const T*, const T*, const T*, T*, T*); \
  template void relative_features<T>(Machine&, const FeaturesCall&, const T*, const T*, const T*, T*);            \
  template void relative_features_backward<T>(Machine&, const FeaturesCall&, const T*, const T*, const T*,        \
                                              const T*, T*, T*, T*);
PGCONV_FOR(float)
PGCONV_FOR(double)
#undef PGCONV_FOR

}  // namespace PGCONV_ISA
}  // namespace pgconv
