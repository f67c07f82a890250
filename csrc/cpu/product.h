// The one matrix product that all layers and their gradients are made of.
#pragma once

#include "../common/numeric.h"

namespace pgconv {
namespace PGCONV_ISA {

// Accumulators of a full block: 16 of AVX-512's 32 registers, 8 of the 16 registers of the other levels; both are
// enough independent chains to hide the latency of multiply-add.
#if defined(__AVX512F__)
constexpr int kBlockRows = 8;
#else
constexpr int kBlockRows = 4;
#endif

// f(r, n, bias[n] + sum_k a[r ar + k ak] b[k ldb + n]) for R rows and N vectors of columns; bias may be null.
template <int R, int N, class V, class F>
PGCONV_INLINE void block(const Scalar<V>* a, int64_t ar, int64_t ak, const Scalar<V>* b, int64_t ldb,
                         const Scalar<V>* bias, int K, F&& f) {
  constexpr int W = Traits<V>::width;
  V sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sum[r][n] = bias ? load<V>(bias + n * W) : V{};
#pragma GCC unroll 2
  for (int k = 0; k < K; ++k) {
    V column[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) column[n] = load<V>(b + k * ldb + n * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      V x = broadcast<V>(a[r * ar + k * ak]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sum[r][n] += x * column[n];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) f(r, n, sum[r][n]);
}

template <int N, bool AnyRows, class V, class F>
PGCONV_INLINE void block_column(int M, const Scalar<V>* a, int64_t ar, int64_t ak, const Scalar<V>* b, int64_t ldb,
                                const Scalar<V>* bias, int K, F&& f) {
  int m = 0;
  auto shifted = [&](int r, int n, V x) __attribute__((always_inline)) { f(m + r, n, x); };
  for (; m + kBlockRows <= M; m += kBlockRows) block<kBlockRows, N, V>(a + m * ar, ar, ak, b, ldb, bias, K, shifted);
  if constexpr (AnyRows) {
    for (; m + 2 <= M; m += 2) block<2, N, V>(a + m * ar, ar, ak, b, ldb, bias, K, shifted);
    if (m < M) block<1, N, V>(a + m * ar, ar, ak, b, ldb, bias, K, shifted);
  }
}

// f(row, column, vector of sums) for an M x columns product; columns is a multiple of the vector width. Without
// AnyRows M is a multiple of kBlockRows, which keeps one copy of f's code instead of three.
template <class V, bool AnyRows, class F>
PGCONV_INLINE void product(int M, int columns, const Scalar<V>* a, int64_t ar, int64_t ak, const Scalar<V>* b,
                           int64_t ldb, const Scalar<V>* bias, int K, F&& f) {
  constexpr int W = Traits<V>::width;
  int c = 0;
  auto shifted = [&](int r, int n, V x) __attribute__((always_inline)) { f(r, c + n * W, x); };
  for (; c + 2 * W <= columns; c += 2 * W)
    block_column<2, AnyRows, V>(M, a, ar, ak, b + c, ldb, bias ? bias + c : nullptr, K, shifted);
  if (c < columns) block_column<1, AnyRows, V>(M, a, ar, ak, b + c, ldb, bias ? bias + c : nullptr, K, shifted);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
