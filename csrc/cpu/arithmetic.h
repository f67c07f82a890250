// Arithmetics of an order that chains products of panels: in what words operands lie and how they come about. A panel
// has up to two forms. `rows`, words of neighbouring pixels, are A of a product whose depth is the pixels, and what its
// B is transposed from; `depth`, words of neighbouring rows, is B of a product whose depth is the rows. Row r begins at
// word r * kRow of either.
#pragma once

#include "arena.h"
#include "planes_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class Word>
struct Panel {
  Word* rows;
  Word* depth;

  Panel at(int64_t word) const { return {rows ? rows + word : nullptr, depth ? depth + word : nullptr}; }
};

// Products of the kernels' own numbers. Both forms of a panel are one, and `multiply` makes it whole.
template <class T, class Store>
struct NumberArithmetic {
  using Number = T;
  using Word = T;
  using Storage = Store;    // of the tensors on both sides
  using Plane = T;          // numbers of the padded planes,
  using PlaneFrom = Store;  // made from this
  static constexpr int kRow = kRowWords<T, Word>;

  static int64_t padded(int64_t n) { return n; }

  static Panel<Word> take_panel(Arena<T>& arena, int64_t rows, bool, bool) {
    T* memory = arena.take(rows * kRow + kSlack<T>);
    return {memory, memory};
  }
  static Plane* take_planes(Arena<T>& arena, int64_t size) { return arena.take(size); }

  template <class F>
  static void pack(int64_t rows, int64_t depth, Word* to, F&& value) {
    pack_rows(rows, depth, to, value);
  }
  template <class F>
  static void pack_for_operand(int64_t rows, int64_t depth, Word* to, F&& value) {
    pack_rows(rows, depth, to, value);
  }
  static void gather_panel(const ConvGrid& g, const PanelLanes<T>& lanes, const Plane* planes, int64_t plane,
                           int64_t Nv, Panel<Word> to) {
    gather(g, lanes, planes, plane, Nv, to.rows);
  }
  static void load_rows(const typename Store::Type* planes, int64_t stride, int64_t rows, int count, Panel<Word> to) {
    load_panel<T, Store>(planes, stride, rows, count, to.rows);
  }
  static void store_rows(const T* from, int64_t rows, int count, typename Store::Type* planes, int64_t stride) {
    store_panel<T, Store>(from, rows, count, planes, stride);
  }
  // The panel A B, A packed for an operand.
  static void multiply(int64_t depth, const Word* a, const Word* b, Panel<Word> to, int64_t rows) {
    multiply_packed<T>({1, depth, a, 0, 0, b, 0, kPanel<T>, to.rows, kPanel<T>, false}, rows, kPanelVectors);
  }
};

#if defined(__AVX512BF16__)
// Products of bfloat16 numbers, which are exact, with sums in float32: only panels between two products are rounded,
// and features and head where they were not bfloat16 before. Where a depth is odd, a zero is added to it.
struct PairArithmetic {
  using Number = float;
  using Word = Pair;
  using Storage = Bfloat16;
  using Plane = uint16_t;
  using PlaneFrom = Stored<uint16_t>;
  static constexpr int kRow = kRowWords<float, Word>;
  static_assert(sizeof(Word) == sizeof(Number), "memory is counted in numbers");
  static_assert(kRow == kWidth<Word>, "a row is one vector");

  static int64_t padded(int64_t n) { return n + n % 2; }

  static Panel<Word> take_panel(Arena<float>& arena, int64_t rows, bool as_rows, bool as_depth) {
    auto take = [&] { return reinterpret_cast<Word*>(arena.take(padded(rows) * kRow + kSlack<float>)); };
    Panel<Word> panel{nullptr, nullptr};
    if (as_rows) panel.rows = take();
    if (as_depth) panel.depth = take();
    return panel;
  }
  static Plane* take_planes(Arena<float>& arena, int64_t size) {
    return reinterpret_cast<Plane*>(arena.take((size + 1) / 2));
  }

  template <class F>
  static void pack(int64_t rows, int64_t depth, Word* to, F&& value, int unit = 1) {
    auto pair = [&](int64_t row, int64_t k) {
      uint16_t low, high;
      Bfloat16::put(&low, value(row, 2 * k));
      Bfloat16::put(&high, 2 * k + 1 < depth ? value(row, 2 * k + 1) : 0.0f);
      return low | Word(high) << 16;
    };
    pack_rows(rows, padded(depth) / 2, to, pair, unit);
  }
  template <class F>
  static void pack_for_operand(int64_t rows, int64_t depth, Word* to, F&& value) {
    pack(rows, depth, to, value, 2);
  }
  static void gather_panel(const ConvGrid& g, const PanelLanes<float>& lanes, const Plane* planes, int64_t plane,
                           int64_t Nv, Panel<Word> to) {
    gather(g, lanes, planes, plane, Nv, reinterpret_cast<Plane*>(to.rows));
    pair_rows(to, Nv * g.taps);
  }
  static void load_rows(const uint16_t* planes, int64_t stride, int64_t rows, int count, Panel<Word> to) {
    load_panel<float, PlaneFrom>(planes, stride, rows, count, reinterpret_cast<Plane*>(to.rows));
    pair_rows(to, rows);
  }
  static void store_rows(const float* from, int64_t rows, int count, uint16_t* planes, int64_t stride) {
    if (count < kPanel<float>) return store_panel<float, Bfloat16>(from, rows, count, planes, stride);
    for (int64_t r = 0; r < rows; ++r, planes += stride, from += kPanel<float>)
      store<HalfVector>(planes, (HalfVector)rounded(load<FloatVector>(from), load<FloatVector>(from + kWidth<float>)));
  }
  // The depth form of a panel from its rows.
  static void pair_rows(Panel<Word> panel, int64_t rows) {
    if (rows % 2) store<PairVector>(panel.rows + rows * kRow, PairVector{});
    for (int64_t r = 0; r < rows; r += 2) {
      const Word* from = panel.rows + r * kRow;
      PairVector x = load<PairVector>(from), y = load<PairVector>(from + kRow);
      interleave(x, y, x, y);
      store<PairVector>(panel.depth + r * kRow, x);
      store<PairVector>(panel.depth + (r + 1) * kRow, y);
    }
  }
  static void multiply(int64_t depth, const Word* a, const Word* b, Panel<Word> to, int64_t rows) {
    multiply_packed_to_operand<float, Word>(
        {1, padded(depth) / 2, a, 0, 0, b, 0, kPanel<float>, nullptr, 0, false, to.rows, to.depth}, rows);
  }
};
#endif

// The arithmetic of a number type and storage.
template <class T, Storage storage>
struct ArithmeticOf {
  using Type = NumberArithmetic<T, Stored<T>>;
};
template <>
struct ArithmeticOf<float, kBfloat16> {
#if defined(__AVX512BF16__)
  using Type = PairArithmetic;
#else
  using Type = NumberArithmetic<float, Bfloat16>;
#endif
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
