// Neighbourhoods of the adjoint problem.
#pragma once

#include <vector>

#include "../common/point_params.h"
#include "host.h"

namespace pgconv {

// Every input's outputs, from every output's inputs. Runs of inputs that advance from output to output, as those of ragged
// batches do, are runs of outputs for an input; else the outputs are listed.
class TransposedLists {
 public:
  template <class T>
  TransposedLists(const PointProblem<T>& p, int64_t threads)
      : lists_(p.pairs),
        sets_(p.pairs.batch == 0 ? 1 : p.sets),
        Nu_(p.elements.Nu),
        Nv_(p.elements.Nv),
        rowptr_(sets_ * Nv_ + 1, 0) {
    if (advance())
      find_runs();
    else
      list(threads);
  }
  Neighborhoods lists() const {
    bool runs = index_.empty();
    return {rowptr_.data(), runs ? nullptr : index_.data(), runs ? first_.data() : nullptr, sets_ == 1 ? 0 : Nv_};
  }

 private:
  Range inputs(int64_t s, int64_t i) const {
    int64_t row = s * lists_.batch + i, begin = lists_.first[row];
    return {begin, begin + lists_.rowptr[row + 1] - lists_.rowptr[row]};
  }
  bool advance() const {
    if (!lists_.first) return false;
    for (int64_t s = 0; s < sets_; ++s)
      for (int64_t i = 1; i < Nu_; ++i) {
        Range before = inputs(s, i - 1), now = inputs(s, i);
        if (now.begin < before.begin || now.end < before.end) return false;
      }
    return true;
  }
  // Outputs from the first whose run ends behind the input to the last whose run begins before it.
  void find_runs() {
    first_.resize(sets_ * Nv_ + 1);  // never null
    for (int64_t s = 0; s < sets_; ++s) {
      int64_t from = 0, to = 0;
      for (int64_t j = 0; j < Nv_; ++j) {
        while (from < Nu_ && inputs(s, from).end <= j) ++from;
        while (to < Nu_ && inputs(s, to).begin <= j) ++to;
        int64_t row = s * Nv_ + j;
        first_[row] = from;
        rowptr_[row + 1] = rowptr_[row] + std::max<int64_t>(0, to - from);
      }
    }
  }
  void list(int64_t threads) {
    index_.resize(lists_.rowptr[sets_ * Nu_] + 1);  // never null
    // A part owns inputs and reads all lists, twice.
    int64_t parts = std::max<int64_t>(1, threads / sets_);
    auto for_each_pair = [&](int64_t part, auto&& f) {
      int64_t s = part / parts;
      Range own = part_of(Nv_, parts, part % parts);
      for (int64_t i = 0; i < Nu_; ++i) {
        const int64_t* row = lists_.rowptr + s * lists_.batch + i;
        for (int64_t k = row[0]; k < row[1]; ++k) {
          int64_t j = lists_.index ? lists_.index[k] : inputs(s, i).begin + k - row[0];
          if (j >= own.begin && j < own.end) f(s * Nv_ + j, i);
        }
      }
    };
    parallel_each(threads, sets_ * parts, [&](int64_t part) {
      for_each_pair(part, [&](int64_t row, int64_t) { ++rowptr_[row + 1]; });
    });
    for (int64_t k = 0; k < sets_ * Nv_; ++k) rowptr_[k + 1] += rowptr_[k];
    std::vector<int64_t> next(rowptr_.begin(), rowptr_.end() - 1);
    parallel_each(threads, sets_ * parts, [&](int64_t part) {
      for_each_pair(part, [&](int64_t row, int64_t i) { index_[next[row]++] = i; });
    });
  }

  Neighborhoods lists_;
  int64_t sets_, Nu_, Nv_;
  std::vector<int64_t> rowptr_, index_, first_;
};

}  // namespace pgconv
