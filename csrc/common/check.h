// One way to check arguments of raw kernels and one format of messages. The public functions check first and say more;
// these checks keep a wrong direct call from reading out of bounds.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <sstream>
#include <string>
#include <vector>

namespace pgconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  std::ostringstream text;
  (text << ... << args);
  throw std::runtime_error(text.str());
}

inline std::string shape_text(const std::vector<int64_t>& dims) {
  std::ostringstream text;
  text << "[";
  for (size_t k = 0; k < dims.size(); ++k) {
    if (k) text << ", ";
    if (dims[k] < 0)
      text << "any";
    else
      text << dims[k];
  }
  text << "]";
  return text.str();
}

// dims: the expected sizes, -1 for any.
inline void check_tensor(const char* op, const char* name, const Tensor& t, const std::vector<int64_t>& dims,
                         ScalarType dtype) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  bool match = sizes.size() == dims.size();
  for (size_t k = 0; match && k < dims.size(); ++k) match = dims[k] < 0 || sizes[k] == dims[k];
  if (!match) fail(op, ": ", name, ": expected shape ", shape_text(dims), ", got ", shape_text(sizes));
  if (t.scalar_type() != dtype) fail(op, ": ", name, ": expected the same dtype as the other tensors");
  if (!t.is_contiguous()) fail(op, ": ", name, ": expected a contiguous tensor");
}

}  // namespace pgconv
