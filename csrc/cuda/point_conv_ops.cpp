// The point convolution as operators on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops.h"
#include "point_conv.h"
#include "point_lists.h"

namespace pgconv {
namespace {

using namespace PGCONV_ISA;

int fields_of(int group, int orbit) {
  GroupInfo groups[kGroupCount];
  group_table(groups);
  return groups[group].fields + orbit;
}

struct PointCall {
  FeaturesCall features;
  HalfType type;
  int64_t B, C;
};

PointCall point_call(const char* op, const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params,
                     const std::string& group, const std::string& chart, const std::string& part, const std::string& form,
                     const std::string& net) {
  if (!f.is_cuda()) fail(op, ": expected CUDA tensors");
  auto call = make_call(op, v, u, params, group, chart, part, form, net);
  check_device(op, "v", v, f);
  if (v.scalar_type() != ScalarType::Float) fail(op, ": v: expected float32");
  bool half = f.scalar_type() == ScalarType::Half;
  if (!half && f.scalar_type() != ScalarType::BFloat16) fail(op, ": f: expected float16 or bfloat16");
  bool parts = half && f.dim() == 4;
  if (parts)
    check_tensor(op, "f", f, {2, -1, call.Nv, -1}, f.scalar_type());
  else
    check_tensor(op, "f", f, {-1, call.Nv, -1}, f.scalar_type());
  int64_t B = f.size(parts), C = f.size(2 + parts);
  if (C % 8) fail(op, ": f: expected a multiple of 8 channels, got ", C);
  check_aligned(op, "f", f);
  for (int64_t S : {call.Sv, call.Su})
    if (S != 1 && S != B) fail(op, ": v, u: expected 1 or ", B, " sets of elements, got ", S);
  return {call, parts ? kFloat16Parts : half ? kFloat16 : kBfloat16Type, B, C};
}

Tensor moments(const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params, const std::string& group,
               const std::string& chart, const std::string& part, const std::string& form, const std::string& net) {
  const char* op = "point_moments";
  auto call = point_call(op, f, v, u, params, group, chart, part, form, net);
  if (const char* reason = why_not_moments(call.features.shape)) fail(op, ": ", reason);
  TorchMachine machine(f);
  Tensor out = torch::stable::new_empty(f, {call.B, call.features.Nu, call.features.shape.hidden, call.C}, ScalarType::Float);
  point_moments_of(machine, call.features, call.B, call.C, call.type, data<uint16_t>(f), data<float>(v), data<float>(u),
                   data<float>(params), mutable_data<float>(out));
  return out;
}

using Optional = std::optional<Tensor>;

// Forms of lists as in pgconv/backends/lists.py. Their numbers are not looked at here: the host would wait for them.
PointLists point_lists(const char* op, const PointCall& call, const Tensor& f, const Optional& index, const Optional& rowptr,
                       const Optional& first) {
  PointLists lists{};
  int64_t Nu = call.features.Nu;
  if (call.features.Nv > INT32_MAX) fail(op, ": v: expected at most ", INT32_MAX, " inputs");
  auto take = [&](const char* name, const Optional& t, const std::vector<int64_t>& dims) {
    check_device(op, name, *t, f);
    check_tensor(op, name, *t, dims, ScalarType::Long);
    return data<int64_t>(*t);
  };
  auto check_sets = [&](int64_t sets, const char* name) {
    if (sets != 1 && sets != call.B) fail(op, ": ", name, ": expected lists of 1 or ", call.B, " examples, got ", sets);
    lists.batch = sets == 1 ? 0 : Nu;
  };
  if (!rowptr) {
    if (!index || first) fail(op, ": expected index, or rowptr with index or first");
    lists.index = take("index", index, {-1, Nu, -1});
    lists.padded = index->size(2);
    check_sets(index->size(0), "index");
  } else {
    if (bool(index) == bool(first)) fail(op, ": expected index or first with rowptr");
    int64_t rows = rowptr->dim() == 1 ? rowptr->size(0) - 1 : -1;
    if (rows != Nu && rows != call.B * Nu) fail(op, ": rowptr: expected ", Nu, " or ", call.B * Nu, " rows");
    lists.rowptr = take("rowptr", rowptr, {rows + 1});
    if (index) lists.index = take("index", index, {-1});
    if (first) lists.first = take("first", first, {rows});
    lists.batch = rows == Nu ? 0 : Nu;
  }
  if (index) lists.pairs = index->numel();
  return lists;
}

Tensor list_moments(const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params, const Optional& index,
                    const Optional& rowptr, const Optional& first, const std::string& group, const std::string& chart,
                    const std::string& part, const std::string& form, const std::string& net) {
  const char* op = "point_list_moments";
  auto call = point_call(op, f, v, u, params, group, chart, part, form, net);
  if (const char* reason = why_not_moments(call.features.shape)) fail(op, ": ", reason);
  PointLists lists = point_lists(op, call, f, index, rowptr, first);
  if (lists.batch) call.features.S = call.B;
  TorchMachine machine(f);
  Tensor out = torch::stable::new_empty(f, {call.B, call.features.Nu, call.features.shape.hidden, call.C}, ScalarType::Float);
  point_list_moments_of(machine, call.features, lists, call.B, call.C, call.type, data<uint16_t>(f), data<float>(v), data<float>(u),
                        data<float>(params), mutable_data<float>(out));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> gradient(const Tensor& grad, const Tensor& f, const Optional& factor, const Tensor& v,
                                            const Tensor& u, const Tensor& params, const std::string& group, const std::string& chart,
                                            const std::string& part, const std::string& form, const std::string& net) {
  const char* op = "point_gradient";
  auto call = point_call(op, f, v, u, params, group, chart, part, form, net);
  const FeaturesCall& features = call.features;
  std::vector<int64_t> sizes{call.B, features.Nu, features.shape.hidden, call.C};
  const bool parts = call.type == kFloat16Parts;
  if (parts != bool(factor)) fail(op, ": expected a factor with parts, and with them alone");
  if (parts) {
    sizes.insert(sizes.begin(), 2);
    check_device(op, "factor", *factor, f);
    check_tensor(op, "factor", *factor, {features.S}, ScalarType::Float);
  }
  check_device(op, "grad", grad, f);
  check_tensor(op, "grad", grad, sizes, f.scalar_type());
  check_aligned(op, "grad", grad);
  int64_t columns = features.S > 0 ? call.B / features.S * call.C : 0;
  TorchMachine machine(f);
  const int fields = fields_of(features.group, features.orbit);
  if (const char* reason = why_not_gradient(call.type, features.shape, fields, columns, machine.capability)) fail(op, ": ", reason);
  Tensor gv = torch::stable::empty_like(v), gu = torch::stable::empty_like(u), gp = torch::stable::empty_like(params);
  point_features_gradient(machine, features, call.B, call.C, call.type, 0, data<uint16_t>(grad), data<uint16_t>(f),
                          parts ? data<float>(*factor) : nullptr, data<float>(v), data<float>(u), data<float>(params), mutable_data<float>(gv), mutable_data<float>(gu),
                          mutable_data<float>(gp));
  return std::make_tuple(gv, gu, gp);
}

// Empty where kernels take the net, else the reason.
std::string why_not(const std::string& net) {
  return reason_text(why_not_moments(parse_net("cuda_why_not_moments", net)));
}

std::string why_not_columns(const std::string& group, const std::string& net, int64_t columns, bool exact, int64_t capability) {
  const char* op = "cuda_why_not_gradient";
  GroupInfo groups[kGroupCount];
  group_table(groups);
  GroupName name = parse_group(op, groups, group);
  return reason_text(why_not_gradient(exact ? kFloat16Parts : kFloat16, parse_net(op, net), fields_of(name.group, name.orbit), columns,
                                      int(capability)));
}

}  // namespace
}  // namespace pgconv

STABLE_TORCH_LIBRARY_FRAGMENT(pgconv_C, m) {
  // moments [B, Nu, H, C], float32, of f [B, Nv, C], float16 or bfloat16 with C a multiple of 8, or [2, B, Nv, C], float16 parts of
  // a float32 signal, and elements v, u, params as for point_conv, float32.
  m.def(
      "point_moments(Tensor f, Tensor v, Tensor u, Tensor params, str group, str chart, str part, str form, str net) "
      "-> Tensor");
  // The same over lists: index [B or 1, Nu, K], padded with -1, or rowptr [Nu + 1] or [B Nu + 1] with index [pairs] or first
  // [rows]; numbers that are none of an input's are no pairs.
  m.def(
      "point_list_moments(Tensor f, Tensor v, Tensor u, Tensor params, Tensor? index, Tensor? rowptr, Tensor? first, str group, "
      "str chart, str part, str form, str net) -> Tensor");
  // Gradients of v, u and params from that of the moments, in the type of f, or in parts as f: of numbers below 2^14, with what
  // undoes their scaling, float32, for each set of elements.
  m.def(
      "point_gradient(Tensor grad, Tensor f, Tensor? factor, Tensor v, Tensor u, Tensor params, str group, str chart, str part, str form, "
      "str net) -> (Tensor, Tensor, Tensor)");
  m.def("cuda_why_not_moments(str net) -> str");
  m.def("cuda_why_not_gradient(str group, str net, int columns, bool exact, int capability) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CUDA, m) {
  m.impl("point_moments", TORCH_BOX(&pgconv::moments));
  m.impl("point_list_moments", TORCH_BOX(&pgconv::list_moments));
  m.impl("point_gradient", TORCH_BOX(&pgconv::gradient));
}

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CompositeExplicitAutograd, m) {
  m.impl("cuda_why_not_moments", TORCH_BOX(&pgconv::why_not));
  m.impl("cuda_why_not_gradient", TORCH_BOX(&pgconv::why_not_columns));
}
