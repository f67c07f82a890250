#include "half_net.cuh"

namespace pgconv {
namespace PGCONV_ISA {

struct PackHalfNet {
  NetShape shape;
  int width;
  bool exact;
  const float* params;
  uint16_t* rows;
  uint16_t* matrices;
  float* biases;
};

PGCONV_KERNEL(256) pack_half_net(const PackHalfNet p) {
  int H = p.shape.hidden, D = p.shape.coord_dim, width = p.width, further = p.shape.hidden_layers - 1;
  int64_t matrices = int64_t(further) * width * width, biases = int64_t(further) * width;
  const float* hidden = p.params + H * (D + 1);
  double omega = p.shape.activation == kSin ? hidden[int64_t(further) * H * (H + 1)] : 1.0;
  auto scale = float(p.shape.activation == kSin && p.exact ? omega * Act<kSin>::kScale : omega);
  int slots = 16 * row_steps(D);
  int64_t rows = int64_t(width) * slots;
  for (int64_t k = block() * threads() + thread(); k < rows + 2 * matrices + biases; k += blocks() * threads()) {
    if (int64_t n = k - rows - 2 * matrices; n >= 0) {
      int64_t l = n / width, h = n % width;
      p.biases[n] = h < H ? scale * hidden[l * H * (H + 1) + H * H + h] : 0.0f;
    } else if (int64_t n = k - rows; n >= 0) {
      int64_t l = n % matrices / (width * width), row = n / width % width, column = n % width;
      float weight = row < H && column < H ? scale * hidden[l * H * (H + 1) + row * H + column] : 0.0f;
      p.matrices[n] = part_of<Half>(weight, int(n / matrices));
    } else {
      int64_t h = k / slots, d = k % slots / 8;
      float weight = h < H && d < D ? scale * p.params[h * D + d] : 0.0f;
      float bias = h < H ? scale * p.params[H * D + h] : 0.0f;
      p.rows[k] = weight_slot(weight, bias, int(d), int(k % 8));
    }
  }
}

HalfNet packed_half_net(Machine& machine, const NetShape& shape, int width, bool split, bool exact, const float* params) {
  int further = shape.hidden_layers - 1, slots = 16 * row_steps(shape.coord_dim);
  PackHalfNet pack{shape, width, exact, params, machine.take<uint16_t>(width * slots),
                   machine.take<uint16_t>(2 * int64_t(further) * width * width), machine.take<float>(further * width)};
  launch(machine, pack_half_net, grid_for(int64_t(width) * (slots + further * (2 * width + 1))), pack);
  return {shape, width, split, pack.rows, pack.matrices, pack.biases};
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
