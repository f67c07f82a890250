// How much work of a kernel is cut into parts whose results are added up.
#pragma once

#include <cstdint>

namespace pgconv {

// Blocks that keep any GPU busy, and of which the largest ones take a whole number at a time. More parts than it takes to reach
// them would only add partial sums; the number depends on the shape alone, and so do the results.
constexpr int64_t kEnoughBlocks = 264;

// Matrix instructions cut off what they add to their sums, 16 terms at a time, so a sum in them must not be long: 256 of them lose
// at most 2^-16 of a sum without cancellation. Partial sums are added up in float32, rounded.
constexpr int64_t kMostTerms = 4096;

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// `count` things in parts that are multiples of `unit`, none below `least`, so many that `blocks` times the parts are enough:
// just below a multiple of that number, if twice the parts get there, so that the last blocks do not run alone.
struct Parts {
  int64_t parts, size;
  // At most `limit` parts, unless it is 0 or one part is too long.
  Parts(int64_t count, int64_t blocks, int64_t least, int64_t unit, int64_t limit = 0) {
    if (blocks < 1) blocks = 1;
    if (limit > 0 && least < ceil_div(count, limit)) least = ceil_div(count, limit);
    int64_t most = ceil_div(count, least), enough = ceil_div(kEnoughBlocks, blocks), best = 1;
    for (int64_t n = 2; n <= most && n <= 2 * enough; ++n)
      if (100 * busy(n * blocks) > 103 * busy(best * blocks)) best = n;
    size = count > 0 ? ceil_div(ceil_div(count, best), unit) * unit : unit;
    if (size > kMostTerms) size = kMostTerms;
    parts = count > 0 ? ceil_div(count, size) : 1;
  }

 private:
  // Of the time that so many equal blocks take, the part in which all are busy, in 1 / 10000.
  static int64_t busy(int64_t blocks) { return 10000 * blocks / (ceil_div(blocks, kEnoughBlocks) * kEnoughBlocks); }
};

}  // namespace pgconv
