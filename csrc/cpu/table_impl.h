// The kernel table of one level: included once by each isa_*.cpp, after it has defined PGCONV_ISA.
#pragma once

#include "aggregate_impl.h"
#include "direct_impl.h"
#include "features_impl.h"
#include "isa.h"
#include "point_values_impl.h"
#include "spectral_aggregate_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
struct Entries {
  static int64_t packed_size(const NetShape& shape) { return NetLayout<T>::of(shape).packed_size(); }
  static int64_t totals_size(const NetShape& shape) { return NetLayout<T>::of(shape).totals_size(); }
  static int64_t workspace_size(const NetShape& shape) { return NetLayout<T>::of(shape).workspace_size(); }

  static void prepare(int group, int orbit, const T* elements, int64_t n, T* fields) {
    group_kernels<T>(group).prepare(orbit, elements, n, fields);
  }
  static void prepare_backward(int group, int orbit, const T* elements, const double* grad_fields, int64_t n,
                               T* grad_elements) {
    group_kernels<T>(group).prepare_backward(orbit, elements, grad_fields, n, grad_elements);
  }

  template <int A>
  static void activate(int64_t n, const T* x, T* y, T* dy) {
    using V = Native<T>;
    constexpr int W = Traits<V>::width;
    for (int64_t k = 0; k < n; k += W) {
      T in[W] = {}, out[W], slope[W];
      int count = int(n - k < W ? n - k : W);
      for (int c = 0; c < count; ++c) in[c] = x[k + c];
      V value, both, derivative;
      value = Act<A>::value(load<V>(in));
      Act<A>::both(load<V>(in), both, derivative);
      // A difference between the two ways to compute the value shows as NaN.
      store<V>(out, select(value == both, value, broadcast<V>(T(__builtin_nan("")))));
      store<V>(slope, derivative);
      for (int c = 0; c < count; ++c) {
        y[k + c] = out[c];
        dy[k + c] = slope[c];
      }
    }
  }
  static void activation(int a, int64_t n, const T* x, T* y, T* dy) {
    constexpr decltype(&activate<0>) table[kNumActivations] = {activate<kSin>, activate<kSilu>, activate<kRelu>,
                                                               activate<kGelu>, activate<kTanh>};
    table[a](n, x, y, dy);
  }

  static int coord_dim(int group, int chart, int part);

  // Copies rows of [rows, n] arrays into and out of [rows, kTile] tiles.
  static void copy_tile(const T* from, int64_t from_row, T* to, int64_t to_row, int rows) {
    for (int c = 0; c < rows; ++c) __builtin_memcpy(to + c * to_row, from + c * from_row, sizeof(T) * kTile);
  }
  static void coordinates(int group, int chart, int part, int64_t n, const T* a, const T* b, T* x) {
    auto g = group_kernels<T>(group);
    int D = coord_dim(group, chart, part);
    T ta[kMaxFields * kTile], tb[kMaxFields * kTile], tx[kMaxCoords * kTile];
    for (int64_t k = 0; k < n; k += kTile) {
      copy_tile(a + k, n, ta, kTile, g.fields);
      copy_tile(b + k, n, tb, kTile, g.element);
      g.coordinates(chart, part, D, ta, tb, tx);
      copy_tile(tx, kTile, x + k, n, D);
    }
  }
  static void coordinates_backward(int group, int chart, int part, int64_t n, const T* a, const T* b, const T* grad,
                                   T* ga, T* gb) {
    auto g = group_kernels<T>(group);
    int D = coord_dim(group, chart, part);
    T ta[kMaxFields * kTile], tb[kMaxFields * kTile], tx[kMaxCoords * kTile];
    T tga[kMaxFields * kTile], tgb[kMaxFields * kTile];
    for (int64_t k = 0; k < n; k += kTile) {
      copy_tile(a + k, n, ta, kTile, g.fields);
      copy_tile(b + k, n, tb, kTile, g.element);
      copy_tile(grad + k, n, tx, kTile, D);
      g.coordinates_backward(chart, part, D, ta, tb, tx, tga, tgb);
      copy_tile(tga, kTile, ga + k, n, g.fields);
      copy_tile(tgb, kTile, gb + k, n, g.element);
    }
  }

  // Independent sums hide the latency of two pipes, and leave two registers of 16; the barrier keeps the compiler from
  // seeing through the loop.
  static int64_t fma_loop(int64_t rounds) {
    using V = Native<T>;
    constexpr int sums = 12;
    V sum[sums], x = broadcast<V>(T(0.999)), y = broadcast<V>(T(1e-3));
#pragma GCC unroll 16
    for (int i = 0; i < sums; ++i) sum[i] = V{};
    for (int64_t k = 0; k < rounds; ++k) {
#pragma GCC unroll 16
      for (int i = 0; i < sums; ++i) {
        sum[i] = sum[i] * x + y;
        asm volatile("" : "+x"(sum[i]));
      }
    }
    return rounds * sums * 2 * Traits<V>::width;
  }

  static constexpr ConvKernels<T> conv = {
      kPanel<T>,
      kWidth<T>,
      {Aggregate<typename ArithmeticOf<T, kNative>::Type>::kernels,
       Aggregate<typename ArithmeticOf<T, kBfloat16>::Type>::kernels},
      {Direct<T>::values_size, Direct<T>::sums_size, Direct<T>::pack_features, Direct<T>::pack_head,
       Direct<T>::build_size, Direct<T>::build_values, Direct<T>::build_adjoint, Direct<T>::forward_workspace,
       Direct<T>::forward, Direct<T>::backward_workspace, Direct<T>::backward, Direct<T>::contract_workspace,
       Direct<T>::contract},
      {Transforms<T>::chunks, Transforms<T>::into_size, Transforms<T>::back_size, Transforms<T>::pack_into,
       Transforms<T>::pack_back, Spectral<T>::pack_pairs, Spectral<T>::fold_size, Spectral<T>::fold,
       Transforms<T>::image_size, Spectral<T>::row_blocks, Transforms<T>::workspace, Spectral<T>::into, Spectral<T>::back,
       Spectral<T>::forward_workspace, Spectral<T>::forward, Spectral<T>::backward_workspace, Spectral<T>::backward},
      {SpectralAggregate<T>::fold, SpectralAggregate<T>::forward_workspace, SpectralAggregate<T>::forward,
       SpectralAggregate<T>::backward_workspace, SpectralAggregate<T>::backward}};

  static constexpr Kernels<T> kernels = {packed_size, totals_size, workspace_size,
                                         Net<T>::pack, Net<T>::unpack_totals, Net<T>::forward, Net<T>::backward,
                                         prepare, prepare_backward,
                                         PairFeatures<T>::forward, PairFeatures<T>::backward,
                                         conv, PointConv<T>::kernels, PointValues<T>::kernels, fma_loop,
                                         activation, coordinates, coordinates_backward};
};

static int64_t bfloat16_loop(int64_t rounds) {
#if defined(__AVX512BF16__)
  __m512 sum[16];
  __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f7f), y = (__m512bh)_mm512_set1_epi16(0x3a83);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < rounds; ++k) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sum[i] = _mm512_dpbf16_ps(sum[i], x, y);
      asm volatile("" : "+v"(sum[i]));
    }
  }
  return rounds * 16 * 64;
#else
  return Entries<float>::fma_loop(rounds);
#endif
}

constexpr KernelTable make_table() {
  KernelTable t{PGCONV_ISA_NAME, {}, Entries<float>::kernels, Entries<double>::kernels, bfloat16_loop};
  group_infos(t.groups);
  return t;
}
extern const KernelTable table;
const KernelTable table = make_table();

template <class T>
int Entries<T>::coord_dim(int group, int chart, int part) {
  const GroupInfo& info = table.groups[group];
  int translation = part == kStabilizer ? 0 : info.translation;
  return translation + (part == kTranslation ? 0 : info.stabilizer_coords[chart]);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
