// Test-only module: the GPU kernels, run by the emulator on numpy arrays. Needs neither torch nor a GPU.
#include <algorithm>
#include <optional>
#include <tuple>

#include "../cuda/conv_chain.h"
#include "../cuda/conv_gradient.h"
#include "../cuda/elements.h"
#include "../cuda/features.h"
#include "../cuda/group_last.h"
#include "../cuda/point_conv.h"
#include "../cuda/point_lists.h"
#include "names.h"
#include "planted.cuh"

namespace py = pybind11;
using namespace pgconv;
using namespace pgconv::PGCONV_ISA;
using emulator::Host;

// The operators on CUDA tensors refuse the same, with the same words.
static void refuse(const char* reason) {
  if (reason) throw std::runtime_error(reason);
}

static NetShape parse_net(const std::string& text) {
  size_t a = text.find(':'), b = text.find(':', a + 1), c = text.find(':', b + 1);
  return {index_of(text.substr(0, a), kActivations), std::stoi(text.substr(a + 1)), std::stoi(text.substr(b + 1)),
          std::stoi(text.substr(c + 1)) - 1};
}

template <class T>
static Array<T> like(const Array<T>& a) {
  return Array<T>(std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim()));
}

template <class T>
static Array<T> net(unsigned seed, Array<T> coords, Array<T> params, const std::string& text) {
  Host host(seed);
  NetShape shape = parse_net(text);
  refuse(why_not_net(shape, sizeof(T)));
  Array<T> out({int64_t(coords.shape(0)), int64_t(shape.hidden)});
  kernel_net(host, shape, coords.shape(0), coords.data(), params.data(), out.mutable_data());
  return out;
}

template <class T>
static std::tuple<Array<T>, Array<T>> net_backward(unsigned seed, Array<T> grad, Array<T> coords, Array<T> params,
                                                   const std::string& text) {
  Host host(seed);
  refuse(why_not_net(parse_net(text), sizeof(T)));
  Array<T> grad_coords({int64_t(coords.shape(0)), int64_t(coords.shape(1))}), grad_params(params.size());
  kernel_net_backward(host, parse_net(text), coords.shape(0), grad.data(), coords.data(), params.data(),
                      grad_coords.mutable_data(), grad_params.mutable_data());
  return {grad_coords, grad_params};
}

static void name_group(FeaturesCall& call, const std::string& group) {
  GroupInfo groups[kGroupCount];
  group_table(groups);
  std::vector<std::string> names;
  for (const auto& info : groups) names.push_back(info.name);
  size_t slash = group.find('/');
  call.group = index_of(group.substr(0, slash), names);
  call.orbit = slash == std::string::npos ? 0 : std::stoi(group.substr(slash + 1));
}

// Of an element of the group: what is stored for it.
static int fields_of(const std::string& group) {
  GroupInfo groups[kGroupCount];
  group_table(groups);
  FeaturesCall call{};
  name_group(call, group);
  return groups[call.group].fields + call.orbit;
}

template <class T>
static FeaturesCall make_call(const Array<T>& v, const Array<T>& u, const std::string& group, const std::string& chart,
                              const std::string& part, bool correlation, const std::string& text) {
  FeaturesCall call{};
  name_group(call, group);
  call.chart = index_of(chart, kCharts);
  call.part = index_of(part, kParts);
  call.correlation = correlation;
  call.shape = parse_net(text);
  call.Sv = v.shape(0);
  call.Su = u.shape(0);
  call.S = call.Sv == 1 ? call.Su : call.Sv;
  call.Nv = v.shape(1);
  call.Nu = u.shape(1);
  return call;
}

template <class T>
static Array<T> features(unsigned seed, Array<T> v, Array<T> u, Array<T> params, const std::string& group,
                         const std::string& chart, const std::string& part, bool correlation, const std::string& text) {
  Host host(seed);
  auto call = make_call(v, u, group, chart, part, correlation, text);
  refuse(why_not_net(call.shape, sizeof(T)));
  Array<T> out({call.S, call.Nu, call.Nv, int64_t(call.shape.hidden)});
  relative_features(host, call, v.data(), u.data(), params.data(), out.mutable_data());
  return out;
}

template <class T>
static std::tuple<Array<T>, Array<T>, Array<T>> features_backward(unsigned seed, Array<T> grad, Array<T> v, Array<T> u,
                                                                  Array<T> params, const std::string& group,
                                                                  const std::string& chart, const std::string& part,
                                                                  bool correlation, const std::string& text) {
  Host host(seed);
  auto call = make_call(v, u, group, chart, part, correlation, text);
  refuse(why_not_net(call.shape, sizeof(T)));
  Array<T> gv = like(v), gu = like(u), gp = like(params);
  relative_features_backward(host, call, grad.data(), v.data(), u.data(), params.data(), gv.mutable_data(),
                             gu.mutable_data(), gp.mutable_data());
  return {gv, gu, gp};
}

// f [B, Nv, C], or [2, B, Nv, C], by its bits, float16 or bfloat16 -> moments [B, Nu, H, C].
static Array<float> moments(unsigned seed, Array<uint16_t> f, bool half, Array<float> v, Array<float> u, Array<float> params,
                            const std::string& group, const std::string& chart, const std::string& part, bool correlation,
                            const std::string& text) {
  Host host(seed);
  auto call = make_call(v, u, group, chart, part, correlation, text);
  refuse(why_not_moments(call.shape));
  bool parts = f.ndim() == 4;
  int64_t B = f.shape(parts), C = f.shape(2 + parts);
  Array<float> out({B, call.Nu, int64_t(call.shape.hidden), C});
  point_moments_of(host, call, B, C, parts ? kFloat16Parts : half ? kFloat16 : kBfloat16Type, f.data(), v.data(), u.data(), params.data(),
                   out.mutable_data());
  return out;
}

// The same over lists, of which some may be missing: index [pairs] or [B or 1, Nu, K], rowptr [Nu + 1] or [B Nu + 1], first [rows].
static Array<float> list_moments(unsigned seed, Array<uint16_t> f, bool half, Array<float> v, Array<float> u, Array<float> params,
                                 const std::optional<Array<int64_t>>& index, const std::optional<Array<int64_t>>& rowptr,
                                 const std::optional<Array<int64_t>>& first, const std::string& group, const std::string& chart,
                                 const std::string& part, bool correlation, const std::string& text) {
  Host host(seed);
  auto call = make_call(v, u, group, chart, part, correlation, text);
  refuse(why_not_moments(call.shape));
  bool parts = f.ndim() == 4;
  int64_t B = f.shape(parts), C = f.shape(2 + parts);
  auto at = [](const std::optional<Array<int64_t>>& array) { return array ? array->data() : nullptr; };
  PointLists lists{at(rowptr), at(index), at(first), rowptr ? 0 : index->shape(2), index ? index->size() : 0, 0};
  bool own = rowptr ? rowptr->size() - 1 != call.Nu : index->shape(0) > 1;
  if (own) lists.batch = call.Nu, call.S = B;
  Array<float> out({B, call.Nu, int64_t(call.shape.hidden), C});
  point_list_moments_of(host, call, lists, B, C, parts ? kFloat16Parts : half ? kFloat16 : kBfloat16Type, f.data(), v.data(),
                        u.data(), params.data(), out.mutable_data());
  return out;
}

// Gradients of v, u and params from that of the moments, by its bits as f.
static std::tuple<Array<float>, Array<float>, Array<float>> moments_gradient(
    unsigned seed, Array<uint16_t> grad, Array<uint16_t> f, bool half, const std::optional<Array<float>>& factor, Array<float> v, Array<float> u, Array<float> params,
    const std::string& group, const std::string& chart, const std::string& part, bool correlation, const std::string& text,
    int capability, int most_parts) {
  Host host(seed);
  host.capability = capability;
  auto call = make_call(v, u, group, chart, part, correlation, text);
  bool parts = f.ndim() == 4;
  int64_t B = f.shape(parts), C = f.shape(2 + parts), columns = call.S > 0 ? B / call.S * C : 0;
  HalfType type = parts ? kFloat16Parts : half ? kFloat16 : kBfloat16Type;
  refuse(why_not_gradient(type, call.shape, fields_of(group), columns, capability));
  Array<float> gv = like(v), gu = like(u), gp = like(params);
  point_features_gradient(host, call, B, C, type, most_parts, grad.data(), f.data(), factor ? factor->data() : nullptr, v.data(), u.data(),
                          params.data(), gv.mutable_data(), gu.mutable_data(), gp.mutable_data());
  return {gv, gu, gp};
}

static ConvChain chain_of(int64_t vectors, int64_t octets, int64_t O, const std::vector<int64_t>& taps,
                          const std::vector<int>& geometry) {
  ConvChain p{};
  p.O = O;
  p.octets = int(octets);
  p.vectors = int(vectors);
  if (const char* wrong = set_taps(p, taps.data(), int64_t(taps.size()) / 2)) throw std::runtime_error(wrong);
  p.stride_y = geometry.at(0), p.stride_x = geometry.at(1), p.pad_y = geometry.at(2), p.pad_x = geometry.at(3);
  p.out_height = geometry.at(4), p.out_width = geometry.at(5);
  return p;
}

// All by their bits: f [B, C, H, W, 8 vectors], phi [S, Nu, octets, granules, 8, 8], weight [O, C, 8 octets]. With a factor, one
// number, the result is float32.
static py::object convolution(unsigned seed, Array<uint16_t> f, Array<uint16_t> phi, Array<uint16_t> weight, bool half,
                              const std::vector<int64_t>& taps, const std::vector<int>& geometry, bool last,
                              std::optional<Array<float>> factor, int capability) {
  Host host(seed);
  host.capability = capability;
  ConvChain p = chain_of(f.shape(4) / 8, phi.shape(2), weight.shape(0), taps, geometry);
  if (phi.shape(3) != p.granules) throw std::runtime_error("granules");
  p.B = f.shape(0), p.C = f.shape(1), p.height = int(f.shape(2)), p.width = int(f.shape(3));
  p.S = phi.shape(0), p.Nu = phi.shape(1);
  refuse(why_not_chain(p, capability));
  p.samples_last = last;
  std::vector<int64_t> sizes{p.B, p.O, p.Nu, p.out_height, p.out_width};
  if (last) std::rotate(sizes.begin() + 2, sizes.begin() + 3, sizes.end());
  p.f = f.data(), p.phi = phi.data(), p.weight = weight.data();
  auto into = [&](auto out, auto& place) -> py::object {
    place = out.mutable_data();
    conv_chain_of(host, p, half ? kFloat16 : kBfloat16Type);
    return out;
  };
  if (!factor) return into(Array<uint16_t>(sizes), p.out);
  p.factor = factor->data();
  return into(Array<float>(sizes), p.numbers);
}

// f [B, C, N, H, W] by its bits, or with a factor in float32.
template <class T>
static Array<uint16_t> samples_last(unsigned seed, Array<T> f, const float* factor) {
  Host host(seed);
  int64_t vectors = (f.shape(2) + 7) / 8;
  Array<uint16_t> out({int64_t(f.shape(0)), int64_t(f.shape(1)), int64_t(f.shape(3)), int64_t(f.shape(4)), 8 * vectors});
  group_last_of(host, {f.shape(0) * f.shape(1), f.shape(3) * f.shape(4), int(f.shape(2)), int(vectors), f.data(), factor,
                       out.mutable_data()});
  return out;
}

static ConvGradient gradient_of(const Array<uint16_t>& grad, const Array<uint16_t>& f, int64_t octets, const std::vector<int64_t>& taps,
                                const std::vector<int>& geometry, int parts) {
  ConvGradient p{};
  p.most_parts = parts;
  p.conv = chain_of(f.shape(4) / 8, octets, grad.shape(1), taps, geometry);
  p.conv.B = f.shape(0), p.conv.C = f.shape(1), p.conv.height = int(f.shape(2)), p.conv.width = int(f.shape(3));
  p.u_vectors = int(grad.shape(4) / 8);
  if (grad.shape(2) != p.conv.out_height || grad.shape(3) != p.conv.out_width) throw std::runtime_error("geometry");
  p.conv.f = f.data(), p.grad = grad.data();
  return p;
}

// By their bits: grad [B, O, Ho, Wo, 8 u vectors], f [B, C, H, W, 8 vectors], phi [S, Nu, octets, granules, 8, 8] ->
// [C, 8 octets, O]; in at most so many parts, or as many as the driver takes (0).
static Array<float> head_gradient(unsigned seed, Array<uint16_t> grad, Array<uint16_t> f, Array<uint16_t> phi, bool half,
                                  const std::vector<int64_t>& taps, const std::vector<int>& geometry, int capability, int parts) {
  Host host(seed);
  host.capability = capability;
  ConvGradient p = gradient_of(grad, f, phi.shape(2), taps, geometry, parts);
  if (phi.shape(3) != p.conv.granules) throw std::runtime_error("granules");
  p.conv.S = phi.shape(0), p.conv.Nu = phi.shape(1), p.conv.phi = phi.data();
  refuse(why_not_head_gradient(p, capability));
  Array<float> out({p.conv.C, int64_t(8 * p.conv.octets), p.conv.O});
  head_gradient_of(host, p, half ? kFloat16 : kBfloat16Type, out.mutable_data());
  return out;
}

// weight [O, C, 8 octets] instead of phi, of S sets of Nu samples -> [S, Nu, octets, taps vectors, 8, 8].
static Array<float> feature_gradient(unsigned seed, Array<uint16_t> grad, Array<uint16_t> f, Array<uint16_t> weight, bool half,
                                     int64_t S, int64_t Nu, const std::vector<int64_t>& taps, const std::vector<int>& geometry,
                                     int capability, int parts) {
  Host host(seed);
  host.capability = capability;
  ConvGradient p = gradient_of(grad, f, weight.shape(2) / 8, taps, geometry, parts);
  p.conv.S = S, p.conv.Nu = Nu, p.conv.weight = weight.data();
  refuse(why_not_feature_gradient(p, capability));
  Array<float> out({S, Nu, int64_t(p.conv.octets), int64_t(p.conv.real), int64_t(8), int64_t(8)});
  feature_gradient_of(host, p, half ? kFloat16 : kBfloat16Type, out.mutable_data());
  return out;
}

// With neither -> [u vectors, O, C, taps vectors, 8, 8].
static Array<float> kernel_gradient(unsigned seed, Array<uint16_t> grad, Array<uint16_t> f, bool half, const std::vector<int64_t>& taps,
                                    const std::vector<int>& geometry, int capability, int parts) {
  Host host(seed);
  host.capability = capability;
  ConvGradient p = gradient_of(grad, f, 1, taps, geometry, parts);
  refuse(why_not_kernel_gradient(p, capability));
  Array<float> out({int64_t(p.u_vectors), p.conv.O, p.conv.C, int64_t(p.conv.real), int64_t(8), int64_t(8)});
  kernel_gradient_of(host, p, half ? kFloat16 : kBfloat16Type, out.mutable_data());
  return out;
}

static std::string reason_of(const char* (*why_not)(ConvGradient, int), int64_t vectors, int64_t octets, int64_t outputs,
                             const std::vector<int64_t>& taps, const std::vector<int>& geometry, int capability) {
  ConvGradient p{};
  p.conv = chain_of(vectors, octets, outputs, taps, geometry);
  const char* reason = why_not(p, capability);
  return reason ? reason : "";
}

template <class T>
static void define(py::module_& m) {
  auto array = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("kernel_net", &net<T>, py::arg("seed"), array("coords"), array("params"), py::arg("net"));
  m.def("kernel_net_backward", &net_backward<T>, py::arg("seed"), array("grad"), array("coords"), array("params"),
        py::arg("net"));
  m.def("relative_features", &features<T>, py::arg("seed"), array("v"), array("u"), array("params"), py::arg("group"),
        py::arg("chart"), py::arg("part"), py::arg("correlation"), py::arg("net"));
  m.def("relative_features_backward", &features_backward<T>, py::arg("seed"), array("grad"), array("v"), array("u"),
        array("params"), py::arg("group"), py::arg("chart"), py::arg("part"), py::arg("correlation"), py::arg("net"));
}

PYBIND11_MODULE(_emulated, m) {
  define<float>(m);
  define<double>(m);
  m.def("point_moments", &moments, py::arg("seed"), py::arg("f").noconvert(), py::arg("half"), py::arg("v").noconvert(),
        py::arg("u").noconvert(), py::arg("params").noconvert(), py::arg("group"), py::arg("chart"), py::arg("part"),
        py::arg("correlation"), py::arg("net"));
  m.def("point_list_moments", &list_moments, py::arg("seed"), py::arg("f").noconvert(), py::arg("half"), py::arg("v").noconvert(),
        py::arg("u").noconvert(), py::arg("params").noconvert(), py::arg("index").noconvert(), py::arg("rowptr").noconvert(),
        py::arg("first").noconvert(), py::arg("group"), py::arg("chart"), py::arg("part"), py::arg("correlation"), py::arg("net"));
  m.def("point_gradient", &moments_gradient, py::arg("seed"), py::arg("grad").noconvert(), py::arg("f").noconvert(),
        py::arg("half"), py::arg("factor").noconvert(), py::arg("v").noconvert(), py::arg("u").noconvert(),
        py::arg("params").noconvert(), py::arg("group"), py::arg("chart"), py::arg("part"), py::arg("correlation"), py::arg("net"),
        py::arg("capability"), py::arg("most_parts"));
  m.def("why_not_gradient", [](const std::string& group, const std::string& text, int64_t columns, bool exact,
                               int capability) {
    HalfType type = exact ? kFloat16Parts : kFloat16;
    const char* reason = why_not_gradient(type, parse_net(text), fields_of(group), columns, capability);
    return std::string(reason ? reason : "");
  });
  m.def("conv_chain", &convolution, py::arg("seed"), py::arg("f").noconvert(), py::arg("phi").noconvert(),
        py::arg("weight").noconvert(), py::arg("half"), py::arg("taps"), py::arg("geometry"), py::arg("samples_last"),
        py::arg("factor"), py::arg("capability"));
  m.def("group_last", [](unsigned seed, Array<uint16_t> f) { return samples_last(seed, f, nullptr); }, py::arg("seed"),
        py::arg("f").noconvert());
  m.def("scaled_group_last", [](unsigned seed, Array<float> f, float factor) { return samples_last(seed, f, &factor); },
        py::arg("seed"), py::arg("f").noconvert(), py::arg("factor"));
  m.def("why_not_chain", [](int64_t vectors, int64_t octets, int64_t outputs, const std::vector<int64_t>& taps,
                            const std::vector<int>& geometry, int capability) {
    const char* reason = why_not_chain(chain_of(vectors, octets, outputs, taps, geometry), capability);
    return std::string(reason ? reason : "");
  });
  m.def("conv_head_gradient", &head_gradient, py::arg("seed"), py::arg("grad").noconvert(), py::arg("f").noconvert(),
        py::arg("phi").noconvert(), py::arg("half"), py::arg("taps"), py::arg("geometry"), py::arg("capability"),
        py::arg("parts"));
  m.def("why_not_head_gradient", [](int64_t vectors, int64_t octets, int64_t outputs, const std::vector<int64_t>& taps,
                                    const std::vector<int>& geometry, int capability) {
    return reason_of(&why_not_head_gradient, vectors, octets, outputs, taps, geometry, capability);
  });
  m.def("conv_feature_gradient", &feature_gradient, py::arg("seed"), py::arg("grad").noconvert(), py::arg("f").noconvert(),
        py::arg("weight").noconvert(), py::arg("half"), py::arg("sets"), py::arg("samples"), py::arg("taps"), py::arg("geometry"),
        py::arg("capability"), py::arg("parts"));
  m.def("why_not_feature_gradient", [](int64_t vectors, int64_t octets, int64_t outputs, const std::vector<int64_t>& taps,
                                       const std::vector<int>& geometry, int capability) {
    return reason_of(&why_not_feature_gradient, vectors, octets, outputs, taps, geometry, capability);
  });
  m.def("conv_kernel_gradient", &kernel_gradient, py::arg("seed"), py::arg("grad").noconvert(), py::arg("f").noconvert(),
        py::arg("half"), py::arg("taps"), py::arg("geometry"), py::arg("capability"), py::arg("parts"));
  m.def("why_not_kernel_gradient", [](int64_t vectors, int64_t images, int64_t inputs, int64_t outputs, const std::vector<int64_t>& taps,
                                      const std::vector<int>& geometry, int capability) {
    ConvGradient p{};
    p.conv = chain_of(vectors, 1, outputs, taps, geometry);
    p.conv.B = images, p.conv.C = inputs;
    const char* reason = why_not_kernel_gradient(p, capability);
    return std::string(reason ? reason : "");
  });
  m.def("special", [](float x) {
    return std::make_tuple(emulator::sine(x), emulator::cosine(x), emulator::exp2(x), emulator::reciprocal(x));
  });
  m.def("why_not_moments", [](const std::string& text) {
    const char* reason = why_not_moments(parse_net(text));
    return std::string(reason ? reason : "");
  });
  // Rounding to 16 bits and back.
  m.def("round_to", [](bool half, Array<float> x) {
    Array<float> y(x.size());
    for (py::ssize_t k = 0; k < x.size(); ++k)
      y.mutable_data()[k] = half ? emulator::half_value(emulator::half_bits(x.data()[k]))
                                 : emulator::bfloat16_value(emulator::bfloat16_bits(x.data()[k]));
    return y;
  });
#if defined(__SANITIZE_ADDRESS__)
  m.attr("SANITIZED") = true;
#else
  m.attr("SANITIZED") = false;
#endif
  m.def("why_not_net", [](const std::string& text, int bytes) {
    const char* reason = why_not_net(parse_net(text), bytes);
    return std::string(reason ? reason : "");
  });
  // (reversed, sums over warps) of numbers in blocks of 64, by a kernel with a mistake.
  m.def("planted", [](unsigned seed, const std::string& mistake, Array<float> from) {
    static const std::vector<std::string> names{"none",           "missing barrier", "barrier for some",
                                                "two instructions", "reads unwritten", "past shared memory", "too much shared"};
    Host host(seed);
    Array<float> reversed(from.size()), sums(from.size() / 32);
    run_planted(host, index_of(mistake, names), from.size() / 64, {from.data(), reversed.mutable_data(), sums.mutable_data()});
    return std::make_tuple(reversed, sums);
  });
  // Words [4, 32] of matrices whose rows are those of [32, 4], the last one first; lanes wait for each other, or by mistake do not.
  m.def("planted_matrices", [](unsigned seed, bool waits, Array<uint32_t> from) {
    Host host(seed);
    Array<uint32_t> to({4, 32});
    run_planted_matrices(host, waits, {from.data(), to.mutable_data()});
    return to;
  });
  // Sums [128] over stages [8, 128, 4] of the first numbers that the next warp brings.
  m.def("planted_pipeline", [](unsigned seed, bool waits, Array<uint32_t> from) {
    Host host(seed);
    Array<uint32_t> to(128);
    run_planted_pipeline(host, waits, {from.data(), to.mutable_data()});
    return to;
  }, py::arg("seed"), py::arg("waits"), py::arg("from").noconvert());
  // [64, 32] of left [64, 128] and right [32, 128] in float16, by a kernel with a mistake.
  m.def("planted_product", [](unsigned seed, const std::string& mistake, Array<uint16_t> left, Array<uint16_t> right) {
    static const std::vector<std::string> names{"none",         "missing wait",     "missing begin", "missing fence",
                                                "missing turn", "registers reused", "buffer reused"};
    Host host(seed);
    host.capability = 90;
    Array<float> out({64, 32});
    run_planted_product(host, index_of(mistake, names), {left.data(), right.data(), out.mutable_data()});
    return out;
  });
}
