// The kernel net on the tiles of a point convolution: features of a tile's pairs from its elements, and the way back.
#pragma once

#include "point_pairs_impl.h"

namespace pgconv {
namespace PGCONV_ISA {

template <class T>
class PairNet {
 public:
  using Problem = PointProblem<T>;
  // Where features lie that are not recorded, and the net's own memory.
  struct Memory {
    typename Net<T>::Workspace net;
    T* phi;
    Memory(Arena<T>& arena, const Problem& p) {
      auto layout = NetLayout<T>::of(p.net);
      net = Net<T>::Workspace::of(layout, arena.take(layout.workspace_size()));
      phi = arena.take(kTile * layout.width);
    }
  };

  // `recorded` keeps of every tile what its gradients need.
  PairNet(const Problem& p, const Memory& memory, bool recorded)
      : layout(NetLayout<T>::of(p.net)),
        problem_(p),
        net_(memory.net),
        elements_(p, memory.net.pairs),
        evaluate_(recorded ? nullptr : Net<T>::evaluate_for(p.net.activation)),
        record_(recorded ? Net<T>::record_for(p.net.activation) : nullptr),
        phi_(recorded ? Net<T>::features(layout, net_.buffers, layout.shape.hidden_layers - 1) : memory.phi) {
    if (recorded) __builtin_memset(net_.sums, 0, sizeof(T) * layout.totals_size());
  }

  // Features [kTile][width] of a tile.
  const T* features(int64_t s, const PairTile& tile) const {
    elements_.coordinates(problem_, s, tile, net_.x);
    if (record_)
      record_(layout, problem_.params, net_.x, net_.buffers);
    else
      evaluate_(layout, problem_.params, net_.x, net_.buffers, phi_);
    return phi_;
  }

  // Gradient of the recorded tile's last phases, to be written before reverse(), and what it is multiplied with.
  T* gradient() const { return Net<T>::gradient(layout, net_.buffers); }
  const T* slopes() const { return Net<T>::slopes(layout, net_.buffers, layout.shape.hidden_layers - 1); }

  // Gradients of the recorded tile's elements, and of the parameters, which flush() adds to the worker's.
  void reverse(int64_t s, const PairTile& tile, const PointSums<T>& sums) const {
    __builtin_memset(gradient() + tile.count * layout.width, 0, sizeof(T) * (kTile - tile.count) * layout.width);
    Net<T>::reverse(layout, problem_.params, net_.x, net_.buffers, net_.sums, net_.gx);
    elements_.coordinates_backward(problem_, s, tile, net_.gx, sums.v, sums.u);
  }
  void flush(const PointSums<T>& sums) const {
    if (record_) Net<T>::flush(layout, net_.sums, sums.params);
  }

  const NetLayout<T> layout;

 private:
  const Problem& problem_;
  typename Net<T>::Workspace net_;
  typename Pairs<T>::Elements elements_;
  typename Net<T>::Evaluate evaluate_;
  typename Net<T>::Record record_;
  T* phi_;
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
