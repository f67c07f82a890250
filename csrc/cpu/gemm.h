// The matrix product the convolutions are made of: C[rows][lanes] (+)= sum_k A(row, k) B[k][lanes], lanes in whole
// vectors. A is read one number at a time and broadcast, B and C are read in vectors, so no operand is reordered that
// lies in panels already. The depth has two levels (outer, inner), so that A and B may lie in pieces.
//
// Every call sums its depth from zero in registers and adds the result to C once: sums are at least two-level, which is
// what keeps long float32 sums within a few 1e-7.
//
// A and B consist of words: numbers of C's type T, or pairs of bfloat16 numbers (bfloat16.h). The depth counts words.
#pragma once

#include "bfloat16.h"

namespace pgconv {
namespace PGCONV_ISA {

// Panels: kPanelVectors vectors of lanes side by side, the width most products work in.
constexpr int kPanelVectors = 2;
template <class T>
constexpr int kWidth = Traits<Native<T>>::width;
template <class T>
constexpr int kPanel = kPanelVectors * kWidth<T>;
// Words in a row of a panel whose pixels are the depth.
template <class T, class Word = T>
constexpr int kRowWords = kPanel<T> / kPerWord<Word>;

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
// Heights are multiples of `unit`, and so must be the rows.
struct RowBlocks {
  int count, base, larger, unit;
  RowBlocks(int64_t rows, int most, int unit = 1) : unit(unit) {
    int n = int(rows / unit), most_units = most / unit;
    count = (n + most_units - 1) / most_units;
    base = count ? n / count : 0;
    larger = count ? n % count : 0;
  }
  int height(int b) const { return (base + (b < larger)) * unit; }
  int64_t start(int b) const { return (int64_t(b) * base + (b < larger ? b : larger)) * unit; }
};

enum class Side { kColumns, kPanelRows };

// A: kColumns has consecutive rows next to each other, A(i, k) = a[i + k * a_inner]; kPanelRows has consecutive k next
// to each other and the distance of rows in a panel, A(i, k) = a[i * kRowWords + k].
template <class T, class Word = T>
struct Product {
  int64_t outer, inner;
  const Word* a;
  int64_t a_outer, a_inner;
  const Word* b;
  int64_t b_outer, b_inner;
  T* c;
  int64_t c_row;
  bool add;
  // Where the result is an operand, in place of C: its rows as they are, and words of two rows. Each may be null.
  Word* rows = nullptr;
  Word* depth = nullptr;
};

// What becomes of the sums: they go to C, or are rounded to be an operand of the next product.
enum class Result { kSums, kOperand };

template <class T, class Word, int R, int N, Side side, Result result>
__attribute__((noinline)) void micro_kernel(const Product<T, Word>& p) {
  using V = Native<T>;
  constexpr int W = kWidth<T>;
  V sum[R][N];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[i][n] = V{};
  for (int64_t o = 0; o < p.outer; ++o) {
    const Word* a = p.a + o * p.a_outer;
    const Word* b = p.b + o * p.b_outer;
    int64_t a_inner = side == Side::kColumns ? p.a_inner : 1, b_inner = p.b_inner;
    for (int64_t k = p.inner; k > 0; --k) {
      Native<Word> lanes[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) lanes[n] = load<Native<Word>>(b + n * W);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        Native<Word> x = broadcast<Native<Word>>(a[side == Side::kColumns ? i : i * kRowWords<T, Word>]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[i][n] = multiply_add(sum[i][n], x, lanes[n]);
      }
      a += a_inner;
      b += b_inner;
    }
  }
  if constexpr (result == Result::kOperand) {
    static_assert(R % 2 == 0 && N * W == kPanel<T>);
    Word *rows = p.rows, *depth = p.depth;
#pragma GCC unroll 8
    for (int i = 0; i < R; i += 2) {
      Native<Word> x = rounded(sum[i][0], sum[i][1]), y = rounded(sum[i + 1][0], sum[i + 1][1]);
      if (rows) {
        store<Native<Word>>(rows + i * kRowWords<T, Word>, x);
        store<Native<Word>>(rows + (i + 1) * kRowWords<T, Word>, y);
      }
      if (depth) {
        interleave(x, y, x, y);
        store<Native<Word>>(depth + i * kRowWords<T, Word>, x);
        store<Native<Word>>(depth + (i + 1) * kRowWords<T, Word>, y);
      }
    }
  } else {
    // Locals: for all the compiler knows, the stores change what is in p.
    T* c = p.c;
    int64_t c_row = p.c_row;
    bool add = p.add;
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i, c += c_row)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) store<V>(c + n * W, add ? load<V>(c + n * W) + sum[i][n] : sum[i][n]);
  }
}

template <class T, class Word>
using MicroKernel = void (*)(const Product<T, Word>&);

template <class T, class Word, int N, Side side, Result result>
struct MicroKernels {
  template <int R>
  static constexpr MicroKernel<T, Word> of() {
    constexpr bool whole = result == Result::kSums || (R % kPerWord<Word> == 0 && N == kPanelVectors);
    if constexpr (R >= 1 && R <= kMaxRows[N] && whole)
      return micro_kernel<T, Word, R, N, side, result>;
    else
      return nullptr;
  }
  static constexpr MicroKernel<T, Word> by_rows[15] = {nullptr, of<1>(), of<2>(),  of<3>(),  of<4>(),
                                                       of<5>(), of<6>(), of<7>(),  of<8>(),  of<9>(),
                                                       of<10>(), of<11>(), of<12>(), of<13>(), of<14>()};
};

template <class T, class Word, Side side, Result result = Result::kSums>
MicroKernel<T, Word> micro_kernel_for(int rows, int vectors) {
  if (vectors == 2) return MicroKernels<T, Word, 2, side, result>::by_rows[rows];
  if constexpr (result == Result::kSums) {
    if (vectors == 1) return MicroKernels<T, Word, 1, side, result>::by_rows[rows];
    if constexpr (side == Side::kPanelRows) return MicroKernels<T, Word, 3, side, result>::by_rows[rows];
  }
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

// Part of a packed A: the blocks that hold rows [row_begin, row_end), and of the `inner` of each depth the p.inner from
// inner_begin.
struct PackedPart {
  int64_t row_begin, row_end, inner, inner_begin;
};

// A packed in row blocks of at most kPackedRows: block b, which starts at row s and has r rows, lies at a + s * depth as
// [depth][r]. `p.a` is the start of the pack, `p.a_inner` and `p.a_outer` are not used.
template <class T, class Word = T>
void multiply_packed(Product<T, Word> p, int64_t rows, int vectors, PackedPart part) {
  RowBlocks blocks(rows, kPackedRows);
  int64_t depth = p.outer * part.inner;
  const Word *a = p.a, *b = p.b;
  T* c = p.c;
  for_vector_blocks(vectors, false, [&](int n, int count) {
    p.b = b + n * kWidth<T>;
    for (int i = 0; i < blocks.count; ++i) {
      int height = blocks.height(i);
      if (blocks.start(i) + height <= part.row_begin || blocks.start(i) >= part.row_end) continue;
      p.a = a + blocks.start(i) * depth + part.inner_begin * height;
      p.a_inner = height;
      p.a_outer = part.inner * height;
      p.c = c + blocks.start(i) * p.c_row + n * kWidth<T>;
      micro_kernel_for<T, Word, Side::kColumns>(height, count)(p);
    }
  });
}

template <class T, class Word = T>
void multiply_packed(const Product<T, Word>& p, int64_t rows, int vectors) {
  multiply_packed<T, Word>(p, rows, vectors, {0, rows, p.inner, 0});
}

// The same for a panel that is an operand of the next product; A is packed in blocks of whole words.
template <class T, class Word>
void multiply_packed_to_operand(Product<T, Word> p, int64_t rows) {
  RowBlocks blocks(rows, kPackedRows, kPerWord<Word>);
  int64_t depth = p.outer * p.inner;
  const Word* a = p.a;
  Word *to_rows = p.rows, *to_depth = p.depth;
  for (int i = 0; i < blocks.count; ++i) {
    int height = blocks.height(i);
    int64_t at = blocks.start(i) * kRowWords<T, Word>;
    p.a = a + blocks.start(i) * depth;
    p.a_inner = height;
    p.a_outer = p.inner * height;
    p.rows = to_rows ? to_rows + at : nullptr;
    p.depth = to_depth ? to_depth + at : nullptr;
    micro_kernel_for<T, Word, Side::kColumns, Result::kOperand>(height, kPanelVectors)(p);
  }
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
      micro_kernel_for<T, T, Side::kColumns>(blocks.height(i), count)(p);
    }
  });
}

// A in panel rows.
template <class T, class Word = T>
void multiply_panel_rows(Product<T, Word> p, int64_t rows, int vectors) {
  const Word *a = p.a, *b = p.b;
  T* c = p.c;
  for_vector_blocks(vectors, true, [&](int n, int count) {
    RowBlocks blocks(rows, kMaxRows[count]);
    p.b = b + n * kWidth<T>;
    for (int i = 0; i < blocks.count; ++i) {
      p.a = a + blocks.start(i) * kRowWords<T, Word>;
      p.c = c + blocks.start(i) * p.c_row + n * kWidth<T>;
      micro_kernel_for<T, Word, Side::kPanelRows>(blocks.height(i), count)(p);
    }
  });
}

// Packs A(row, k) = value(row, k) for multiply_packed, in blocks of heights that are multiples of `unit`.
template <class Word, class F>
void pack_rows(int64_t rows, int64_t depth, Word* to, F&& value, int unit = 1) {
  RowBlocks blocks(rows, kPackedRows, unit);
  for (int b = 0; b < blocks.count; ++b) {
    int64_t start = blocks.start(b);
    int height = blocks.height(b);
    Word* block = to + start * depth;
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
