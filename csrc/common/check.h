// One way to check arguments of raw kernels and one format of messages. The public functions check first and say more;
// these checks keep a wrong direct call from reading out of bounds.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace pgconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Not by streams: where libraries of other compilers are loaded, too, numbers in streams may look for a locale that is not theirs.
inline void append(std::string& text, const std::string& part) { text += part; }
inline void append(std::string& text, const char* part) { text += part; }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
void append(std::string& text, T number) {
  text += std::to_string(number);
}

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  std::string text;
  (append(text, args), ...);
  throw std::runtime_error(text);
}

inline std::string shape_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t k = 0; k < dims.size(); ++k) {
    if (k) text += ", ";
    text += dims[k] < 0 ? std::string("any") : std::to_string(dims[k]);
  }
  return text + "]";
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
