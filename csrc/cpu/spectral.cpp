// Host side of the spectral order: the cyclic domain, tables, batches of images that fit in memory, work split. The
// arithmetic is in transform_impl.h and spectral_impl.h.
#include <cmath>

#include "direct_host.h"

namespace pgconv {
namespace {

// Spectra of the images processed together. More images share one pass over the kernel's spectrum.
constexpr int64_t kSpectraBytes = int64_t(96) << 20;
constexpr int64_t kPlanesPerTask = 32;

// Domain and tables of one call. Along an axis pixel i of the signal lies at padding + i, tap t of output pixel o at
// o stride + t dilation. A period is long enough when no tap that misses the signal meets it one period away.
template <class T>
struct SpectralSetup {
  DirectFactors<T> factors;
  SpectralProblem<T> problem;
  std::vector<double> circle[4];  // cos and sin along y, along x
  std::vector<int64_t> first, second, y, x;
  std::vector<T> tables;

  static int64_t period(const ConvCall& call, int axis) {
    int64_t size = axis == 0 ? call.H : call.W, out = axis == 0 ? call.Ho : call.Wo, pad = call.padding[axis];
    return std::max(size + pad, (out - 1) * call.stride[axis] + call.reach[axis] - pad + 1);
  }

  SpectralSetup(const ConvCall& call, const ConvSetup<T>& setup, bool backward) : factors(setup), problem{} {
    const SpectralKernels<T>& k = setup.kernels.spectral;
    problem.conv = setup.problem;
    int64_t size[2] = {period(call, 0), period(call, 1)};
    for (int i = 0; i < 4; ++i)
      for (int64_t n = 0; n < size[i / 2]; ++n) {
        double angle = 2 * M_PI * double(n) / double(size[i / 2]);
        circle[i].push_back(i % 2 ? std::sin(angle) : std::cos(angle));
      }
    problem.spectrum = {size[0], size[1], circle[0].data(), circle[1].data(), circle[2].data(), circle[3].data()};
    problem.window = {call.H, call.W, call.padding[0], 1, call.padding[1], 1, 1, 1};
    // Taps count from the centre of the window here, so pixels begin there.
    problem.pixel = {call.Ho, call.Wo, call.reach[0] / 2, call.stride[0], call.reach[1] / 2, call.stride[1],
                     call.O, call.Nu};
    pair_taps(call);

    const Spectrum& s = problem.spectrum;
    int64_t lanes = k.chunks(s) * setup.kernels.width;
    int64_t sizes[] = {k.into_size(s, problem.window), k.back_size(s, problem.window), k.into_size(s, problem.pixel),
                       k.back_size(s, problem.pixel), problem.pairs.sums * lanes, problem.pairs.differences * lanes};
    int64_t total = sizes[4] + sizes[5];
    for (int64_t n : sizes) total += n;
    tables.resize(total);
    T *window_into = tables.data(), *window_back = window_into + sizes[0], *pixel_into = window_back + sizes[1];
    T *pixel_back = pixel_into + sizes[2], *cosine = pixel_back + sizes[3], *sine = cosine + sizes[4];
    T *cosine_rows = sine + sizes[5], *sine_rows = cosine_rows + sizes[4];
    problem.packs = {window_into, window_back, pixel_into, pixel_back, cosine, sine, cosine_rows, sine_rows,
                     factors.packs(), nullptr};
    k.pack_into(s, problem.window, false, window_into);
    if (backward) {
      k.pack_back(s, problem.window, false, window_back);
      k.pack_into(s, problem.pixel, true, pixel_into);
    } else {
      k.pack_back(s, problem.pixel, true, pixel_back);
    }
    k.pack_pairs(problem, cosine, sine, cosine_rows, sine_rows);
  }

  void pair_taps(const ConvCall& call) {
    int64_t centre = -1;
    for (int64_t t = 0; t < call.T; ++t) {
      int64_t opposite[2], found = -1;
      for (int axis = 0; axis < 2; ++axis) opposite[axis] = call.reach[axis] / call.dilation[axis] - call.taps[2 * t + axis];
      for (int64_t n = 0; n < call.T; ++n)
        if (call.taps[2 * n] == opposite[0] && call.taps[2 * n + 1] == opposite[1]) found = n;
      if (found < 0) fail(call.op, ": taps: order spectral needs a support that is symmetric about its centre");
      if (found == t) centre = t;
      if (found > t) add_pair(call, t, found);
    }
    problem.pairs.differences = int64_t(first.size());
    if (centre >= 0) add_pair(call, centre, centre);
    problem.pairs = {int64_t(first.size()), problem.pairs.differences, first.data(), second.data(), y.data(), x.data()};
  }
  void add_pair(const ConvCall& call, int64_t a, int64_t b) {
    first.push_back(a);
    second.push_back(b);
    y.push_back(call.dilation[0] * call.taps[2 * a] - call.reach[0] / 2);
    x.push_back(call.dilation[1] * call.taps[2 * a + 1] - call.reach[1] / 2);
  }

  // Folded kernel values of set s.
  const T* build(const ConvSetup<T>& setup, int64_t s, Workspace& memory) const {
    const SpectralKernels<T>& k = setup.kernels.spectral;
    int64_t size = k.fold_size(problem.conv);
    T* values = memory.as<T>();
    build_channels(setup, [&](int64_t c, T* scratch) { k.fold(problem, s, c, scratch, values + c * size); });
    return values;
  }
};

// Runs f(image, first plane, last plane, workspace) over the planes of `images` images.
template <class T, class F>
void for_planes(const ConvSetup<T>& setup, const Spectrum& s, const SpectrumSide& side, int64_t images, int64_t planes,
                const F& f) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  int64_t runs = (planes + kPlanesPerTask - 1) / kPlanesPerTask;
  parallel_runs(setup.threads, images * runs, [&](int64_t begin, int64_t end) {
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
  int64_t blocks = k.row_blocks(p);
  int64_t batch = p.S > 1 ? 1 : batch_of<T>(p.B, chunks, image + image_out);
  Workspace spectra(chunks * batch * (image + image_out) * sizeof(T));
  Workspace value_memory(p.C * k.fold_size(p) * sizeof(T));
  const T* values = nullptr;
  size_t bytes = storage_bytes(call);
  size_t in_bytes = bytes * size_t(p.C * p.Nv * call.H * call.W), out_bytes = bytes * size_t(p.O * p.Nu * call.Ho * call.Wo);
  for (int64_t first = 0; first < p.B; first += batch) {
    int64_t images = std::min(batch, p.B - first);
    if (first == 0 || p.S > 1) values = spectral.build(setup, p.S > 1 ? first : 0, value_memory);
    T *window = spectra.as<T>(), *pixel = window + chunks * images * image;
    for_planes(setup, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.into(q, false, false, static_cast<const char*>(p.window) + (first + b) * in_bytes, begin, end, workspace,
             images * image, window + b * image);
    });
    parallel_runs(setup.threads, chunks * blocks, [&](int64_t begin, int64_t end) {
      Workspace workspace(k.forward_workspace(q, images) * sizeof(T));
      for (int64_t i = begin; i < end; ++i)
        k.forward(q, images, values, i / blocks, i % blocks, window, workspace.as<T>(), pixel);
    });
    for_planes(setup, q.spectrum, q.pixel, images, p.O * p.Nu, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.back(q, true, pixel + b * image_out, images * image_out, begin, end, workspace,
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
  int64_t batch = p.S > 1 ? 1 : batch_of<T>(p.B, chunks, image + image_out);
  int64_t K = p.Nv * p.grid.taps, phi_lanes = (K + width - 1) / width * width, phi_block = p.Nu * p.H * phi_lanes;
  int64_t head_lanes = (p.O + width - 1) / width * width, head_block = p.C * p.H * head_lanes;
  // Parts own channels, so only the features have a sum for each.
  int64_t parts = std::min(setup.threads, p.C);

  Workspace spectra(chunks * batch * (image + image_out) * sizeof(T));
  T *window = spectra.as<T>(), *pixel = window + chunks * batch * image;
  Workspace value_memory((needs.window ? p.C * k.fold_size(p) : 0) * sizeof(T));
  const T* values = nullptr;
  Workspace sums((parts * p.S * phi_block + head_block) * sizeof(double));
  double *phi_sums = sums.as<double>(), *head_sums = phi_sums + parts * p.S * phi_block;
  std::fill(phi_sums, head_sums + head_block, 0.0);

  size_t bytes = storage_bytes(call);
  int64_t plane = call.H * call.W;
  size_t in_bytes = bytes * size_t(p.C * p.Nv * plane), out_bytes = bytes * size_t(p.O * p.Nu * call.Ho * call.Wo);
  for (int64_t first = 0; first < p.B; first += batch) {
    int64_t images = std::min(batch, p.B - first), s = p.S > 1 ? first : 0;
    if (needs.window && (first == 0 || p.S > 1)) values = spectral.build(setup, s, value_memory);
    if (needs.kernel())
      for_planes(setup, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
        k.into(q, false, true, static_cast<const char*>(p.window) + (first + b) * in_bytes, begin, end, workspace,
               images * image, window + b * image);
      });
    for_planes(setup, q.spectrum, q.pixel, images, p.O * p.Nu, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
      k.into(q, true, false, static_cast<const char*>(p.pixel) + (first + b) * out_bytes, begin, end, workspace,
             images * image_out, pixel + b * image_out);
    });
    parallel_each(setup.threads, parts, [&](int64_t part) {
      Range own = part_of(p.C, parts, part);
      Workspace workspace(k.backward_workspace(q, images) * sizeof(T));
      k.backward(q, needs, s, images, values, own.begin, own.end, window, pixel, workspace.as<T>(),
                 {phi_sums + (part * p.S + s) * phi_block, head_sums});
    });
    if (needs.window)
      for_planes(setup, q.spectrum, q.window, images, p.C * p.Nv, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
        k.back(q, false, window + b * image, images * image, begin, end, workspace,
               grad_window + (first + b) * p.C * p.Nv * plane, true);
      });
  }
  if (needs.phi) finish_phi(setup, phi_sums, parts, phi_lanes, grad_phi);
  if (needs.weight) finish_head(setup, head_sums, 1, head_lanes, grad_weight);
}

template void spectral_forward<float>(const ConvCall&, const ConvSetup<float>&, void*);
template void spectral_forward<double>(const ConvCall&, const ConvSetup<double>&, void*);
template void spectral_backward<float>(const ConvCall&, const ConvSetup<float>&, ConvNeeds, float*, float*, float*);
template void spectral_backward<double>(const ConvCall&, const ConvSetup<double>&, ConvNeeds, double*, double*,
                                        double*);

}  // namespace pgconv
