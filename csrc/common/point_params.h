// What the kernels of the point convolution share with their host code. Only data, see params.h.
//
//     out[b, i, o] = sum_{j in N(i)} sum_{c, h} W[o, c, h] phi_h(v_j^-1 u_i) f[b, j, c] + sum_c bias[o, c] sum_{j in N(i)} f[b, j, c]
//
// (depthwise: W [C, H], bias [C], o = c.) Examples whose pairs are the same share their features: such examples are the
// images of one set.
//
// The adjoint, f's gradient from out's, has the same form with the elements, f and out, C and O exchanged, and the other
// form of relative elements; a problem with `adjoint` set reads the head as it is stored for the problem it came from.
#pragma once

#include "params.h"

namespace pgconv {

// Which inputs an output sums over. rowptr null: all. Otherwise output i of set s owns the pairs rowptr[s batch + i] to
// rowptr[s batch + i + 1], of inputs index[pair], or, with index null, of consecutive inputs from first[s batch + i].
struct Neighborhoods {
  const int64_t *rowptr, *index, *first;
  int64_t batch;  // Nu, or 0 where all sets have the same
};

template <class T>
struct PointProblem {
  Features<T> elements;
  NetShape net;
  Neighborhoods pairs;
  int64_t B, C, O;
  int64_t sets;  // B, or 1: examples share their pairs
  bool depthwise, bias, adjoint;
  const T* f;     // [B, Nv, C]
  const T* grad;  // [B, Nu, O], operand of the gradients
  const T* params;                // packed, see kernel_net_impl.h
  const T *head, *head_adjoint;  // packed, see point_conv_impl.h

  int64_t images() const { return B / sets; }
};

// What a backward kernel computes: the gradients of f, of the features (v, u and the net's parameters), of the head, and
// the outputs themselves, which for an adjoint problem are a gradient.
struct PointNeeds {
  bool f, features, head, outputs;
  bool moments() const { return head || outputs; }
};

// Where one worker puts its part of the gradients; what several of them share they do not write at the same time.
template <class T>
struct PointSums {
  T* f;             // [B, Nv, C]
  double *v, *u;    // fields [fields, n]
  double* params;   // totals, see kernel_net_impl.h
  T* head;          // packed as head_adjoint
  T* outputs;       // [B, Nu, O]
};

template <class T>
struct PointKernels {
  int64_t (*rows)(const PointProblem<T>&);  // outputs taken together
  int64_t (*head_size)(const PointProblem<T>&);
  int64_t (*head_adjoint_size)(const PointProblem<T>&);
  void (*pack_head)(const PointProblem<T>&, const T* weight, const T* bias, T* to);
  void (*pack_head_adjoint)(const PointProblem<T>&, const T* weight, const T* bias, T* to);
  // Gradients of weight and bias from sums packed as head_adjoint.
  void (*unpack_head)(const PointProblem<T>&, const T* sums, T* grad_weight, T* grad_bias);
  // Outputs [begin, end) of a set.
  int64_t (*forward_workspace)(const PointProblem<T>&);
  void (*forward)(const PointProblem<T>&, int64_t s, int64_t begin, int64_t end, T* workspace, T* out);
  int64_t (*backward_workspace)(const PointProblem<T>&);
  void (*backward)(const PointProblem<T>&, PointNeeds, int64_t s, int64_t begin, int64_t end, T* workspace,
                   PointSums<T>);
};

}  // namespace pgconv
