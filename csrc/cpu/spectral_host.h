// What both spectral orders share on the host: the cyclic domain with its tables, and the transforms of batches of images.
#pragma once

#include <cmath>

#include "conv_host.h"

namespace pgconv {

// Spectra held at a time: of all frequencies for a batch of images, or of a band of frequencies for all images.
constexpr int64_t kSpectraBytes = int64_t(50) << 20;
constexpr int64_t kPlanesPerTask = 32;

// Domain and tables of one call. Along an axis pixel i of the signal lies at padding + i, tap t of output pixel o at
// o stride + t dilation. A period is long enough when no tap that misses the signal meets it one period away.
template <class T>
struct SpectralSetup {
  SpectralProblem<T> problem;
  std::vector<double> circle[4];  // cos and sin along y, along x
  std::vector<int64_t> first, second, y, x;
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
                     {}, {}, nullptr};
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

// Size of a batch of `count` items of so many times so many numbers: as equal batches as possible.
template <class T>
int64_t batch_of(int64_t count, int64_t times, int64_t numbers, int64_t bytes) {
  int64_t most = std::max<int64_t>(bytes / std::max<int64_t>(times * numbers * int64_t(sizeof(T)), 1), 1);
  int64_t batches = std::max<int64_t>((count + most - 1) / most, 1);
  return (count + batches - 1) / batches;
}

inline size_t storage_bytes(const ConvCall& call) {
  return call.bfloat16() ? 2 : call.phi.scalar_type() == ScalarType::Double ? 8 : 4;
}

// Spectra of one batch or band: the window side in three parts, the pixel side in `pixel_parts`.
template <class T>
struct Spectra {
  int64_t all_chunks, chunks, image, image_out, batch;
  Workspace memory;

  // Batches are of `most` images at most; `beside` is what the call holds beside its spectra, in bytes. Bands transform the images' rows again for each of them, but what is made for a
  // frequency serves all images.
  Spectra(const ConvSetup<T>& setup, const SpectralProblem<T>& q, int pixel_parts, int64_t most, bool bands,
          int64_t beside = 0)
      : all_chunks(setup.kernels.spectral.chunks(q.spectrum)),
        chunks(all_chunks),
        image(setup.kernels.spectral.image_size(q.conv.C * q.conv.Nv, 3)),
        image_out(setup.kernels.spectral.image_size(q.conv.O * q.conv.Nu, pixel_parts)),
        batch(most),
        memory(cut(bands, kSpectraBytes - beside) * sizeof(T)) {}
  T* window() const { return memory.as<T>(); }
  T* pixel() const { return window() + chunks * batch * image; }

 private:
  // Numbers of a band or batch, as equal ones as possible.
  int64_t cut(bool bands, int64_t bytes) {
    (bands ? chunks : batch) = batch_of<T>(bands ? chunks : batch, bands ? batch : chunks, image + image_out, bytes);
    return chunks * batch * (image + image_out);
  }
};

// Calls f(first, images, band) for the batches and bands of a call.
template <class T, class F>
void for_batches(const ConvProblem<T>& p, const Spectra<T>& spectra, const F& f) {
  for (int64_t first = 0; first < p.B; first += spectra.batch)
    for (int64_t chunk = 0; chunk < spectra.all_chunks; chunk += spectra.chunks)
      f(first, std::min(spectra.batch, p.B - first),
        Band{chunk, std::min(chunk + spectra.chunks, spectra.all_chunks)});
}

// Spectra of the planes of a batch from one side (or the gradient's), and planes from spectra.
template <class T>
void transform_batch(const ConvCall& call, const ConvSetup<T>& setup, const SpectralProblem<T>& q,
                     const Spectra<T>& spectra, bool pixel_side, bool left, int64_t first, int64_t images, Band band) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  const SpectrumSide& side = pixel_side ? q.pixel : q.window;
  int64_t planes = pixel_side ? q.conv.O * q.conv.Nu : q.conv.C * q.conv.Nv;
  int64_t image = pixel_side ? spectra.image_out : spectra.image;
  const char* from = static_cast<const char*>(pixel_side ? q.conv.pixel : q.conv.window);
  T* to = pixel_side ? spectra.pixel() : spectra.window();
  size_t bytes = storage_bytes(call) * size_t(planes * side.height * side.width);
  for_planes(setup, q.spectrum, side, images, planes, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
    k.into(q, pixel_side, left, from + size_t(first + b) * bytes, begin, end, band, workspace, images * image,
           to + b * image);
  });
}
// `native`: the planes hold the kernels' numbers whatever the call's storage.
template <class T>
void restore_batch(const ConvCall& call, const ConvSetup<T>& setup, const SpectralProblem<T>& q,
                   const Spectra<T>& spectra, bool pixel_side, bool native, int64_t first, int64_t images, Band band,
                   void* out) {
  const SpectralKernels<T>& k = setup.kernels.spectral;
  const SpectrumSide& side = pixel_side ? q.pixel : q.window;
  int64_t planes = pixel_side ? q.conv.O * q.conv.Nu : q.conv.C * q.conv.Nv;
  int64_t image = pixel_side ? spectra.image_out : spectra.image;
  const T* from = pixel_side ? spectra.pixel() : spectra.window();
  size_t bytes = (native ? sizeof(T) : storage_bytes(call)) * size_t(planes * side.height * side.width);
  for_planes(setup, q.spectrum, side, images, planes, [&](int64_t b, int64_t begin, int64_t end, T* workspace) {
    k.back(q, pixel_side, from + b * image, images * image, begin, end, band, workspace,
           static_cast<char*>(out) + size_t(first + b) * bytes, native);
  });
}

}  // namespace pgconv
