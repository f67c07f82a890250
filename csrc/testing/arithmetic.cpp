// Test-only module: the arithmetic of every instruction-set level on numpy arrays, so that it can be compared with
// higher precision without going through an op. Needs neither torch nor a GPU.
#include <tuple>

#include "../cpu/isa.h"
#include "names.h"

namespace py = pybind11;
using namespace pgconv;

static const KernelTable& table_of(const std::string& level) {
  int index = level_from_name(level.c_str());
  if (index < 0 || !level_supported(index)) throw std::invalid_argument("unsupported level " + level);
  return *level_table(index);
}

// Value and derivative; for "sin" the argument is in half turns and the derivative is the cosine.
template <class T>
static std::tuple<Array<T>, Array<T>> activation(const std::string& level, const std::string& name, Array<T> x) {
  Array<T> y(x.size()), dy(x.size());
  kernels_of<T>(table_of(level))
      .activation(index_of(name, kActivations), x.size(), x.data(), y.mutable_data(), dy.mutable_data());
  return {y, dy};
}

struct GroupCall {
  int group, chart, part;
  GroupCall(const KernelTable& table, const std::string& g, const std::string& c, const std::string& p)
      : group(-1), chart(index_of(c, kCharts)), part(index_of(p, kParts)) {
    for (int k = 0; k < kGroupCount; ++k)
      if (g == table.groups[k].name) group = k;
    if (group < 0 || table.groups[group].stabilizer_coords[chart] < 0) throw std::invalid_argument(g + " " + c);
  }
};

// Elements a, b [n, e] -> coordinates [D, n] of a^-1 b; n must be a multiple of the tile.
template <class T>
static std::vector<T> prepare(const KernelTable& table, int group, const Array<T>& elements) {
  int64_t n = elements.shape(0);
  if (n % kTile || elements.shape(1) != table.groups[group].element) throw std::invalid_argument("shape of elements");
  std::vector<T> fields(n * table.groups[group].fields);
  kernels_of<T>(table).prepare(group, 0, elements.data(), n, fields.data());
  return fields;
}

template <class T>
static Array<T> coordinates(const std::string& level, const std::string& group, const std::string& chart,
                            const std::string& part, Array<T> a, Array<T> b) {
  const KernelTable& table = table_of(level);
  GroupCall call(table, group, chart, part);
  auto fa = prepare(table, call.group, a), fb = prepare(table, call.group, b);
  const GroupInfo& info = table.groups[call.group];
  int64_t D = (call.part == kStabilizer ? 0 : info.translation) +
              (call.part == kTranslation ? 0 : info.stabilizer_coords[call.chart]);
  Array<T> x({D, int64_t(a.shape(0))});
  kernels_of<T>(table).coordinates(call.group, call.chart, call.part, a.shape(0), fa.data(), fb.data(),
                                   x.mutable_data());
  return x;
}

template <class T>
static std::tuple<Array<T>, Array<T>> coordinates_backward(const std::string& level, const std::string& group,
                                                           const std::string& chart, const std::string& part,
                                                           Array<T> a, Array<T> b, Array<T> grad) {
  const KernelTable& table = table_of(level);
  GroupCall call(table, group, chart, part);
  auto fa = prepare(table, call.group, a), fb = prepare(table, call.group, b);
  std::vector<T> ga(fa.size()), gb(fb.size());
  int64_t n = a.shape(0), element = a.shape(1);
  const auto& k = kernels_of<T>(table);
  k.coordinates_backward(call.group, call.chart, call.part, n, fa.data(), fb.data(), grad.data(), ga.data(),
                         gb.data());
  Array<T> out_a({n, element}), out_b({n, element});
  k.prepare_backward(call.group, 0, a.data(), std::vector<double>(ga.begin(), ga.end()).data(), n, out_a.mutable_data());
  k.prepare_backward(call.group, 0, b.data(), std::vector<double>(gb.begin(), gb.end()).data(), n, out_b.mutable_data());
  return {out_a, out_b};
}

template <class T>
static void define(py::module_& m) {
  m.def("activation", &activation<T>, py::arg("level"), py::arg("name"), py::arg("x").noconvert());
  m.def("coordinates", &coordinates<T>, py::arg("level"), py::arg("group"), py::arg("chart"), py::arg("part"),
        py::arg("a").noconvert(), py::arg("b").noconvert());
  m.def("coordinates_backward", &coordinates_backward<T>, py::arg("level"), py::arg("group"), py::arg("chart"),
        py::arg("part"), py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("grad").noconvert());
}

PYBIND11_MODULE(_testing, m) {
  define<float>(m);
  define<double>(m);
  m.def("levels", [] {
    std::vector<std::string> names;
    for (int k = 0; k < kLevels; ++k)
      if (level_supported(k)) names.push_back(level_name(k));
    return names;
  });
  m.attr("TILE") = kTile;
}
