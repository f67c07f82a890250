// Instruction-set levels: one table of kernels per level, the one in use chosen at run time.
#pragma once

#include "../common/conv_params.h"
#include "../common/params.h"
#include "../common/point_params.h"

namespace pgconv {

// Kernels for one number type. "packed" is a kernel net's parameters in the layout of the level's kernels, "totals"
// the sums of its parameter gradients in that layout; ranges [begin, end) count pairs in the order s, i, j.
template <class T>
struct Kernels {
  int64_t (*packed_size)(const NetShape&);
  int64_t (*totals_size)(const NetShape&);
  int64_t (*workspace_size)(const NetShape&);
  void (*pack)(const NetShape&, const T* params, T* packed);
  void (*unpack_totals)(const NetShape&, const T* params, const double* totals, T* grad_params);

  // coords [M, D] -> out [M, H]; the backward adds to totals.
  void (*net_forward)(const NetShape&, const T* packed, const T* coords, int64_t begin, int64_t end, T* workspace,
                      T* out);
  void (*net_backward)(const NetShape&, const T* packed, const T* coords, const T* grad, int64_t begin, int64_t end,
                       T* workspace, double* totals, T* grad_coords);

  // elements [n, e + orbit] <-> fields [orbit + fields, n]
  void (*prepare)(int group, int orbit, const T* elements, int64_t n, T* fields);
  void (*prepare_backward)(int group, int orbit, const T* elements, const double* grad_fields, int64_t n,
                           T* grad_elements);

  // out [S, Nu, Nv, H]; the backward adds to totals and to the gradients of the fields [fields, n].
  void (*features_forward)(const Features<T>&, const NetShape&, const T* packed, int64_t begin, int64_t end,
                           T* workspace, T* out);
  void (*features_backward)(const Features<T>&, const NetShape&, const T* packed, const T* grad, int64_t begin,
                            int64_t end, T* workspace, double* totals, double* grad_v, double* grad_u);

  ConvKernels<T> conv;
  PointKernels<T> point, point_values;

  // Multiply-adds on registers alone, for the machine's peak: FLOPs done.
  int64_t (*fma_loop)(int64_t rounds);

  // For tests: n values; and the coordinates [D, n] of relative(a_k, b_k) from fields [fields, n], n a multiple of
  // kTile, with the gradients of the fields.
  void (*activation)(int activation, int64_t n, const T* x, T* y, T* dy);
  void (*coordinates)(int group, int chart, int part, int64_t n, const T* a, const T* b, T* x);
  void (*coordinates_backward)(int group, int chart, int part, int64_t n, const T* a, const T* b, const T* grad, T* ga,
                               T* gb);
};

struct KernelTable {
  const char* level;
  GroupInfo groups[kGroupCount];
  Kernels<float> f32;
  Kernels<double> f64;
  int64_t (*bfloat16_loop)(int64_t rounds);  // as fma_loop
};

// Levels in ascending order. Those that the build left out are null.
constexpr int kLevels = 4;
const KernelTable* level_table(int level);

bool level_supported(int level);  // compiled in and runnable on this machine
int level_from_name(const char* name);  // -1 for an unknown name
const char* level_name(int level);
int current_level();  // the best supported one, or PGCONV_CPU_ISA if that names a supported one
void set_current_level(int level);

inline const KernelTable& kernels() { return *level_table(current_level()); }

template <class T>
const Kernels<T>& kernels_of(const KernelTable& table);
template <>
inline const Kernels<float>& kernels_of<float>(const KernelTable& table) { return table.f32; }
template <>
inline const Kernels<double>& kernels_of<double>(const KernelTable& table) { return table.f64; }

}  // namespace pgconv
