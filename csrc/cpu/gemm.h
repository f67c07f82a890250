// The matrix product the convolutions are made of: C[rows][lanes] (+)= sum_k A(row, k) B[k][lanes], lanes in whole
// vectors. A is read one number at a time and broadcast, B and C are read in vectors, so no operand is reordered that
// lies in panels already. The depth has two levels (outer, inner), so that A and B may lie in pieces.
//
// Every call sums its depth from zero in registers and adds the result to C once: sums are at least two-level, which is
// what keeps long float32 sums within a few 1e-7.
#pragma once

#include "../common/numeric.h"

namespace pgconv {
namespace PGCONV_ISA {

// Panels: kPanelVectors vectors of lanes side by side, the width most products work in.
constexpr int kPanelVectors = 2;
template <class T>
constexpr int kWidth = Traits<Native<T>>::width;
template <class T>
constexpr int kPanel = kPanelVectors * kWidth<T>;

// Rows of a register block with N vectors of lanes. AVX-512 has 32 registers: 28 sums, N of B, the rest for A; the
// other levels have 16. A block of packed rows is used with 1 or 2 vectors and has the same height for both.
#if defined(__AVX512F__)
constexpr int kMaxRows[4] = {0, 14, 14, 9};
#else
constexpr int kMaxRows[4] = {0, 6, 6, 4};
#endif
constexpr int kPackedRows = kMaxRows[2];
constexpr int kMostRows = kMaxRows[1];

// Rows cut into blocks of nearly equal height, none higher than `most`: no small remainder that runs far below peak.
struct RowBlocks {
  int count, base, larger;
  RowBlocks(int64_t rows, int most) {
    int n = int(rows);
    count = (n + most - 1) / most;
    base = count ? n / count : 0;
    larger = count ? n % count : 0;
  }
  int height(int b) const { return base + (b < larger); }
  int64_t start(int b) const { return int64_t(b) * base + (b < larger ? b : larger); }
};

enum class Side { kColumns, kPanelRows };

// A: kColumns has consecutive rows next to each other, A(i, k) = a[i + k * a_inner]; kPanelRows has consecutive k next to
// each other and rows kPanel apart, A(i, k) = a[i * kPanel + k].
template <class T>
struct Product {
  int64_t outer, inner;
  const T* a;
  int64_t a_outer, a_inner;
  const T* b;
  int64_t b_outer, b_inner;
  T* c;
  int64_t c_row;
  bool add;
};

template <class T, int R, int N, Side side>
__attribute__((noinline)) void micro_kernel(const Product<T>& p) {
  using V = Native<T>;
  constexpr int W = kWidth<T>;
  V sum[R][N];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[i][n] = V{};
  for (int64_t o = 0; o < p.outer; ++o) {
    const T* a = p.a + o * p.a_outer;
    const T* b = p.b + o * p.b_outer;
    int64_t a_inner = side == Side::kColumns ? p.a_inner : 1, b_inner = p.b_inner;
    for (int64_t k = p.inner; k > 0; --k) {
      V lanes[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) lanes[n] = load<V>(b + n * W);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        V x = broadcast<V>(a[side == Side::kColumns ? i : i * kPanel<T>]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[i][n] += x * lanes[n];
      }
      a += a_inner;
      b += b_inner;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      T* c = p.c + i * p.c_row + n * W;
      store<V>(c, p.add ? load<V>(c) + sum[i][n] : sum[i][n]);
    }
}

template <class T>
using MicroKernel = void (*)(const Product<T>&);

template <class T, int N, Side side>
struct MicroKernels {
  template <int R>
  static constexpr MicroKernel<T> of() {
    if constexpr (R >= 1 && R <= kMaxRows[N])
      return micro_kernel<T, R, N, side>;
    else
      return nullptr;
  }
  static constexpr MicroKernel<T> by_rows[15] = {nullptr, of<1>(), of<2>(),  of<3>(),  of<4>(),
                                                 of<5>(), of<6>(), of<7>(),  of<8>(),  of<9>(),
                                                 of<10>(), of<11>(), of<12>(), of<13>(), of<14>()};
};

template <class T, Side side>
MicroKernel<T> micro_kernel_for(int rows, int vectors) {
  if (vectors == 2) return MicroKernels<T, 2, side>::by_rows[rows];
  if (vectors == 1) return MicroKernels<T, 1, side>::by_rows[rows];
  if constexpr (side == Side::kPanelRows) return MicroKernels<T, 3, side>::by_rows[rows];
  return nullptr;
}

// Calls f(first vector, vectors) for blocks of 2 vectors, with one block of `odd` (1 or 3) where the count is odd.
template <class F>
PGCONV_INLINE void for_vector_blocks(int vectors, bool three, F&& f) {
  int n = 0;
  if (three && vectors % 2 == 1 && vectors >= 3) {
    f(0, 3);
    n = 3;
  }
  for (; n + 2 <= vectors; n += 2) f(n, 2);
  if (n < vectors) f(n, 1);
}

// A packed in row blocks of at most kPackedRows: block b, which starts at row s and has r rows, lies at a + s * depth as
// [depth][r]. `p.a` is the start of the pack, `p.a_inner` and `p.a_outer` are not used.
template <class T>
void multiply_packed(Product<T> p, int64_t rows, int vectors) {
  RowBlocks blocks(rows, kPackedRows);
  int64_t depth = p.outer * p.inner;
  const T *a = p.a, *b = p.b;
  T* c = p.c;
  for_vector_blocks(vectors, false, [&](int n, int count) {
    p.b = b + n * kWidth<T>;
    for (int i = 0; i < blocks.count; ++i) {
      int height = blocks.height(i);
      p.a = a + blocks.start(i) * depth;
      p.a_inner = height;
      p.a_outer = p.inner * height;
      p.c = c + blocks.start(i) * p.c_row + n * kWidth<T>;
      micro_kernel_for<T, Side::kColumns>(height, count)(p);
    }
  });
}

// A with rows next to each other at any distance between consecutive k.
template <class T>
void multiply_columns(Product<T> p, int64_t rows, int vectors) {
  RowBlocks blocks(rows, kPackedRows);
  const T *a = p.a, *b = p.b;
  T* c = p.c;
  for_vector_blocks(vectors, false, [&](int n, int count) {
    p.b = b + n * kWidth<T>;
    for (int i = 0; i < blocks.count; ++i) {
      p.a = a + blocks.start(i);
      p.c = c + blocks.start(i) * p.c_row + n * kWidth<T>;
      micro_kernel_for<T, Side::kColumns>(blocks.height(i), count)(p);
    }
  });
}

// A in panel rows.
template <class T>
void multiply_panel_rows(Product<T> p, int64_t rows, int vectors) {
  const T *a = p.a, *b = p.b;
  T* c = p.c;
  for_vector_blocks(vectors, true, [&](int n, int count) {
    RowBlocks blocks(rows, kMaxRows[count]);
    p.b = b + n * kWidth<T>;
    for (int i = 0; i < blocks.count; ++i) {
      p.a = a + blocks.start(i) * kPanel<T>;
      p.c = c + blocks.start(i) * p.c_row + n * kWidth<T>;
      micro_kernel_for<T, Side::kPanelRows>(blocks.height(i), count)(p);
    }
  });
}

// Packs A(row, k) = value(row, k) for multiply_packed.
template <class T, class F>
void pack_rows(int64_t rows, int64_t depth, T* to, F&& value) {
  RowBlocks blocks(rows, kPackedRows);
  for (int b = 0; b < blocks.count; ++b) {
    int64_t start = blocks.start(b);
    int height = blocks.height(b);
    T* block = to + start * depth;
    for (int64_t k = 0; k < depth; ++k)
      for (int i = 0; i < height; ++i) block[k * height + i] = value(start + i, k);
  }
}

// Transposes a W x W tile, W the vector width: to[c * to_row + r] = from[r * from_row + c]. In step s, bit s of the row
// index and bit s of the lane index change places.
template <class T>
PGCONV_INLINE void transpose_tile(const T* from, int64_t from_row, T* to, int64_t to_row) {
  using V = Native<T>;
  constexpr int W = kWidth<T>;
  V rows[W];
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r) rows[r] = load<V>(from + r * from_row);
#pragma GCC unroll 4
  for (int s = 1; s < W; s *= 2) {
    LaneIndex<V> low, high;
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) {
      low[l] = l & s ? W + l - s : l;
      high[l] = l & s ? W + l : l + s;
    }
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      if (r & s) continue;
      V a = rows[r], b = rows[r + s];
      rows[r] = __builtin_shuffle(a, b, low);
      rows[r + s] = __builtin_shuffle(a, b, high);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r) store<V>(to + r * to_row, rows[r]);
}

// Transposes rows x columns, both multiples of the vector width.
template <class T>
void transpose(const T* from, int64_t from_row, T* to, int64_t to_row, int64_t rows, int64_t columns) {
  constexpr int W = kWidth<T>;
  for (int64_t r = 0; r < rows; r += W)
    for (int64_t c = 0; c < columns; c += W)
      transpose_tile<T>(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
}

template <class T>
constexpr int64_t round_up(int64_t n) {
  return (n + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
