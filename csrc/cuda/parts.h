// How much work of a kernel is cut into parts whose results are added up.
#pragma once

#include <cstdint>

namespace pgconv {

// Blocks that keep any GPU busy. More parts than it takes to reach them would only add partial sums; the number depends on the
// shape alone, and so do the results.
constexpr int64_t kEnoughBlocks = 264;

// Matrix instructions cut off what they add to their sums, 16 terms at a time, so a sum in them must not be long: 256 of them lose
// at most 2^-16 of a sum without cancellation. Partial sums are added up in float32, rounded.
constexpr int64_t kMostTerms = 4096;

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// `count` things in parts that are multiples of `unit`, so many that `blocks` times the parts are enough, none below `least`.
struct Parts {
  int64_t parts, size;
  Parts(int64_t count, int64_t blocks, int64_t least, int64_t unit) {
    int64_t most = ceil_div(count, least), wanted = ceil_div(kEnoughBlocks, blocks > 0 ? blocks : 1);
    int64_t n = wanted < most ? wanted : most;
    size = n > 0 ? ceil_div(ceil_div(count, n), unit) * unit : unit;
    if (size > kMostTerms) size = kMostTerms;
    parts = count > 0 ? ceil_div(count, size) : 1;
  }
};

}  // namespace pgconv
