// What the test-only modules share: names in the order of the enumerations of params.h, and arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace pgconv {

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

inline const std::vector<std::string> kActivations{"sin", "silu", "relu", "gelu", "tanh"};
inline const std::vector<std::string> kCharts{"product", "embed", "lie", "release"};
inline const std::vector<std::string> kParts{"all", "translation", "stabilizer"};

inline int index_of(const std::string& name, const std::vector<std::string>& names) {
  for (size_t k = 0; k < names.size(); ++k)
    if (name == names[k]) return int(k);
  throw std::invalid_argument("unknown name " + name);
}

}  // namespace pgconv
