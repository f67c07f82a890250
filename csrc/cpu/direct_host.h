// The direct order's small factors, packed: shared by the orders that build kernel values.
#pragma once

#include "conv_host.h"

namespace pgconv {

template <class T>
class DirectFactors {
 public:
  explicit DirectFactors(const ConvSetup<T>& setup) : memory_(size(setup) * sizeof(T)) {
    const ConvProblem<T>& p = setup.problem;
    const DirectKernels<T>& k = setup.kernels.direct;
    int64_t K = p.Nv * p.grid.taps, width = setup.kernels.width;
    T* phi_rows = memory_.template as<T>();
    T* phi_lanes = phi_rows + p.S * p.Nu * K * p.H;
    T* head_rows = phi_lanes + p.S * p.Nu * lanes(K, width) * p.H;
    T* head_lanes = head_rows + p.C * p.O * p.H;
    parallel_each(setup.threads, p.S, [&](int64_t s) { k.pack_features(p, s, phi_rows, phi_lanes); });
    parallel_each(setup.threads, p.C, [&](int64_t c) { k.pack_head(p, c, head_rows, head_lanes); });
    packs_ = {phi_rows, phi_lanes, head_rows, head_lanes, nullptr, nullptr};
  }
  const DirectPacks<T>& packs() const { return packs_; }

 private:
  static int64_t lanes(int64_t n, int64_t width) { return (n + width - 1) / width * width; }
  static int64_t size(const ConvSetup<T>& setup) {
    const ConvProblem<T>& p = setup.problem;
    int64_t K = p.Nv * p.grid.taps, width = setup.kernels.width;
    return p.H * (p.S * p.Nu * (K + lanes(K, width)) + p.C * (p.O + lanes(p.O, width)));
  }

  Workspace memory_;
  DirectPacks<T> packs_;
};

// Runs build(c, scratch) for every channel on all threads, with scratch for kernel values.
template <class T, class F>
void build_channels(const ConvSetup<T>& setup, const F& build) {
  parallel_runs(setup.threads, setup.problem.C, [&](int64_t begin, int64_t end) {
    Workspace scratch(setup.kernels.direct.build_size(setup.problem) * sizeof(T));
    for (int64_t c = begin; c < end; ++c) build(c, scratch.as<T>());
  });
}

}  // namespace pgconv
