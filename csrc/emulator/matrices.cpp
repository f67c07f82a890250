// Matrix instructions of a warp.
#include <cmath>
#include <cstring>

#include "emulator.h"

namespace pgconv {
namespace emulator {

constexpr int kWarp = 32;

namespace {
uint32_t word(uint16_t low, uint16_t high) { return low | uint32_t(high) << 16; }
uint16_t part(uint32_t word, int k) { return uint16_t(word >> (16 * k)); }
}  // namespace

void load_matrices(uint32_t (&to)[4], const void* row, bool transposed) {
  check_shared("load_matrices", row, 16);
  // A lane reads its row when it comes, not when all have come: what others have not written yet is not there.
  struct Lane {
    uint16_t row[8];
    uint32_t* to;
  } own{{}, to};
  std::memcpy(own.row, row, 16);
  together(transposed ? "load_matrices_transposed" : "load_matrices", &own, [transposed](Operands lanes) {
    auto lane = [&](int l) { return static_cast<Lane*>(lanes[l]); };
    for (int m = 0; m < 4; ++m) {
      uint16_t matrix[8][8];
      for (int r = 0; r < 8; ++r) std::memcpy(matrix[r], lane(8 * m + r)->row, 16);
      for (int l = 0; l < kWarp; ++l) {
        int g = l / 4, t = l % 4;
        lane(l)->to[m] = transposed ? word(matrix[2 * t][g], matrix[2 * t + 1][g])
                                    : word(matrix[g][2 * t], matrix[g][2 * t + 1]);
      }
    }
  });
}

uint32_t transposed_matrix(uint32_t matrix) {
  struct Lane {
    uint32_t word;
  } own{matrix};
  together("transposed_matrix", &own, [](Operands lanes) {
    auto lane = [&](int l) { return static_cast<Lane*>(lanes[l]); };
    uint16_t all[8][8];
    for (int l = 0; l < kWarp; ++l)
      for (int k = 0; k < 2; ++k) all[l / 4][l % 4 * 2 + k] = part(lane(l)->word, k);
    for (int l = 0; l < kWarp; ++l) lane(l)->word = word(all[l % 4 * 2][l / 4], all[l % 4 * 2 + 1][l / 4]);
  });
  return own.word;
}

// GPUs cut off what they add to a sum.
float toward_zero(double x) {
  auto y = float(x);
  return std::fabs(double(y)) > std::fabs(x) ? std::nextafter(y, 0.0f) : y;
}

void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*value)(uint16_t)) {
  struct Lane {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
  } own{d, a, {b0, b1}};
  together("multiply_add", &own, [value](Operands lanes) {
    auto lane = [&](int l) { return static_cast<Lane*>(lanes[l]); };
    double left[16][16], right[16][8];
    for (int l = 0; l < kWarp; ++l) {
      int g = l / 4, t = l % 4;
      for (int k = 0; k < 2; ++k) {
        for (int n = 0; n < 4; ++n) left[g + 8 * (n % 2)][2 * t + k + 8 * (n / 2)] = value(part(lane(l)->a[n], k));
        for (int n = 0; n < 2; ++n) right[2 * t + k + 8 * n][g] = value(part(lane(l)->b[n], k));
      }
    }
    for (int l = 0; l < kWarp; ++l)
      for (int n = 0; n < 4; ++n) {
        int row = l / 4 + 8 * (n / 2), column = l % 4 * 2 + n % 2;
        double sum = lane(l)->d[n];
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        lane(l)->d[n] = toward_zero(sum);
      }
  });
}

}  // namespace emulator
}  // namespace pgconv
