// Host side of the aggregate order: packs, work split, sums. The arithmetic is in aggregate_impl.h.
#include "conv_host.h"

namespace pgconv {
namespace {

// Padded planes of a strip are read once per channel chunk; they should stay in the last-level cache.
constexpr int64_t kPlaneBytes = 6 << 20;

}  // namespace

template <class T>
void aggregate_forward(const ConvSetup<T>& setup, void* out) {
  const ConvProblem<T>& p = setup.problem;
  const AggregateKernels<T>& k = setup.kernels.aggregate[p.storage];
  AggregateSizes sizes = k.pack_sizes(p);
  Workspace packed((sizes.features + sizes.head) * sizeof(T));
  T *features = packed.as<T>(), *head = features + sizes.features;
  parallel_each(setup.threads, p.S, [&](int64_t s) { k.pack_features(p, s, features); });
  pack_chunks(setup, k.chunk_channels(p, false), 1, [&](int64_t begin, int64_t end) { k.pack_head(p, begin, end, head); });
  AggregatePacks<T> packs{features, nullptr, head, nullptr};

  PixelSplit<T> split(setup, p.C * p.Nv, kPlaneBytes);
  parallel_runs(setup.threads, split.tasks(p.B), [&](int64_t begin, int64_t end) {
    Workspace workspace(k.forward_workspace(p, split.task(p, setup.kernels.panel, begin)) * sizeof(T));
    for (int64_t i = begin; i < end; ++i)
      k.forward(p, split.task(p, setup.kernels.panel, i), packs, workspace.as<T>(), out);
  });
}

template <class T>
void aggregate_backward(const ConvSetup<T>& setup, ConvNeeds needs, void* grad_window, T* grad_phi,
                        T* grad_weight) {
  const ConvProblem<T>& p = setup.problem;
  const AggregateKernels<T>& k = setup.kernels.aggregate[p.storage];
  int64_t K = p.Nv * p.grid.taps, width = setup.kernels.width;
  int64_t phi_lanes = (K + width - 1) / width * width, head_lanes = (p.O + width - 1) / width * width;
  int64_t phi_block = p.S * p.Nu * p.H * phi_lanes, head_block = p.C * p.H * head_lanes;
  GridSplit split(setup.threads, p.B, p.C, false);
  // With features of its own for every image a part sums its images' gradients in their places of a slot that the parts
  // of the same channels share.
  int64_t phi_slots = p.S == 1 ? split.parts() : split.columns;

  AggregateSizes sizes = k.pack_sizes(p);
  Workspace packed((sizes.features + sizes.features_adjoint + sizes.head_adjoint) * sizeof(T));
  T *features = packed.as<T>(), *adjoint = features + sizes.features, *head = adjoint + sizes.features_adjoint;
  parallel_each(setup.threads, p.S, [&](int64_t s) {
    if (needs.weight) k.pack_features(p, s, features);
    if (needs.window) k.pack_features_adjoint(p, s, adjoint);
  });
  pack_chunks(setup, k.chunk_channels(p, true), split.columns,
              [&](int64_t begin, int64_t end) { k.pack_head_adjoint(p, begin, end, head); });
  AggregatePacks<T> packs{features, adjoint, nullptr, head};

  int64_t phi_size = needs.phi ? phi_slots * phi_block : 0, head_size = needs.weight ? split.rows * head_block : 0;
  Workspace sums((phi_size + head_size) * sizeof(double));
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + phi_size;
  parallel_each(setup.threads, phi_slots, [&](int64_t i) {
    if (needs.phi) std::fill(phi_sums + i * phi_block, phi_sums + (i + 1) * phi_block, 0.0);
  });
  parallel_each(setup.threads, split.rows, [&](int64_t i) {
    if (needs.weight) std::fill(head_sums + i * head_block, head_sums + (i + 1) * head_block, 0.0);
  });

  int64_t strip = PixelSplit<T>(setup, (p.C + split.columns - 1) / split.columns * p.Nv, kPlaneBytes).strip_pixels;
  parallel_each(setup.threads, split.parts(), [&](int64_t part) {
    Range images = split.row_range(p.B, part), channels = split.column_range(p.C, part);
    ConvTask task{0, 0, channels.begin, channels.end, 0, p.grid.pixels(), strip};
    Workspace workspace(k.backward_workspace(p, task) * sizeof(T));
    ConvSums own{phi_sums + (p.S == 1 ? part : part % split.columns) * phi_block,
                 head_sums + part / split.columns * head_block};
    // Sums of an image are kept in T and rounded once where the storage is another.
    int64_t plane = p.Nv * p.grid.height * p.grid.width, size = (channels.end - channels.begin) * plane;
    bool rounded = needs.window && p.storage != kNative;
    Workspace planes(size_t(rounded ? size : 0) * sizeof(T));
    for (int64_t b = images.begin; b < images.end; ++b) {
      int64_t first = (b * p.C + channels.begin) * plane;
      T* to = rounded ? planes.as<T>() : static_cast<T*>(grad_window) + (needs.window ? first : 0);
      if (needs.window) std::fill(to, to + size, T(0));
      task.b_begin = b;
      task.b_end = b + 1;
      k.backward(p, task, packs, needs, workspace.as<T>(), own, to);
      if (rounded) k.store(to, size, static_cast<uint16_t*>(grad_window) + first);
    }
  });
  if (needs.phi) finish_phi(setup, phi_sums, phi_slots, phi_lanes, grad_phi);
  if (needs.weight) finish_head(setup, head_sums, split.rows, head_lanes, grad_weight);
}

template void aggregate_forward<float>(const ConvSetup<float>&, void*);
template void aggregate_forward<double>(const ConvSetup<double>&, void*);
template void aggregate_backward<float>(const ConvSetup<float>&, ConvNeeds, void*, float*, float*);
template void aggregate_backward<double>(const ConvSetup<double>&, ConvNeeds, void*, double*, double*);

}  // namespace pgconv
