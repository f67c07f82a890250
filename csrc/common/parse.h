// Text arguments of the raw operators, and calls made of them. Shared by the libraries of all devices.
#pragma once

#include "check.h"
#include "params.h"

namespace pgconv {

int parse_name(const char* op, const char* argument, const std::string& text, const std::vector<const char*>& names);
// "activation:coord_dim:hidden:layers"
NetShape parse_net(const char* op, const std::string& text);
int64_t num_params(const NetShape& shape);
// "SO(2)/1": elements of SO(2) followed by one orbit coordinate.
struct GroupName {
  int group, orbit;
};
GroupName parse_group(const char* op, const GroupInfo (&groups)[kGroupCount], const std::string& text);

// Names and tensors v [Sv, Nv, e], u [Su, Nu, e], params, checked against each other.
FeaturesCall parse_features(const char* op, const GroupInfo (&groups)[kGroupCount], const Tensor& v, const Tensor& u,
                            const Tensor& params, const std::string& group, const std::string& chart,
                            const std::string& part, const std::string& form, const std::string& net);

}  // namespace pgconv
