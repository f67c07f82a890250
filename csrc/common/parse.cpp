#include "parse.h"

#include <cstdlib>

namespace pgconv {

int parse_name(const char* op, const char* argument, const std::string& text, const std::vector<const char*>& names) {
  for (size_t k = 0; k < names.size(); ++k)
    if (text == names[k]) return int(k);
  std::string all;
  for (const char* name : names) all += std::string(all.empty() ? "" : ", ") + name;
  fail(op, ": ", argument, ": expected one of ", all, ", got '", text, "'");
}

NetShape parse_net(const char* op, const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  if (parts.size() != 4) fail(op, ": net: expected 'activation:coord_dim:hidden:layers', got '", text, "'");
  NetShape shape{};
  shape.activation = parse_name(op, "net activation", parts[0], {"sin", "silu", "relu", "gelu", "tanh"});
  int* const numbers[] = {&shape.coord_dim, &shape.hidden, &shape.hidden_layers};
  for (int k = 0; k < 3; ++k) {
    char* end = nullptr;
    long value = std::strtol(parts[k + 1].c_str(), &end, 10);
    if (parts[k + 1].empty() || *end || value < 0 || value > 65536) fail(op, ": net: bad number in '", text, "'");
    *numbers[k] = int(value);
  }
  shape.hidden_layers -= 1;  // the text counts the head
  if (shape.hidden < 1 || shape.hidden_layers < 1) fail(op, ": net: needs hidden >= 1 and layers >= 2, got '", text, "'");
  return shape;
}

int64_t num_params(const NetShape& s) {
  int64_t H = s.hidden;
  return H * (s.coord_dim + 1) + (s.hidden_layers - 1) * H * (H + 1) + (s.activation == kSin);
}

GroupName parse_group(const char* op, const GroupInfo (&groups)[kGroupCount], const std::string& text) {
  std::vector<const char*> names;
  for (const auto& info : groups) names.push_back(info.name);
  auto slash = text.find('/');
  GroupName found{parse_name(op, "group", text.substr(0, slash), names), 0};
  if (slash != std::string::npos) {
    std::string digits = text.substr(slash + 1);
    found.orbit = digits.size() == 1 ? digits[0] - '0' : 0;
    if (found.orbit < 1 || found.orbit > kMaxOrbit)
      fail(op, ": group: expected 1 to ", kMaxOrbit, " orbit coordinates, got '", text, "'");
  }
  return found;
}

FeaturesCall parse_features(const char* op, const GroupInfo (&groups)[kGroupCount], const Tensor& v, const Tensor& u,
                            const Tensor& params, const std::string& group, const std::string& chart,
                            const std::string& part, const std::string& form, const std::string& net) {
  FeaturesCall call{};
  GroupName name = parse_group(op, groups, group);
  call.group = name.group;
  call.orbit = name.orbit;
  call.chart = parse_name(op, "chart", chart, {"product", "embed", "lie", "release"});
  call.part = parse_name(op, "part", part, {"all", "translation", "stabilizer"});
  call.correlation = parse_name(op, "form", form, {"convolution", "correlation"}) == 1;
  call.shape = parse_net(op, net);

  const GroupInfo& info = groups[call.group];
  int stabilizer = info.stabilizer_coords[call.chart];
  if (stabilizer < 0) fail(op, ": chart: ", group, " has no chart '", chart, "'");
  if (call.orbit && call.part != kAll) fail(op, ": part: orbit coordinates go with 'all'");
  int dim = 2 * call.orbit + (call.part == kStabilizer ? 0 : info.translation) + (call.part == kTranslation ? 0 : stabilizer);
  if (call.shape.coord_dim != dim)
    fail(op, ": net: expected ", dim, " coordinates (", group, ", ", chart, ", ", part, "), got '", net, "'");

  check_tensor(op, "v", v, {-1, -1, info.element + call.orbit}, v.scalar_type());
  check_tensor(op, "u", u, {-1, -1, info.element + call.orbit}, v.scalar_type());
  check_tensor(op, "params", params, {num_params(call.shape)}, v.scalar_type());
  call.Sv = v.size(0);
  call.Su = u.size(0);
  if (call.Sv != call.Su && call.Sv != 1 && call.Su != 1)
    fail(op, ": v and u: expected equal batches or a batch of 1, got ", call.Sv, " and ", call.Su);
  call.S = call.Sv == 1 ? call.Su : call.Sv;
  call.Nv = v.size(1);
  call.Nu = u.size(1);
  return call;
}

}  // namespace pgconv
