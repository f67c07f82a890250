// Host side of the direct order: packs, kernel values, work split, sums. The arithmetic is in direct_impl.h.
#include "direct_host.h"

namespace pgconv {
namespace {

// Panels that share one pass over the kernel values: their outputs (Nu O numbers a pixel) stay in the second-level cache
// while the values of all channels stream by.
constexpr int64_t kStripPanels = 8;

// Factors, and with shared features the packed kernel values of all channels (forward) or those of the adjoint.
template <class T>
struct DirectOperands {
  DirectFactors<T> factors;
  Workspace values;
  DirectPacks<T> packs;

  DirectOperands(const ConvSetup<T>& setup, bool forward, bool adjoint)
      : factors(setup),
        values((setup.problem.S == 1 && (forward || adjoint) ? values_size(setup) * setup.problem.C : 0) * sizeof(T)),
        packs(factors.packs()) {
    const ConvProblem<T>& p = setup.problem;
    const DirectKernels<T>& k = setup.kernels.direct;
    if (p.S > 1 || !(forward || adjoint)) return;
    T* built = values.template as<T>();
    build_channels(setup, [&](int64_t c, T* scratch) {
      (forward ? k.build_values : k.build_adjoint)(p, factors.packs(), 0, c, scratch, built + c * values_size(setup));
    });
    (forward ? packs.values : packs.adjoint) = built;
  }
  static int64_t values_size(const ConvSetup<T>& setup) { return setup.kernels.direct.values_size(setup.problem); }
};

}  // namespace

template <class T>
void direct_forward(const ConvSetup<T>& setup, void* out) {
  const ConvProblem<T>& p = setup.problem;
  const DirectKernels<T>& k = setup.kernels.direct;
  DirectOperands<T> operands(setup, true, false);
  PixelSplit<T> split(setup, p.Nv, 1 << 20);
  // Features of one image are built once per strip: one strip then.
  split.strip_pixels = p.S == 1 ? kStripPanels * setup.kernels.panel : p.grid.pixels();
  parallel_runs(setup.threads, split.tasks(p.B), [&](int64_t begin, int64_t end) {
    Workspace workspace(k.forward_workspace(p, split.task(p, setup.kernels.panel, begin)) * sizeof(T));
    for (int64_t i = begin; i < end; ++i)
      k.forward(p, split.task(p, setup.kernels.panel, i), operands.packs, workspace.as<T>(), out);
  });
}

template <class T>
void direct_backward(const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window, T* grad_phi, T* grad_weight) {
  const ConvProblem<T>& p = setup.problem;
  const DirectKernels<T>& k = setup.kernels.direct;
  int64_t width = setup.kernels.width, K = p.Nv * p.grid.taps;
  int64_t phi_lanes = (K + width - 1) / width * width, head_lanes = (p.O + width - 1) / width * width;
  int64_t phi_block = p.Nu * p.H * phi_lanes, head_block = p.C * p.H * head_lanes;
  DirectOperands<T> operands(setup, false, needs.window);
  // Channels first: parts with channels of their own need no copies of the kernel's gradient, the largest sums here.
  GridSplit split(setup.threads, p.B, p.C, p.S == 1);
  bool shared = p.S == 1;
  int64_t kernel_block = needs.kernel() ? p.C * k.sums_size(p) : 0;
  Workspace kernel_sums((shared ? split.rows : split.parts()) * kernel_block * sizeof(T));
  int64_t phi_slots = shared ? std::min(setup.threads, p.C) : split.columns, head_slots = shared ? 1 : split.rows;
  Workspace sums((phi_slots * p.S * phi_block + head_slots * head_block) * sizeof(double));
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + phi_slots * p.S * phi_block;
  std::fill(phi_sums, head_sums + head_slots * head_block, 0.0);
  int64_t strip = shared ? kStripPanels * setup.kernels.panel : p.grid.pixels();

  parallel_each(setup.threads, split.parts(), [&](int64_t part) {
    Range images = split.row_range(p.B, part), channels = split.column_range(p.C, part);
    ConvTask task{0, 0, channels.begin, channels.end, 0, p.grid.pixels(), strip};
    Workspace workspace(std::max(k.backward_workspace(p, task), k.contract_workspace(p)) * sizeof(T));
    T* own = kernel_sums.as<T>() + (shared ? part / split.columns : part) * kernel_block;
    int64_t plane = p.Nv * p.grid.height * p.grid.width;
    for (int64_t b = images.begin; b < images.end; ++b) {
      if (needs.kernel() && (!shared || b == images.begin))
        std::fill(own + channels.begin * k.sums_size(p), own + channels.end * k.sums_size(p), T(0));
      if (needs.window)
        std::fill(grad_window + (b * p.C + channels.begin) * plane, grad_window + (b * p.C + channels.end) * plane, T(0));
      task.b_begin = b;
      task.b_end = b + 1;
      k.backward(p, task, operands.packs, needs, workspace.as<T>(), own, grad_window);
      if (shared || !needs.kernel()) continue;
      ConvSums to{phi_sums + (part % split.columns * p.S + b) * phi_block,
                  head_sums + part / split.columns * head_block};
      for (int64_t c = channels.begin; c < channels.end; ++c)
        k.contract(p, b, c, needs, own + c * k.sums_size(p), workspace.as<T>(), to);
    }
  });
  if (!needs.kernel()) return;

  if (shared)
    parallel_each(setup.threads, phi_slots, [&](int64_t slot) {
      Range channels = part_of(p.C, phi_slots, slot);
      Workspace workspace(k.contract_workspace(p) * sizeof(T));
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        T* first = kernel_sums.as<T>() + c * k.sums_size(p);
        for (int64_t i = 1; i < split.rows; ++i)
          for (int64_t n = 0; n < k.sums_size(p); ++n) first[n] += first[i * kernel_block + n];
        k.contract(p, 0, c, needs, first, workspace.as<T>(), {phi_sums + slot * phi_block, head_sums});
      }
    });
  if (needs.phi) finish_phi(setup, phi_sums, phi_slots, phi_lanes, grad_phi);
  if (needs.weight) finish_head(setup, head_sums, head_slots, head_lanes, grad_weight);
}

template void direct_forward<float>(const ConvSetup<float>&, void*);
template void direct_forward<double>(const ConvSetup<double>&, void*);
template void direct_backward<float>(const ConvSetup<float>&, ConvNeeds, float*, float*, float*);
template void direct_backward<double>(const ConvSetup<double>&, ConvNeeds, double*, double*, double*);

}  // namespace pgconv
