// What the operators on CUDA tensors share.
#pragma once

#include "../common/parse.h"
#include "elements.h"
#include "torch_machine.h"

namespace pgconv {

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  if (!t.is_cuda() || t.get_device_index() != like.get_device_index())
    fail(op, ": ", name, ": expected a tensor on the device of the others");
}

// Kernels read 16 bytes at once.
inline void check_aligned(const char* op, const char* name, const Tensor& t) {
  if (reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16) fail(op, ": ", name, ": expected memory on a 16-byte boundary");
}

// Empty for no reason.
inline std::string reason_text(const char* reason) { return reason ? reason : ""; }

inline FeaturesCall make_call(const char* op, const Tensor& v, const Tensor& u, const Tensor& params, const std::string& group,
                       const std::string& chart, const std::string& part, const std::string& form,
                       const std::string& net) {
  GroupInfo groups[kGroupCount];
  PGCONV_ISA::group_table(groups);
  check_device(op, "u", u, v);
  check_device(op, "params", params, v);
  return parse_features(op, groups, v, u, params, group, chart, part, form, net);
}

}  // namespace pgconv
