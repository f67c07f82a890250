// Host side of the aggregate order in the frequency domain: packs, work split, sums. The arithmetic is in
// spectral_aggregate_impl.h.
#include "spectral_host.h"

namespace pgconv {
namespace {

// Folded features of all sets, and the head for one direction.
template <class T>
class SpectralFeatures {
 public:
  SpectralFeatures(const ConvSetup<T>& setup, SpectralProblem<T>& problem, bool backward)
      : memory_((features_size(problem.conv) + problem.conv.O * problem.conv.C * problem.conv.H) * sizeof(T)) {
    const ConvProblem<T>& p = problem.conv;
    const AggregateKernels<T>& k = setup.kernels.aggregate[kNative];
    T *features = memory_.template as<T>(), *head = features + features_size(p);
    parallel_each(setup.threads, p.S, [&](int64_t s) {
      setup.kernels.spectral_aggregate.fold(problem, s, features + s * (features_size(p) / p.S));
    });
    pack_chunks(setup, k.chunk_channels(p, backward), 1, [&](int64_t begin, int64_t end) {
      (backward ? k.pack_head_adjoint : k.pack_head)(p, begin, end, head);
    });
    problem.packs.features = features;
    (backward ? problem.packs.aggregate.head_adjoint : problem.packs.aggregate.head) = head;
  }

 private:
  static int64_t features_size(const ConvProblem<T>& p) { return p.S * p.Nu * p.Nv * p.grid.taps * p.H; }
  Workspace memory_;
};

}  // namespace

template <class T>
void spectral_aggregate_forward(const ConvCall& call, const ConvSetup<T>& setup, void* out) {
  const SpectralAggregateKernels<T>& k = setup.kernels.spectral_aggregate;
  SpectralSetup<T> spectral(call, setup, false);
  SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  SpectralFeatures<T> features(setup, q, false);
  Spectra<T> spectra(setup, q, 2, p.B, false);
  for_batches(p, spectra, [&](int64_t first, int64_t images, Band band) {
    transform_batch(call, setup, q, spectra, false, false, first, images, band);
    parallel_runs(setup.threads, spectra.chunks * p.Nu, [&](int64_t begin, int64_t end) {
      Workspace workspace(k.forward_workspace(q) * sizeof(T));
      for (int64_t i = begin; i < end; ++i)
        k.forward(q, first, images, i / p.Nu, i % p.Nu, spectra.window(), workspace.as<T>(), spectra.pixel());
    });
    restore_batch(call, setup, q, spectra, true, false, first, images, band, out);
  });
}

template <class T>
void spectral_aggregate_backward(const ConvCall& call, const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window,
                                 T* grad_phi, T* grad_weight) {
  const SpectralAggregateKernels<T>& k = setup.kernels.spectral_aggregate;
  SpectralSetup<T> spectral(call, setup, true);
  SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  SpectralFeatures<T> features(setup, q, true);
  int64_t width = setup.kernels.width, K = p.Nv * p.grid.taps;
  int64_t phi_lanes = (K + width - 1) / width * width, phi_block = p.Nu * p.H * phi_lanes;
  int64_t head_lanes = (p.O + width - 1) / width * width, head_block = p.C * p.H * head_lanes;
  // Parts own chunks, so features and head have a sum for each.
  int64_t parts = std::min(setup.threads, setup.kernels.spectral.chunks(q.spectrum));
  int64_t sums_bytes = parts * (p.S * phi_block + head_block) * int64_t(sizeof(double));
  Spectra<T> spectra(setup, q, 3, p.B, false, sums_bytes);
  Workspace sums{size_t(sums_bytes)};
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + parts * p.S * phi_block;
  std::fill(phi_sums, head_sums + parts * head_block, 0.0);

  for_batches(p, spectra, [&](int64_t first, int64_t images, Band band) {
    if (needs.kernel()) transform_batch(call, setup, q, spectra, false, false, first, images, band);
    transform_batch(call, setup, q, spectra, true, true, first, images, band);
    parallel_each(setup.threads, parts, [&](int64_t part) {
      Range own = part_of(spectra.chunks, parts, part);
      Workspace workspace(k.backward_workspace(q) * sizeof(T));
      for (int64_t b = 0; b < images; ++b) {
        int64_t s = p.S > 1 ? first + b : 0;
        k.backward(q, needs, s, own.begin, own.end, spectra.window() + b * spectra.image, images * spectra.image,
                   spectra.pixel() + b * spectra.image_out, images * spectra.image_out, workspace.as<T>(),
                   {phi_sums + (part * p.S + s) * phi_block, head_sums + part * head_block});
      }
    });
    if (needs.window) restore_batch(call, setup, q, spectra, false, true, first, images, band, grad_window);
  });
  if (needs.phi) finish_phi(setup, phi_sums, parts, phi_lanes, grad_phi);
  if (needs.weight) finish_head(setup, head_sums, parts, head_lanes, grad_weight);
}

template void spectral_aggregate_forward<float>(const ConvCall&, const ConvSetup<float>&, void*);
template void spectral_aggregate_forward<double>(const ConvCall&, const ConvSetup<double>&, void*);
template void spectral_aggregate_backward<float>(const ConvCall&, const ConvSetup<float>&, ConvNeeds, float*, float*,
                                                 float*);
template void spectral_aggregate_backward<double>(const ConvCall&, const ConvSetup<double>&, ConvNeeds, double*,
                                                  double*, double*);

}  // namespace pgconv
