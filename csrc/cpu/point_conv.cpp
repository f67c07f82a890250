// Host side of the point convolution: arguments, work split, sums. The arithmetic is in point_conv_impl.h.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <optional>
#include <tuple>

#include "features_host.h"
#include "host.h"
#include "transposed_lists.h"

namespace pgconv {
namespace {

using Optional = std::optional<Tensor>;

// A call's tensors and sizes; see library.cpp.
struct PointCall {
  const char* op;
  const KernelTable& table;
  FeaturesCall features;
  Tensor f, v, u, params, weight;
  Optional bias, rowptr, index, first;
  bool depthwise;
  int64_t B, C, O, Nv, Nu, sets, pairs;  // pairs: of all sets

  int64_t images() const { return B / sets; }
  // Whether one value of the kernel serves several images; then it costs less than moments of each, see point_values_impl.h.
  bool by_values() const { return depthwise && images() > 1; }
  template <class T>
  const PointKernels<T>& kernels_of() const {
    const auto& table = pgconv::kernels_of<T>(this->table);
    return by_values() ? table.point_values : table.point;
  }
  template <class T>
  PointProblem<T> problem(const PreparedElements<T>& elements, const T* packed) const;
  int64_t threads() const;
};

void check_neighborhoods(PointCall& call) {
  const char* op = call.op;
  if (!call.rowptr) {
    if (call.index || call.first) fail(op, ": rowptr: expected with index or first");
    call.pairs = call.sets * call.Nu * call.Nv;
    return;
  }
  if (bool(call.index) == bool(call.first)) fail(op, ": expected index or first with rowptr");
  int64_t rows = call.rowptr->dim() == 1 ? call.rowptr->size(0) - 1 : -1;
  if (rows != call.Nu && rows != call.B * call.Nu)
    fail(op, ": rowptr: expected ", call.Nu, " or ", call.B * call.Nu, " rows");
  check_tensor(op, "rowptr", *call.rowptr, {rows + 1}, ScalarType::Long);
  auto rowptr = data_of<int64_t>(*call.rowptr);
  bool rising = rowptr[0] == 0;
  for (int64_t i = 0; i < rows; ++i) rising = rising && rowptr[i] <= rowptr[i + 1];
  if (!rising) fail(op, ": rowptr: expected to rise from 0");
  bool inside = true;
  if (call.index) {
    check_tensor(op, "index", *call.index, {rowptr[rows]}, ScalarType::Long);
    auto index = data_of<int64_t>(*call.index);
    for (int64_t k = 0; k < rowptr[rows]; ++k) inside &= index[k] >= 0 && index[k] < call.Nv;
  } else {
    check_tensor(op, "first", *call.first, {rows}, ScalarType::Long);
    auto first = data_of<int64_t>(*call.first);
    for (int64_t i = 0; i < rows; ++i)
      inside &= first[i] >= 0 && rowptr[i + 1] - rowptr[i] <= call.Nv - first[i];  // the sum might overflow
  }
  if (!inside) fail(op, ": index: expected numbers of inputs, 0 to ", call.Nv - 1);
  if (rows != call.Nu) call.sets = call.B;
  call.pairs = rowptr[rows] * (rows == call.Nu ? call.sets : 1);
}

PointCall make_call(const char* op, const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params,
                    const Tensor& weight, const Optional& bias, const Optional& rowptr, const Optional& index,
                    const Optional& first, bool depthwise, const std::string& group, const std::string& chart,
                    const std::string& part, const std::string& form, const std::string& net) {
  const KernelTable& table = kernels();
  auto features = parse_features(op, table.groups, v, u, params, group, chart, part, form, net);
  PointCall call{op,    table, features, f,        v, u, params, weight, bias, rowptr, index,
                 first, depthwise, 0,    0,        0, 0, 0,      0,      0};
  ScalarType type = v.scalar_type();
  int64_t H = features.shape.hidden;
  check_tensor(op, "f", f, {-1, features.Nv, -1}, type);
  call.B = f.size(0);
  call.Nv = features.Nv;
  call.Nu = features.Nu;
  call.C = f.size(2);
  if (depthwise)
    check_tensor(op, "weight", weight, {call.C, H}, type);
  else
    check_tensor(op, "weight", weight, {-1, call.C, H}, type);
  call.O = weight.size(0);
  if (bias) check_tensor(op, "bias", *bias, depthwise ? std::vector<int64_t>{call.C} : std::vector<int64_t>{call.O, call.C}, type);
  for (int64_t S : {v.size(0), u.size(0)})
    if (S != 1 && S != call.B) fail(op, ": v, u: expected 1 or ", call.B, " sets of elements, got ", S);
  call.sets = features.S == 1 ? 1 : call.B;
  check_fields(op, table, features);
  if (!rowptr) check_product(op, {call.B, call.Nu, call.Nv});
  check_product(op, {call.B, call.Nv, call.C});
  check_product(op, {call.B, call.Nu, call.O});
  check_neighborhoods(call);
  return call;
}

// Never null: kernels tell the ways to name inputs apart by what is null.
const int64_t* lists_of(const Tensor& t) {
  static const int64_t none = 0;
  return t.numel() > 0 ? data_of<int64_t>(t) : &none;
}

template <class T>
PointProblem<T> PointCall::problem(const PreparedElements<T>& elements, const T* packed) const {
  PointProblem<T> p{};
  p.elements = elements.problem;
  p.net = features.shape;
  if (rowptr)
    p.pairs = {data_of<int64_t>(*rowptr), index ? lists_of(*index) : nullptr, first ? lists_of(*first) : nullptr,
               rowptr->size(0) - 1 == Nu ? 0 : Nu};
  p.B = B;
  p.C = C;
  p.O = O;
  p.sets = sets;
  p.depthwise = depthwise;
  p.bias = bool(bias);
  p.f = data_of<T>(f);
  p.params = packed;
  return p;
}

// A thread costs some microseconds to wake, which is what half a million multiply-adds take.
int64_t PointCall::threads() const {
  const NetShape& n = features.shape;
  double work = double(pairs) * n.hidden * double(n.coord_dim + (n.hidden_layers - 1) * n.hidden + images() * C);
  return std::max<int64_t>(1, std::min(thread_count(), int64_t(work / double(1 << 19))));
}

template <class T>
const T* data_or_null(const Optional& t) {
  return t ? data_of<T>(*t) : nullptr;
}

// Part of an output range: equal numbers of pairs, or of outputs where each has all inputs.
template <class T>
Range rows_of_part(const PointProblem<T>& p, int64_t s, int64_t parts, int64_t part) {
  int64_t Nu = p.elements.Nu;
  if (!p.pairs.rowptr) return part_of(Nu, parts, part);
  const int64_t *begin = p.pairs.rowptr + s * p.pairs.batch, *end = begin + Nu;
  auto bound = [&](int64_t k) {
    if (k == 0 || k == parts) return k == 0 ? int64_t(0) : Nu;
    return int64_t(std::lower_bound(begin, end, *begin + (*end - *begin) * k / parts) - begin);
  };
  return {bound(part), bound(part + 1)};
}

// Doubles of several owners, zeroed.
class Slots {
 public:
  Slots(int64_t count, int64_t size) : count_(count), size_(size), memory_(size_t(count * size) * sizeof(double)) {
    std::fill(at(0), at(count), 0.0);
  }
  double* at(int64_t i) const { return memory_.as<double>() + i * size_; }
  // Their sum, in the first.
  double* sum() const {
    for (int64_t i = 1; i < count_; ++i)
      for (int64_t k = 0; k < size_; ++k) at(0)[k] += at(i)[k];
    return at(0);
  }

 private:
  int64_t count_, size_;
  Workspace memory_;
};

// Adds `count` blocks to `to`, in order.
template <class T>
void add_blocks(int64_t threads, const T* blocks, int64_t count, int64_t size, T* to) {
  parallel_runs(threads, size, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = begin; k < end; ++k) to[k] += blocks[i * size + k];
  });
}

struct PointGrads {
  Tensor f, v, u, params, weight, bias;
};

// The problem whose outputs are f's gradient.
template <class T>
PointProblem<T> adjoint_of(PointProblem<T> p, const Neighborhoods& pairs) {
  Features<T>& e = p.elements;
  std::swap(e.Nu, e.Nv);
  std::swap(e.u_count, e.v_count);
  std::swap(e.u_batch, e.v_batch);
  std::swap(e.u_fields, e.v_fields);
  e.correlation = !e.correlation;
  p.pairs = pairs;
  std::swap(p.C, p.O);
  std::swap(p.f, p.grad);
  p.adjoint = true;
  return p;
}

// That problem and what it owns.
template <class T>
struct Adjoint {
  std::optional<TransposedLists> lists;
  PointProblem<T> problem;
  Adjoint(const PointCall& call, const PointProblem<T>& p) {
    if (call.rowptr) lists.emplace(p, call.threads());
    problem = adjoint_of(p, lists ? lists->lists() : Neighborhoods{});
  }
};

// Whether the outputs are clearly cheaper as a gradient of the adjoint problem: with far fewer channels out than in. Its products
// have short rows, which are added into memory, and reach about half the rate.
bool prefer_adjoint(const PointCall& call) {
  if (call.depthwise) return false;
  const NetShape& n = call.features.shape;
  double C = double(call.C), O = double(call.O), pairs = double(call.pairs * call.images());
  double net = (n.coord_dim + (n.hidden_layers - 1) * n.hidden) / double(call.images()), heads = C * O * double(call.B);
  double straight = pairs * (net + C) + heads * double(call.Nu);
  double adjoint = pairs * (net + 1.75 * std::max(O, 16.0)) + 2 * heads * double(call.Nv);
  return adjoint < 0.8 * straight;
}

// Whether the gradients take less arithmetic on the adjoint problem, see point_conv_impl.h.
bool prefer_adjoint(const PointCall& call, PointNeeds needs) {
  if (call.by_values()) return false;
  double C = double(call.C), O = double(call.depthwise ? 1 : call.O), pairs = double(call.pairs * call.images());
  double straight = (needs.f + needs.features + needs.head) * C;
  double adjoint = ((needs.f || needs.head) + needs.features) * double(call.O);
  double heads = call.depthwise ? 0 : C * O * double(call.B);
  return pairs * adjoint + 3 * heads * double(call.Nv) < pairs * straight + 2 * heads * double(call.Nu);
}

// Gradients a problem of the call has, or of its adjoint.
template <class T>
void differentiate(const PointCall& call, const PreparedElements<T>& elements, PointProblem<T> p, PointNeeds needs,
                   PointGrads& grads) {
  const auto& table = kernels_of<T>(call.table);
  const auto& kernels = call.kernels_of<T>();
  int64_t threads = call.threads();
  const T *weight = data_of<T>(call.weight), *bias = data_or_null<T>(call.bias);
  int64_t head_size = kernels.head_size(p), sums_size = kernels.head_adjoint_size(p);
  Workspace heads(size_t(head_size + sums_size) * sizeof(T));
  T *head = heads.as<T>(), *head_adjoint = head + head_size;
  if (needs.outputs || call.by_values()) kernels.pack_head(p, weight, bias, head);
  kernels.pack_head_adjoint(p, weight, bias, head_adjoint);
  p.head = head;
  p.head_adjoint = head_adjoint;

  // Parts of the sets x parts of their outputs. Each has its own sums of what it shares with others at its time.
  GridSplit split(threads, call.sets, p.elements.Nu, false);
  int64_t parts = split.parts(), fields = pgconv::fields(call.table, call.features);
  bool v_shared = p.elements.v_batch == 0 && split.rows > 1, u_shared = p.elements.u_batch == 0 && split.rows > 1;
  Slots v(needs.features ? v_shared ? parts : split.columns : 0, fields * p.elements.v_count);
  Slots u(needs.features ? u_shared ? split.rows : 1 : 0, fields * p.elements.u_count);
  Slots params(needs.features ? parts : 0, table.totals_size(call.features.shape));
  T* to_f = needs.f || needs.outputs ? mutable_data_of<T>(grads.f) : nullptr;
  int64_t f_size = needs.f ? grads.f.numel() : 0;
  Workspace f(size_t((split.columns - 1) * f_size) * sizeof(T));
  Workspace sums_of_head(size_t(needs.head ? parts * sums_size : 0) * sizeof(T));
  T* head_sums = sums_of_head.as<T>();
  auto f_of = [&](int64_t column) { return column == 0 ? to_f : f.as<T>() + (column - 1) * f_size; };
  if (needs.f) parallel_each(threads, split.columns, [&](int64_t i) { std::fill(f_of(i), f_of(i) + f_size, T(0)); });
  if (needs.head) std::fill(head_sums, head_sums + parts * sums_size, T(0));

  parallel_each(threads, parts, [&](int64_t part) {
    int64_t row = part / split.columns, column = part % split.columns;
    Workspace workspace(kernels.backward_workspace(p) * sizeof(T));
    PointSums<T> sums{needs.f ? f_of(column) : nullptr, nullptr, nullptr, nullptr,
                      needs.head ? head_sums + part * sums_size : nullptr, to_f};
    if (needs.features) {
      sums.v = v.at(v_shared ? part : column);
      sums.u = u.at(u_shared ? row : 0);
      sums.params = params.at(part);
    }
    Range sets = split.row_range(call.sets, part);
    for (int64_t s = sets.begin; s < sets.end; ++s) {
      Range outputs = rows_of_part(p, s, split.columns, column);
      kernels.backward(p, needs, s, outputs.begin, outputs.end, workspace.as<T>(), sums);
    }
  });

  if (needs.f) add_blocks(threads, f.as<T>(), split.columns - 1, f_size, to_f);
  if (needs.features) {
    int group = call.features.group, orbit = call.features.orbit;
    const Slots &of_v = p.adjoint ? u : v, &of_u = p.adjoint ? v : u;
    table.prepare_backward(group, orbit, data_of<T>(call.v), of_v.sum(), elements.problem.v_count, mutable_data_of<T>(grads.v));
    table.prepare_backward(group, orbit, data_of<T>(call.u), of_u.sum(), elements.problem.u_count, mutable_data_of<T>(grads.u));
    table.unpack_totals(call.features.shape, data_of<T>(call.params), params.sum(), mutable_data_of<T>(grads.params));
  }
  if (needs.head) {
    add_blocks(threads, head_sums + sums_size, parts - 1, sums_size, head_sums);
    kernels.unpack_head(p, head_sums, mutable_data_of<T>(grads.weight),
                        call.bias ? mutable_data_of<T>(grads.bias) : nullptr);
  }
}

template <class T>
void forward(const PointCall& call, Tensor& out) {
  const auto& kernels = call.kernels_of<T>();
  PreparedElements<T> elements(call.table, call.features, call.v, call.u);
  auto packed = pack_params<T>(call.table, call.features.shape, call.params);
  PointProblem<T> p = call.problem<T>(elements, packed.get());
  if (prefer_adjoint(call)) {
    // The outputs are the gradient of the adjoint problem's f.
    Adjoint<T> adjoint(call, p);
    PointGrads grads{out, out, out, out, out, out};
    return differentiate(call, elements, adjoint.problem, {true, false, false, false}, grads);
  }
  Workspace head(kernels.head_size(p) * sizeof(T));
  kernels.pack_head(p, data_of<T>(call.weight), data_or_null<T>(call.bias), head.as<T>());
  p.head = head.as<T>();

  // Threads take outputs a few at a time as they come free: neighbourhoods may differ in size.
  int64_t threads = call.threads(), rows = kernels.rows(p);
  rows = std::max<int64_t>(1, std::min(rows, call.sets * call.Nu / (4 * threads)));
  int64_t per_set = (call.Nu + rows - 1) / rows, tasks = call.sets * per_set;
  std::atomic<int64_t> next{0};
  T* to = mutable_data_of<T>(out);
  parallel_each(threads, std::min(threads, tasks), [&](int64_t) {
    Workspace workspace(kernels.forward_workspace(p) * sizeof(T));
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      int64_t begin = i % per_set * rows;
      kernels.forward(p, i / per_set, begin, std::min(begin + rows, call.Nu), workspace.as<T>(), to);
    }
  });
}

template <class T>
void backward(const PointCall& call, const Tensor& grad, PointNeeds needs, PointGrads& grads) {
  PreparedElements<T> elements(call.table, call.features, call.v, call.u);
  auto packed = pack_params<T>(call.table, call.features.shape, call.params);
  PointProblem<T> p = call.problem<T>(elements, packed.get());
  p.grad = data_of<T>(grad);
  if (!prefer_adjoint(call, needs)) return differentiate(call, elements, p, needs, grads);
  Adjoint<T> adjoint(call, p);
  std::swap(needs.f, needs.outputs);
  differentiate(call, elements, adjoint.problem, needs, grads);
}

std::vector<int64_t> sizes_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

}  // namespace

Tensor point_conv(const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params, const Tensor& weight,
                  const Optional& bias, const Optional& rowptr, const Optional& index, const Optional& first,
                  bool depthwise, const std::string& group, const std::string& chart, const std::string& part,
                  const std::string& form, const std::string& net) {
  const char* op = "point_conv";
  auto call = make_call(op, f, v, u, params, weight, bias, rowptr, index, first, depthwise, group, chart, part, form, net);
  return dispatch_float(op, v, [&](auto zero) {
    Tensor out = new_output(f, {call.B, call.Nu, call.O}, f.scalar_type());
    if (call.C == 0)
      torch::stable::zero_(out);
    else if (out.numel() > 0)
      forward<decltype(zero)>(call, out);
    return out;
  });
}

// Gradients of f, v, u, params, weight and bias; an empty tensor where not needed. Bits of needs: f, features (v, u and
// params together), head (weight and bias together).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> point_conv_backward(
    const Tensor& grad, const Tensor& f, const Tensor& v, const Tensor& u, const Tensor& params, const Tensor& weight,
    const Optional& bias, const Optional& rowptr, const Optional& index, const Optional& first, bool depthwise,
    const std::string& group, const std::string& chart, const std::string& part, const std::string& form,
    const std::string& net, int64_t needs_bits) {
  const char* op = "point_conv_backward";
  auto call = make_call(op, f, v, u, params, weight, bias, rowptr, index, first, depthwise, group, chart, part, form, net);
  check_tensor(op, "grad", grad, {call.B, call.Nu, call.O}, f.scalar_type());
  PointNeeds needs{(needs_bits & 1) != 0, (needs_bits & 2) != 0, (needs_bits & 4) != 0, false};
  auto empty = [&](const Tensor& like, bool needed) {
    return new_output(like, needed ? sizes_of(like) : std::vector<int64_t>{0}, like.scalar_type());
  };
  return dispatch_float(op, v, [&](auto zero) {
    PointGrads grads{empty(f, needs.f),
                     empty(v, needs.features),
                     empty(u, needs.features),
                     empty(params, needs.features),
                     empty(weight, needs.head),
                     bias ? empty(*bias, needs.head) : empty(weight, false)};
    if (grad.numel() == 0 || call.C == 0)
      for (Tensor* t : {&grads.f, &grads.v, &grads.u, &grads.params, &grads.weight, &grads.bias})
        torch::stable::zero_(*t);
    else
      backward<decltype(zero)>(call, grad, needs, grads);
    return std::make_tuple(grads.f, grads.v, grads.u, grads.params, grads.weight, grads.bias);
  });
}

}  // namespace pgconv

STABLE_TORCH_LIBRARY_IMPL(pgconv_C, CPU, m) {
  m.impl("point_conv", TORCH_BOX(&pgconv::point_conv));
  m.impl("point_conv_backward", TORCH_BOX(&pgconv::point_conv_backward));
}
