// What the host code of kernel nets shares with other ops: packed parameters, memory, fixed chunks.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <new>

#include "../common/parse.h"
#include "isa.h"

namespace pgconv {

// Uninitialised memory on a cache-line boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(::operator new(sizeof(T) * std::max<int64_t>(size, 1), std::align_val_t(64)))) {}
  T* get() const { return data_.get(); }

 private:
  struct Delete {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Delete> data_;
};

template <class T>
Buffer<T> pack_params(const KernelTable& table, const NetShape& shape, const Tensor& params) {
  const auto& k = kernels_of<T>(table);
  Buffer<T> packed(k.packed_size(shape));
  k.pack(shape, static_cast<const T*>(params.const_data_ptr()), packed.get());
  return packed;
}

// Calls f(begin, end) on several threads for ranges of pairs; the boundaries are multiples of kTile.
template <class F>
void for_pairs(int64_t pairs, const F& f) {
  constexpr int64_t grain = 16;  // tiles, about 50 microseconds of work
  torch::stable::parallel_for(0, (pairs + kTile - 1) / kTile, grain, [&](int64_t begin, int64_t end) {
    f(begin * kTile, std::min(end * kTile, pairs));
  });
}

// The same for sums that must not depend on the number of threads: the pairs are cut into chunks, each calls
// f(begin, end, sums) with `size` zeroed doubles of its own, and the chunks' sums are added up in order.
template <class F>
Buffer<double> sum_over_pairs(int64_t pairs, int64_t size, const F& f) {
  constexpr int64_t most_chunks = 64, least_pairs = 4096, most_doubles = 1 << 23;
  int64_t chunks = std::min({most_chunks, (pairs + least_pairs - 1) / least_pairs,
                             std::max<int64_t>(8, most_doubles / std::max<int64_t>(size, 1))});
  chunks = std::max<int64_t>(chunks, 1);
  int64_t tiles = (pairs + kTile - 1) / kTile;
  Buffer<double> sums(chunks * size);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      double* own = sums.get() + c * size;
      std::fill(own, own + size, 0.0);
      f(std::min(tiles * c / chunks * kTile, pairs), std::min(tiles * (c + 1) / chunks * kTile, pairs), own);
    }
  });
  for (int64_t c = 1; c < chunks; ++c)
    for (int64_t k = 0; k < size; ++k) sums.get()[k] += sums.get()[c * size + k];
  return sums;
}

// Calls f with a zero of the tensor's C++ type.
template <class F>
auto dispatch_float(const char* op, const Tensor& t, F&& f) {
  if (!t.is_cpu()) fail(op, ": expected CPU tensors");
  if (t.scalar_type() == ScalarType::Float) return f(float{});
  if (t.scalar_type() == ScalarType::Double) return f(double{});
  fail(op, ": expected float32 or float64 tensors");
}

}  // namespace pgconv
