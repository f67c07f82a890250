// What the host code of all ops shares: tensors' memory, threads, and splitting of work.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>

#include "../common/check.h"
#include "memory.h"

namespace pgconv {

template <class T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data_of(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype);

// Fails if a product of sizes, those that are 0 left out, is more than any memory holds. A tensor without numbers may have
// sides of any size, whose products with others would overflow.
void check_product(const char* op, std::initializer_list<int64_t> sizes);

int64_t thread_count();

// Calls f(begin, end) for consecutive runs of [0, count), one for each thread; on this thread alone if it is the only one.
template <class F>
void parallel_runs(int64_t threads, int64_t count, const F& f) {
  if (count == 0) return;
  if (threads == 1)
    f(0, count);
  else
    torch::stable::parallel_for(0, count, 1, f);
}
// Calls f(i) for i in [0, count), likewise.
template <class F>
void parallel_each(int64_t threads, int64_t count, const F& f) {
  parallel_runs(threads, count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// Part i of `parts` nearly equal ones of [0, size), in units.
struct Range {
  int64_t begin, end;
};
inline Range part_of(int64_t size, int64_t parts, int64_t i, int64_t unit = 1) {
  int64_t units = (size + unit - 1) / unit;
  return {std::min(units * i / parts * unit, size), std::min(units * (i + 1) / parts * unit, size)};
}

// Splits [0, rows) x [0, columns) into a grid of parts, at most one for each thread.
struct GridSplit {
  int64_t rows, columns;  // parts of each

  GridSplit(int64_t threads, int64_t A, int64_t B, bool prefer_columns) {
    auto waste = [&](int64_t a, int64_t b) {
      return double((A + a - 1) / a * a) / double(A) * double((B + b - 1) / b * b) / double(B);
    };
    rows = columns = 1;
    double best = 1e30;
    for (int64_t b = 1; b <= std::min(threads, B); ++b) {
      int64_t a = std::min(threads / b, A);
      // Idle threads count like wasted work; ties go to the preferred side.
      double cost = waste(a, b) * double(threads) / double(a * b) * (1 + (prefer_columns ? 1e-3 / b : 1e-3 * b));
      if (cost < best) {
        best = cost;
        rows = a;
        columns = b;
      }
    }
  }
  int64_t parts() const { return rows * columns; }
  Range row_range(int64_t A, int64_t part) const { return part_of(A, rows, part / columns); }
  Range column_range(int64_t B, int64_t part) const { return part_of(B, columns, part % columns); }
};

}  // namespace pgconv
