// What happens to the net of point_gradient.cuh before and after: its matrices as the kernel takes them, and the sum of what its
// warps have of the parameters' gradients.
#pragma once

#include "gradient_layout.cuh"

namespace pgconv {
namespace PGCONV_ISA {

// The second layer's matrix [width][width] in two parts, the first's [width][coords] in `parts`. With `power` the second is multiplied
// with a power of two first, which is written there, so that small weights keep their bits.
struct PackGradientNet {
  NetShape shape;
  const float* params;
  uint16_t *matrix, *first;
  float* power;
  int parts;

  PGCONV_EVERYWHERE int count() const { return kGradientWidth * (2 * kGradientWidth + parts * kGradientCoords); }
};

template <class E, class First>
PGCONV_KERNEL(256) pack_gradient_net(const PackGradientNet p) {
  constexpr int width = kGradientWidth, coords = kGradientCoords;
  int H = p.shape.hidden, D = p.shape.coord_dim;
  const float* hidden = p.params + H * (D + 1);
  float scale = p.shape.activation == kSin ? hidden[(p.shape.hidden_layers - 1) * H * (H + 1)] : 1.0f;
  float largest = 0;
  if (p.power && p.shape.hidden_layers > 1)
    for (int k = lane(); k < H * H; k += kWarp) largest = larger(largest, absolute(scale * hidden[k]));
  const float power = p.power ? power_for(largest) : 1.0f;
  if (p.power && block() == 0 && thread() == 0) *p.power = power;
  for (int k = int(block()) * threads() + thread(); k < p.count(); k += int(blocks()) * threads()) {
    if (int n = k - 2 * width * width; n >= 0) {
      int h = n / coords % width, c = n % coords;
      p.first[n] = part_of<First>(h < H && c < D ? scale * p.params[h * D + c] : 0.0f, n / (width * coords));
    } else {
      int h = k / width % width, c = k % width;
      bool inside = p.shape.hidden_layers > 1 && h < H && c < H;
      p.matrix[k] = part_of<E>(inside ? power * (scale * hidden[h * H + c]) : 0.0f, k / (width * width));
    }
  }
}

// Of the padded sums of all warps, in double: gradients with respect to the phases' parameters, and of the parameters. A lane has
// a parameter, a warp of the block some of the parts.
struct SumGradientNet {
  NetShape shape;
  int64_t parts;
  const float* sums;
  const float* params;
  double* totals;
  float* grad;

  PGCONV_EVERYWHERE int count() const {
    return shape.hidden * (shape.coord_dim + 1) + (shape.hidden_layers - 1) * shape.hidden * (shape.hidden + 1);
  }
};

constexpr int kSumWarps = 32;

PGCONV_KERNEL(kSumWarps * kWarp) sum_gradient_net(const SumGradientNet p) {
  constexpr int width = kGradientWidth;
  int H = p.shape.hidden, D = p.shape.coord_dim, first = H * (D + 1), count = p.count();
  auto* sums = shared_memory<double>();  // [warp][lane]
  int k = int(block()) * kWarp + lane();
  double sum = 0;
  if (k < count) {
    int n = k < first ? k : k - first, in = k < first ? D : H, from = k < first ? 0 : kGradientCoords * width;
    from += n < H * in ? n % in * width + n / in : in * width + (n - H * in);
    // The second layer's bias stands behind its padded matrix.
    if (k >= first && n >= H * in) from += (width - in) * width;
    for (int64_t q = warp(); q < p.parts; q += kSumWarps) sum += p.sums[q * kGradientParams + from];
  }
  sums[thread()] = sum;
  sync_block();
  if (warp() > 0 || k >= count) return;
  for (int w = 1; w < kSumWarps; ++w) sum += sums[w * kWarp + lane()];
  p.totals[k] = sum;
  p.grad[k] = float((p.shape.activation == kSin ? double(p.params[count]) : 1) * sum);
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
