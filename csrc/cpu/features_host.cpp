#include "features_host.h"

namespace pgconv {

FeaturesCall FeaturesCall::parse(const char* op, const KernelTable& table, const Tensor& v, const Tensor& u,
                                 const Tensor& params, const std::string& group, const std::string& chart,
                                 const std::string& part, const std::string& form, const std::string& net) {
  std::vector<const char*> names;
  for (const auto& info : table.groups) names.push_back(info.name);
  FeaturesCall call{};
  // "SO(2)/1": elements of SO(2) followed by one orbit coordinate.
  auto slash = group.find('/');
  call.group = parse_name(op, "group", group.substr(0, slash), names);
  if (slash != std::string::npos) {
    std::string digits = group.substr(slash + 1);
    call.orbit = digits.size() == 1 ? digits[0] - '0' : 0;
    if (call.orbit < 1 || call.orbit > kMaxOrbit)
      fail(op, ": group: expected 1 to ", kMaxOrbit, " orbit coordinates, got '", group, "'");
  }
  call.chart = parse_name(op, "chart", chart, {"product", "embed", "lie", "release"});
  call.part = parse_name(op, "part", part, {"all", "translation", "stabilizer"});
  call.correlation = parse_name(op, "form", form, {"convolution", "correlation"}) == 1;
  call.shape = parse_net(op, net);

  const GroupInfo& info = table.groups[call.group];
  int stabilizer = info.stabilizer_coords[call.chart];
  if (stabilizer < 0) fail(op, ": chart: ", group, " has no chart '", chart, "'");
  if (call.orbit && call.part != kAll) fail(op, ": part: orbit coordinates go with 'all'");
  int dim = 2 * call.orbit + (call.part == kStabilizer ? 0 : info.translation) + (call.part == kTranslation ? 0 : stabilizer);
  if (call.shape.coord_dim != dim)
    fail(op, ": net: expected ", dim, " coordinates (", group, ", ", chart, ", ", part, "), got '", net, "'");

  check_tensor(op, "v", v, {-1, -1, info.element + call.orbit}, v.scalar_type());
  check_tensor(op, "u", u, {-1, -1, info.element + call.orbit}, v.scalar_type());
  check_tensor(op, "params", params, {num_params(call.shape)}, v.scalar_type());
  int64_t Sv = v.size(0), Su = u.size(0);
  if (Sv != Su && Sv != 1 && Su != 1) fail(op, ": v and u: expected equal batches or a batch of 1, got ", Sv, " and ", Su);
  call.S = Sv == 1 ? Su : Sv;
  call.Nv = v.size(1);
  call.Nu = u.size(1);
  return call;
}

}  // namespace pgconv
