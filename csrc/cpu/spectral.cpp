// Host side of the spectral order: the cyclic domain, tables, batches of images that fit in memory, work split. The
// arithmetic is in transform_impl.h and spectral_impl.h.
#include <cmath>

#include "conv_host.h"

namespace pgconv {
namespace {

// Spectra of the images processed together. More images share one pass over the kernel's spectrum.
constexpr int64_t kSpectraBytes = int64_t(96) << 20;
constexpr int64_t kPlanesPerTask = 32;

// Domain and tables of one call. Along an axis pixel i of the signal lies at padding + i, tap t of output pixel o at
// o stride + t dilation. A period is long enough when no tap that misses the signal meets it one period away.
template <class T>
struct SpectralSetup {
  SpectralProblem<T> problem;
  std::vector<double> circle[4];  // cos and sin along y, along x
  std::vector<int64_t> tap_y, tap_x;
  std::vector<T> tables;

  static int64_t period(const ConvCall& call, int axis) {
    int64_t size = axis == 0 ? call.H : call.W, out = axis == 0 ? call.Ho : call.Wo, pad = call.padding[axis];
    return std::max(size + pad, (out - 1) * call.stride[axis] + call.reach[axis] - pad + 1);
  }

  SpectralSetup(const ConvCall& call, const ConvSetup<T>& setup, bool backward) : problem{} {
    const SpectralKernels<T>& k = setup.kernels.spectral;
    problem.conv = setup.problem;
    int64_t size[2] = {period(call, 0), period(call, 1)};
    for (int i = 0; i < 4; ++i)
      for (int64_t n = 0; n < size[i / 2]; ++n) {
        double angle = 2 * M_PI * double(n) / double(size[i / 2]);
        circle[i].push_back(i % 2 ? std::sin(angle) : std::cos(angle));
      }
    problem.spectrum = {size[0], size[1], circle[0].data(), circle[1].data(), circle[2].data(), circle[3].data()};
    problem.window = {call.H, call.W, call.padding[0], 1, call.padding[1], 1};
    problem.pixel = {call.Ho, call.Wo, 0, call.stride[0], 0, call.stride[1]};
    for (int64_t t = 0; t < call.T; ++t) {
      tap_y.push_back(call.dilation[0] * call.taps[2 * t]);
      tap_x.push_back(call.dilation[1] * call.taps[2 * t + 1]);
    }
    problem.tap_y = tap_y.data();
    problem.tap_x = tap_x.data();

    const Spectrum& s = problem.spectrum;
    int64_t twiddles = k.chunks(s) * call.T * 2 * setup.kernels.width, head = call.O * call.C * call.Hd;
    int64_t sizes[] = {k.into_size(s, problem.window), k.back_size(s, problem.window), k.into_size(s, problem.pixel),
                       k.back_size(s, problem.pixel), twiddles, twiddles, head};
    int64_t total = 0;
    for (int64_t n : sizes) total += n;
    tables.resize(total);
    T *window_into = tables.data(), *window_back = window_into + sizes[0], *pixel_into = window_back + sizes[1];
    T *pixel_back = pixel_into + sizes[2], *taps = pixel_back + sizes[3], *taps_back = taps + sizes[4];
    T* packed_head = taps_back + sizes[5];
    problem.packs = {window_into, window_back, pixel_into, pixel_back, taps, taps_back, packed_head};
    k.pack_into(s, problem.window, false, window_into);
    if (backward) {
      k.pack_back(s, problem.window, false, window_back);
      k.pack_into(s, problem.pixel, true, pixel_into);
    } else {
      k.pack_back(s, problem.pixel, true, pixel_back);
    }
    k.pack_taps(problem, taps, backward ? taps_back : nullptr);
    parallel_each(call.C, [&](int64_t c) { k.pack_head(problem, c, packed_head); });
  }
};

// Runs f(image, first plane, last plane, workspace) over the planes of `images` images.
template <class T, class F>
void for_planes(const SpectralKernels<T>& k, const Spectrum& s, const SpectrumSide& side, int64_t images,
                int64_t planes, const F& f) {
  int64_t runs = (planes + kPlanesPerTask - 1) / kPlanesPerTask;
  torch::stable::parallel_for(0, images * runs, 1, [&](int64_t begin, int64_t end) {
    Workspace workspace(k.transform_workspace(s, side) * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = i % runs * kPlanesPerTask;
      f(i / runs, first, std::min(first + kPlanesPerTask, planes), workspace.as<T>());
    }
  });
}

// Images in one batch when each needs so many numbers in every chunk: as equal batches as possible.
template <class T>
int64_t batch_of(int64_t B, int64_t chunks, int64_t per_image) {
  int64_t most = std::max<int64_t>(kSpectraBytes / std::max<int64_t>(chunks * per_image * int64_t(sizeof(T)), 1), 1);
  int64_t batches = (B + most - 1) / most;
  return (B + batches - 1) / batches;
}

size_t storage_bytes(const ConvCall& call) {
  return call.bfloat16() ? 2 : call.phi.scalar_type() == ScalarType::Double ? 8 : 4;
}

}  // namespace

template <class T>
void spectral_forward(const ConvCall& call, const ConvSetup<T>& setup, void* out) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  SpectralSetup<T> spectral(call, setup, false);
  const SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  int64_t chunks = k.chunks(q.spectrum), image = k.image_size(p.C * p.Nv, 3), image_out = k.image_size(p.O * p.Nu, 2);
  int64_t batch = batch_of<T>(p.B, chunks, image + image_out);
  Workspace spectra(chunks * batch * (image + image_out) * sizeof(T));
  size_t bytes = storage_bytes(call);
  size_t in_bytes = bytes * size_t(p.C * p.Nv * call.H * call.W), out_bytes = bytes * size_t(p.O * p.Nu * call.Ho * call.Wo);
  for (int64_t first = 0; first < p.B; first += batch) {
    int64_t images = std::min(batch, p.B - first);
    T *window = spectra.as<T>(), *pixel = window + chunks * images * image;
    for_planes(k, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.into(q, false, false, static_cast<const char*>(p.window) + (first + b) * in_bytes, begin, end, workspace,
             images * image, window + b * image);
    });
    torch::stable::parallel_for(0, chunks * p.Nu, 1, [&](int64_t begin, int64_t end) {
      Workspace workspace(k.forward_workspace(q, images) * sizeof(T));
      for (int64_t i = begin; i < end; ++i)
        k.forward(q, images, i / p.Nu, i % p.Nu, window, workspace.as<T>(), pixel);
    });
    for_planes(k, q.spectrum, q.pixel, images, p.O * p.Nu, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.back(q, true, 2, pixel + b * image_out, images * image_out, begin, end, workspace,
             static_cast<char*>(out) + (first + b) * out_bytes, false);
    });
  }
}

template <class T>
void spectral_backward(const ConvCall& call, const ConvSetup<T>& setup, ConvNeeds needs, T* grad_window, T* grad_phi,
                       T* grad_weight) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  SpectralSetup<T> spectral(call, setup, true);
  const SpectralProblem<T>& q = spectral.problem;
  const ConvProblem<T>& p = q.conv;
  int64_t width = setup.kernels.width, chunks = k.chunks(q.spectrum);
  int64_t image = k.image_size(p.C * p.Nv, 3), image_out = k.image_size(p.O * p.Nu, 3);
  int64_t batch = batch_of<T>(p.B, chunks, image + image_out);
  int64_t K = p.Nv * p.grid.taps, phi_lanes = (K + width - 1) / width * width;
  int64_t head_lanes = (p.O + width - 1) / width * width, head_block = p.C * p.H * head_lanes;
  int64_t phi_rows = p.Nu * p.Nv * p.H + width, parts = std::min(thread_count(), chunks);

  Workspace spectra(chunks * (batch * (image + image_out) + (needs.phi ? phi_rows * 2 * width : 0)) * sizeof(T));
  T* window = spectra.as<T>();
  T* pixel = window + chunks * batch * image;
  T* phi = pixel + chunks * batch * image_out;
  int64_t phi_block = needs.phi ? p.Nu * p.H * phi_lanes : 0, heads = needs.weight ? parts * head_block : 0;
  Workspace sums((phi_block + heads) * sizeof(double));
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + phi_block;
  std::fill(phi_sums, head_sums + heads, 0.0);

  size_t bytes = storage_bytes(call);
  int64_t plane = call.H * call.W;
  size_t in_bytes = bytes * size_t(p.C * p.Nv * plane), out_bytes = bytes * size_t(p.O * p.Nu * call.Ho * call.Wo);
  for (int64_t first = 0; first < p.B; first += batch) {
    int64_t images = std::min(batch, p.B - first);
    if (needs.kernel())
      for_planes(k, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
        k.into(q, false, true, static_cast<const char*>(p.window) + (first + b) * in_bytes, begin, end, workspace,
               images * image, window + b * image);
      });
    for_planes(k, q.spectrum, q.pixel, images, p.O * p.Nu, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.into(q, true, false, static_cast<const char*>(p.pixel) + (first + b) * out_bytes, begin, end, workspace,
             images * image_out, pixel + b * image_out);
    });
    parallel_each(parts, [&](int64_t part) {
      Range own = part_of(chunks, parts, part);
      Workspace workspace(k.backward_workspace(q, images) * sizeof(T));
      for (int64_t chunk = own.begin; chunk < own.end; ++chunk)
        k.backward(q, needs, images, chunk, window, pixel, workspace.as<T>(), phi, head_sums + part * head_block);
    });
    if (needs.window)
      for_planes(k, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
        k.back(q, false, 3, window + b * image, images * image, begin, end, workspace,
               grad_window + (first + b) * p.C * p.Nv * plane, true);
      });
    if (needs.phi)
      torch::stable::parallel_for(0, p.Nu, 1, [&](int64_t begin, int64_t end) {
        Workspace workspace(k.features_workspace(q) * sizeof(T));
        for (int64_t u = begin; u < end; ++u)
          for (int64_t v = 0; v < p.Nv; ++v) k.features_back(q, u, v, phi, workspace.as<T>(), phi_sums);
      });
  }
  if (needs.phi) finish_phi(p, phi_sums, 1, phi_lanes, grad_phi);
  if (needs.weight) finish_head(p, head_sums, parts, head_lanes, grad_weight);
}

template void spectral_forward<float>(const ConvCall&, const ConvSetup<float>&, void*);
template void spectral_forward<double>(const ConvCall&, const ConvSetup<double>&, void*);
template void spectral_backward<float>(const ConvCall&, const ConvSetup<float>&, ConvNeeds, float*, float*, float*);
template void spectral_backward<double>(const ConvCall&, const ConvSetup<double>&, ConvNeeds, double*, double*,
                                        double*);

}  // namespace pgconv
