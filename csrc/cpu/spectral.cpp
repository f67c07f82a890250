// Host side of the spectral order from kernel values: values of the set in use, work split, sums. The arithmetic is in
// spectral_impl.h.
#include "direct_host.h"
#include "spectral_host.h"

namespace pgconv {
namespace {

// Folded kernel values of one set at a time.
template <class T>
class SpectralValues {
 public:
  SpectralValues(const ConvSetup<T>& setup, SpectralProblem<T>& problem, bool wanted)
      : setup_(setup),
        problem_(problem),
        factors_(setup),
        size_(setup.kernels.spectral.fold_size(problem.conv)),
        memory_((wanted ? problem.conv.C * size_ : 0) * sizeof(T)) {
    problem.packs.direct = factors_.packs();
  }
  const T* build(int64_t s) {
    if (s != built_)
      build_channels(setup_, [&](int64_t c, T* scratch) {
        setup_.kernels.spectral.fold(problem_, s, c, scratch, memory_.template as<T>() + c * size_);
      });
    built_ = s;
    return memory_.template as<T>();
  }

 private:
  const ConvSetup<T>& setup_;
  const SpectralProblem<T>& problem_;
  DirectFactors<T> factors_;
  int64_t size_;
  Workspace memory_;
  int64_t built_ = -1;
};

// Bands make the spectrum of the values once. They add to the planes they restore, so these must hold sums.
template <class T>
bool in_bands(const ConvProblem<T>& p) {
  return p.S == 1 && p.storage == kNative;
}

}  // namespace

template <class T>
void spectral_forward(const ConvCall& call, const ConvSetup<T>& setup, void* out) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  SpectralSetup<T> spectral(call, setup, false);
  SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  SpectralValues<T> values(setup, q, true);
  Spectra<T> spectra(setup, q, 2, p.S > 1 ? 1 : p.B, in_bands(p));
  int64_t blocks = k.row_blocks(p);
  for_batches(p, spectra, [&](int64_t first, int64_t images, Band band) {
    const T* built = values.build(p.S > 1 ? first : 0);
    transform_batch(call, setup, q, spectra, false, false, first, images, band);
    parallel_runs(setup.threads, (band.end - band.begin) * blocks, [&](int64_t begin, int64_t end) {
      Workspace workspace(k.forward_workspace(q, images) * sizeof(T));
      for (int64_t i = begin; i < end; ++i) {
        int64_t chunk = i / blocks;
        k.forward(q, images, built, band.begin + chunk, i % blocks, spectra.window() + chunk * images * spectra.image,
                  workspace.as<T>(), spectra.pixel() + chunk * images * spectra.image_out);
      }
    });
    restore_batch(call, setup, q, spectra, true, false, first, images, band, out);
  });
}

template <class T>
void spectral_backward(const ConvCall& call, const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window, T* grad_phi,
                       T* grad_weight) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  SpectralSetup<T> spectral(call, setup, true);
  SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  SpectralValues<T> values(setup, q, needs.window);
  Spectra<T> spectra(setup, q, 3, p.S > 1 ? 1 : p.B, in_bands(p));
  int64_t width = setup.kernels.width, K = p.Nv * p.grid.taps;
  int64_t phi_lanes = (K + width - 1) / width * width, phi_block = p.Nu * p.H * phi_lanes;
  int64_t head_lanes = (p.O + width - 1) / width * width, head_block = p.C * p.H * head_lanes;
  // Parts own channels, so only the features have a sum for each.
  int64_t parts = std::min(setup.threads, p.C);
  Workspace sums((parts * p.S * phi_block + head_block) * sizeof(double));
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + parts * p.S * phi_block;
  std::fill(phi_sums, head_sums + head_block, 0.0);

  for_batches(p, spectra, [&](int64_t first, int64_t images, Band band) {
    int64_t s = p.S > 1 ? first : 0;
    const T* built = needs.window ? values.build(s) : nullptr;
    if (needs.kernel()) transform_batch(call, setup, q, spectra, false, true, first, images, band);
    transform_batch(call, setup, q, spectra, true, false, first, images, band);
    parallel_each(setup.threads, parts, [&](int64_t part) {
      Range own = part_of(p.C, parts, part);
      Workspace workspace(k.backward_workspace(q, images) * sizeof(T));
      k.backward(q, needs, s, images, built, band, own.begin, own.end, spectra.window(), spectra.pixel(), workspace.as<T>(),
                 {phi_sums + (part * p.S + s) * phi_block, head_sums});
    });
    if (needs.window) restore_batch(call, setup, q, spectra, false, true, first, images, band, grad_window);
  });
  if (needs.phi) finish_phi(setup, phi_sums, parts, phi_lanes, grad_phi);
  if (needs.weight) finish_head(setup, head_sums, 1, head_lanes, grad_weight);
}

template void spectral_forward<float>(const ConvCall&, const ConvSetup<float>&, void*);
template void spectral_forward<double>(const ConvCall&, const ConvSetup<double>&, void*);
template void spectral_backward<float>(const ConvCall&, const ConvSetup<float>&, ConvNeeds, float*, float*, float*);
template void spectral_backward<double>(const ConvCall&, const ConvSetup<double>&, ConvNeeds, double*, double*,
                                        double*);

}  // namespace pgconv
