// What the kernels of the planar convolution share with their host code. Only data, see params.h.
//
// A convolution couples planes on two sides. The *window* side is read through taps (in the forward direction the signal
// f [B, C, Nv, H, W]), the *pixel* side is walked pixel by pixel (there the output y [B, O, Nu, Ho, Wo]):
//
//     pixel[b, o, u, p] = sum_{c, v, t, h} W[o, c, h] phi[u, v, t, h] window[b, c, v, stride p - pad + dilation t]
//
// The adjoint of a convolution of stride 1 has the same form with the sides, C and O, Nv and Nu exchanged, so each kernel
// below serves both directions; names of sizes are those of the forward direction.
#pragma once

#include <cstdint>

namespace pgconv {

// How tensors on the two sides are stored; sums are kept in the kernels' own number type.
enum Storage { kNative, kBfloat16 };

// Window planes are copied with their zero padding into planes of `pitch` columns, x = stride_x * q + r being put at
// r * columns + q: whatever the stride, consecutive pixels of a row then read consecutive numbers, and a tap is one offset.
struct ConvGrid {
  int64_t height, width;          // of a window plane
  int64_t out_height, out_width;  // of a pixel plane
  int64_t pad_y, pad_x;           // may be negative in an adjoint: rows and columns that no tap reads
  int64_t stride_y, stride_x;
  int64_t reach_y;                // rows between the first and the last tap
  int64_t columns, pitch;
  int64_t taps;
  const int64_t* offsets;         // [taps], in padded planes

  int64_t pixels() const { return out_height * out_width; }
};

template <class T>
struct ConvProblem {
  ConvGrid grid;
  int64_t B, C, Nv, O, Nu, H, S;
  Storage storage;
  const void* window;  // [B, C, Nv, height, width]
  const void* pixel;   // [B, O, Nu, out_height, out_width], operand of the gradients
  // Element (s, u, v, t, h) of the features is phi[s phi_s + u phi_u + v phi_v + t H + h], element (o, c, h) of the head
  // weight[o weight_o + c weight_c + h].
  const T* phi;
  int64_t phi_s, phi_u, phi_v;
  const T* weight;
  int64_t weight_o, weight_c;
};

// Work of one call of a kernel: images [b_begin, b_end), channels [c_begin, c_end) of the window side, and pixels
// [pixel_begin, pixel_end) of each image in strips of at most strip_pixels, multiples of the panel width.
struct ConvTask {
  int64_t b_begin, b_end;
  int64_t c_begin, c_end;
  int64_t pixel_begin, pixel_end;
  int64_t strip_pixels;
};

// Which gradients a backward kernel computes.
struct ConvNeeds {
  bool window, phi, weight;
  bool kernel() const { return phi || weight; }
};

// Where the gradients of features and head are summed up, in double: features [u][h][K] with K = Nv T rounded up to whole
// vectors, one block for each set; head [c][h][O rounded up].
struct ConvSums {
  double* phi;
  double* head;
};

// Operands of the aggregate order in the order the products read them.
//   features [s][u]: rows h, depth (v, t);         adjoint [s]: rows (v, t), depth (u, h)
//   head [chunk]: rows o, depth (c, h);            adjoint [chunk]: rows (c, h), depth o
// A chunk is `channels` consecutive channels; it begins at (first channel) times one channel's size. What the numbers of
// memory hold, the kernels alone know: their own number type, or two bfloat16 numbers each.
template <class T>
struct AggregatePacks {
  const T* features;
  const T* features_adjoint;
  const T* head;
  const T* head_adjoint;
};

// Numbers of memory the packs above take.
struct AggregateSizes {
  int64_t features, features_adjoint, head, head_adjoint;
};

// Operands of the direct order in the order the products read them; lanes are rounded up to whole vectors.
//   phi_rows [s][u]: rows (v, t), depth h;    phi_lanes [s][u]: [h][(v, t) lanes]
//   head_rows [c]: rows o, depth h;           head_lanes [c]: [h][o lanes]
//   values [c]: rows (u, o), depth (v, t);    adjoint [c]: rows (v, t), depth (u, o), both null where S > 1
template <class T>
struct DirectPacks {
  const T *phi_rows, *phi_lanes, *head_rows, *head_lanes;
  const T *values, *adjoint;
};

// A cyclic domain for planes: its size, and cos and sin of 2 pi k / size.
struct Spectrum {
  int64_t size_y, size_x;
  const double *cos_y, *sin_y, *cos_x, *sin_x;
};

// Chunks [begin, end) of the frequencies, one vector each.
struct Band {
  int64_t begin, end;
};

// Where the pixels of one side lie in it: row y at first_y + y step_y, columns likewise. Spectra of an image are numbered
// by entries: entry e belongs to plane e % inner * outer + e / inner.
struct SpectrumSide {
  int64_t height, width;
  int64_t first_y, step_y, first_x, step_x;
  int64_t inner, outer;
};

// Taps of a support that is symmetric about its centre, as pairs of opposite taps and the centre alone: K(t) exp(i w t) +
// K(-t) exp(-i w t) = (K(t) + K(-t)) cos(w t) + i (K(t) - K(-t)) sin(w t), so a kernel's spectrum takes as many real
// multiply-adds as there are taps. `first` and `second` are numbers of taps, equal for the centre, which comes last.
struct TapPairs {
  int64_t sums, differences;  // pairs with the centre, and without
  const int64_t *first, *second;
  const int64_t *y, *x;  // position of the first, from the centre
};

// The spectral order's tables.
//   window_into, pixel_into: planes to frequencies; window_back, pixel_back: back; see transform_impl.h
//   cosine [chunk][sum][lanes], sine [chunk][difference][lanes]; *_rows: [chunk][lane][sum or difference]
//   direct: small factors of the direct order's kernel values
//   aggregate, features [s]: for the aggregate order: its head, folded features (SpectralAggregate::fold)
template <class T>
struct SpectralPacks {
  const T *window_into, *window_back, *pixel_into, *pixel_back;
  const T *cosine, *sine, *cosine_rows, *sine_rows;
  DirectPacks<T> direct;
  AggregatePacks<T> aggregate;
  const T* features;
};

template <class T>
struct SpectralProblem {
  ConvProblem<T> conv;
  Spectrum spectrum;
  SpectrumSide window, pixel;
  TapPairs pairs;
  SpectralPacks<T> packs;
};

// Kernels of one level, described where they are defined: aggregate_impl.h, direct_impl.h.
template <class T>
struct AggregateKernels {
  int64_t (*chunk_channels)(const ConvProblem<T>&, bool backward);
  AggregateSizes (*pack_sizes)(const ConvProblem<T>&);
  void (*pack_features)(const ConvProblem<T>&, int64_t s, T* to);
  void (*pack_features_adjoint)(const ConvProblem<T>&, int64_t s, T* to);
  void (*pack_head)(const ConvProblem<T>&, int64_t begin, int64_t end, T* to);
  void (*pack_head_adjoint)(const ConvProblem<T>&, int64_t begin, int64_t end, T* to);
  int64_t (*forward_workspace)(const ConvProblem<T>&, const ConvTask&);
  void (*forward)(const ConvProblem<T>&, const ConvTask&, const AggregatePacks<T>&, T* workspace, void* out);
  // grad_window begins at the task's first image and channel.
  int64_t (*backward_workspace)(const ConvProblem<T>&, const ConvTask&);
  void (*backward)(const ConvProblem<T>&, const ConvTask&, const AggregatePacks<T>&, ConvNeeds, T* workspace, ConvSums,
                   T* grad_window);
  // Numbers into the problem's storage.
  void (*store)(const T* from, int64_t count, void* to);
};

template <class T>
struct DirectKernels {
  int64_t (*values_size)(const ConvProblem<T>&);
  int64_t (*sums_size)(const ConvProblem<T>&);
  void (*pack_features)(const ConvProblem<T>&, int64_t s, T* rows, T* lanes);
  void (*pack_head)(const ConvProblem<T>&, int64_t c, T* rows, T* lanes);
  int64_t (*build_size)(const ConvProblem<T>&);
  void (*build_values)(const ConvProblem<T>&, const DirectPacks<T>&, int64_t s, int64_t c, T* scratch, T* to);
  void (*build_adjoint)(const ConvProblem<T>&, const DirectPacks<T>&, int64_t s, int64_t c, T* scratch, T* to);
  int64_t (*forward_workspace)(const ConvProblem<T>&, const ConvTask&);
  void (*forward)(const ConvProblem<T>&, const ConvTask&, const DirectPacks<T>&, T* workspace, void* out);
  int64_t (*backward_workspace)(const ConvProblem<T>&, const ConvTask&);
  void (*backward)(const ConvProblem<T>&, const ConvTask&, const DirectPacks<T>&, ConvNeeds, T* workspace, T* sums,
                   T* grad_window);
  int64_t (*contract_workspace)(const ConvProblem<T>&);
  void (*contract)(const ConvProblem<T>&, int64_t s, int64_t c, ConvNeeds, const T* kernel_sums, T* workspace, ConvSums);
};

template <class T>
struct SpectralKernels {
  int64_t (*chunks)(const Spectrum&);
  int64_t (*into_size)(const Spectrum&, const SpectrumSide&);
  int64_t (*back_size)(const Spectrum&, const SpectrumSide&);
  void (*pack_into)(const Spectrum&, const SpectrumSide&, bool weighted, T* to);
  void (*pack_back)(const Spectrum&, const SpectrumSide&, bool weighted, T* to);
  void (*pack_pairs)(const SpectralProblem<T>&, T* cosine, T* sine, T* cosine_rows, T* sine_rows);
  int64_t (*fold_size)(const ConvProblem<T>&);
  void (*fold)(const SpectralProblem<T>&, int64_t s, int64_t c, T* scratch, T* to);
  int64_t (*image_size)(int64_t planes, int parts);
  int64_t (*row_blocks)(const ConvProblem<T>&);
  int64_t (*transform_workspace)(const Spectrum&, const SpectrumSide&);
  // Spectra hold the chunks of a band; `chunk` is the distance of chunks.
  void (*into)(const SpectralProblem<T>&, bool pixel_side, bool left, const void* planes, int64_t begin, int64_t end,
               Band, T* workspace, int64_t chunk, T* to);
  void (*back)(const SpectralProblem<T>&, bool pixel_side, const T* from, int64_t chunk, int64_t begin,
               int64_t end, Band, T* workspace, void* planes, bool native);
  int64_t (*forward_workspace)(const SpectralProblem<T>&, int64_t images);
  void (*forward)(const SpectralProblem<T>&, int64_t images, const T* values, int64_t chunk, int64_t block,
                  const T* window, T* workspace, T* pixel);
  int64_t (*backward_workspace)(const SpectralProblem<T>&, int64_t images);
  void (*backward)(const SpectralProblem<T>&, ConvNeeds, int64_t s, int64_t images, const T* values, Band,
                   int64_t c_begin, int64_t c_end, T* window, const T* pixel, T* workspace, ConvSums sums);
};

template <class T>
struct SpectralAggregateKernels {
  void (*fold)(const SpectralProblem<T>&, int64_t s, T* to);
  int64_t (*forward_workspace)(const SpectralProblem<T>&);
  void (*forward)(const SpectralProblem<T>&, int64_t first_set, int64_t images, int64_t chunk, int64_t u,
                  const T* window, T* workspace, T* pixel);
  int64_t (*backward_workspace)(const SpectralProblem<T>&);
  void (*backward)(const SpectralProblem<T>&, ConvNeeds, int64_t s, int64_t begin, int64_t end, T* window,
                   int64_t chunk_distance, const T* pixel, int64_t pixel_distance, T* workspace, ConvSums sums);
};

template <class T>
struct ConvKernels {
  int64_t panel, width;  // lanes of a panel and of a vector
  AggregateKernels<T> aggregate[2];  // by storage
  DirectKernels<T> direct;
  SpectralKernels<T> spectral;
  SpectralAggregateKernels<T> spectral_aggregate;
};

}  // namespace pgconv
