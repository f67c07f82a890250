// Small matrix products in every lane at once: C[i][j] (+)= sum_k A[i][k] B[k][j] where each entry is a whole vector and
// lanes do not mix. In the frequency domain lanes are frequencies. Complex products take three real ones (Gauss):
//   (a + ib)(c + id) = (p1 - p3) + i (p1 + p2),  p1 = (a + b) c,  p2 = a (d - c),  p3 = b (c + d).
#pragma once

#include "gemm.h"

namespace pgconv {
namespace PGCONV_ISA {

// Register block: rows x columns sums, one vector of each row and column at a time.
#if defined(__AVX512F__)
constexpr int kLaneRows = 6;
#else
constexpr int kLaneRows = 3;
#endif
constexpr int kLaneColumns = 4;

// All distances in numbers. The depth has two levels, like that of Product.
template <class T>
struct LaneProduct {
  int64_t outer, inner;
  const T* a;
  int64_t a_row, a_outer, a_inner;
  const T* b;
  int64_t b_column, b_outer, b_inner;
  T* c;
  int64_t c_row, c_column;
  bool add;
};

template <class T, int R, int N>
__attribute__((noinline)) void lane_kernel(const LaneProduct<T>& p) {
  using V = Native<T>;
  V sum[R][N];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) sum[i][j] = V{};
  for (int64_t o = 0; o < p.outer; ++o) {
    const T* a = p.a + o * p.a_outer;
    const T* b = p.b + o * p.b_outer;
    for (int64_t k = p.inner; k > 0; --k, a += p.a_inner, b += p.b_inner) {
      V column[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) column[j] = load<V>(b + j * p.b_column);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        V x = load<V>(a + i * p.a_row);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) sum[i][j] += x * column[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      T* c = p.c + i * p.c_row + j * p.c_column;
      store<V>(c, p.add ? load<V>(c) + sum[i][j] : sum[i][j]);
    }
}

template <class T>
struct LaneKernels {
  using Kernel = void (*)(const LaneProduct<T>&);
  template <int R, int N>
  static constexpr Kernel of() {
    if constexpr (R <= kLaneRows)
      return lane_kernel<T, R, N>;
    else
      return nullptr;
  }
  static constexpr Kernel table[7][5] = {
      {},
      {nullptr, of<1, 1>(), of<1, 2>(), of<1, 3>(), of<1, 4>()},
      {nullptr, of<2, 1>(), of<2, 2>(), of<2, 3>(), of<2, 4>()},
      {nullptr, of<3, 1>(), of<3, 2>(), of<3, 3>(), of<3, 4>()},
      {nullptr, of<4, 1>(), of<4, 2>(), of<4, 3>(), of<4, 4>()},
      {nullptr, of<5, 1>(), of<5, 2>(), of<5, 3>(), of<5, 4>()},
      {nullptr, of<6, 1>(), of<6, 2>(), of<6, 3>(), of<6, 4>()},
  };
};

template <class T>
void multiply_lanes(const LaneProduct<T>& product, int64_t rows, int64_t columns) {
  RowBlocks r(rows, kLaneRows), n(columns, kLaneColumns);
  LaneProduct<T> p = product;
  for (int i = 0; i < r.count; ++i) {
    p.a = product.a + r.start(i) * p.a_row;
    for (int j = 0; j < n.count; ++j) {
      p.b = product.b + n.start(j) * p.b_column;
      p.c = product.c + r.start(i) * p.c_row + n.start(j) * p.c_column;
      LaneKernels<T>::table[r.height(i)][n.height(j)](p);
    }
  }
}

// A complex array is three real ones: the real parts, the seconds, and the sums of both parts. The second is the imaginary
// part in a left factor and the difference (imaginary - real) in a right factor. Distances between the three.
enum LanePart { kReal, kSecond, kSum, kLaneParts };
struct PartDistances {
  int64_t a, b, c;
};

// p1, p2, p3 of every entry of C, in its three arrays. `conjugate` takes the complex conjugate of B.
template <class T>
void multiply_complex_lanes(const LaneProduct<T>& product, PartDistances distance, int64_t rows, int64_t columns,
                            bool conjugate) {
  const int left[3] = {kSum, kReal, kSecond};
  const int right[3] = {kReal, conjugate ? kSum : kSecond, conjugate ? kSecond : kSum};
  LaneProduct<T> p = product;
  for (int part = 0; part < 3; ++part) {
    p.a = product.a + left[part] * distance.a;
    p.b = product.b + right[part] * distance.b;
    p.c = product.c + part * distance.c;
    multiply_lanes(p, rows, columns);
  }
}

// Real and imaginary part from p1, p2, p3 of a product with B or with its conjugate.
template <class T>
PGCONV_INLINE void complex_of(const T* products, int64_t distance, bool conjugate, Native<T>& real,
                              Native<T>& imaginary) {
  using V = Native<T>;
  V p1 = load<V>(products), p2 = load<V>(products + distance), p3 = load<V>(products + 2 * distance);
  real = conjugate ? p1 + p3 : p1 - p3;
  imaginary = conjugate ? p1 - p2 : p1 + p2;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
