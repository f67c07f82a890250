// Matrix instructions of a warpgroup, four consecutive warps: on GPUs of compute capability 9.0 (sm_90a), and on the emulator.
//
// They run beside the threads: what they read and write, registers and shared memory, is theirs until the wait for their group. A
// warp gives the 16 rows of the left operand that are its own, as for a warp's instruction; the right operand is read from shared
// memory, once for all four: rows of 64 numbers (128 bytes), one for each of its columns, whose granules of 16 bytes lie turned:
// granule k of row n at place k ^ (n % 8). Such rows begin on a boundary of 1024 bytes.
#pragma once

#include "device.h"

namespace pgconv {
namespace PGCONV_ISA {

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kWarpgroups = false;
#else
constexpr bool kWarpgroups = true;
#endif

#if defined(__CUDACC__)

// What cp.async and stores have written to shared memory is seen by the matrix instructions behind the next barrier.
PGCONV_DEVICE void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Registers written before are seen by the instructions behind.
PGCONV_DEVICE void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PGCONV_DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All groups but the last `pending`.
template <int pending>
PGCONV_DEVICE void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving what is done with a sum across.
template <int N>
PGCONV_DEVICE void hold_sums(float (&d)[N][4]) {
  PGCONV_UNROLL
  for (int n = 0; n < N; ++n)
    PGCONV_UNROLL
    for (int k = 0; k < 4; ++k) asm volatile("" : "+f"(d[n][k])::"memory");
}

// Of rows that begin at `rows` (a multiple of 1024), the 16 numbers at `bytes`.
PGCONV_DEVICE uint64_t right_operand(const void* rows, int bytes) {
  constexpr uint64_t turned = uint64_t(1) << 62, group = uint64_t(1024 >> 4) << 32;
  return uint64_t((shared_address(rows) + bytes) >> 4 & 0x3fff) | uint64_t(1) << 16 | group | turned;
}

#define PGCONV_TILE(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
// clang-format off
#define PGCONV_PRODUCT_64(type) \
  asm volatile( \
      "{ .reg .pred yes; setp.eq.u32 yes, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " \
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
          "%23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, yes, 1, 1, 0; }" \
      : \
          PGCONV_TILE(d[0]), PGCONV_TILE(d[1]), PGCONV_TILE(d[2]), PGCONV_TILE(d[3]), \
          PGCONV_TILE(d[4]), PGCONV_TILE(d[5]), PGCONV_TILE(d[6]), PGCONV_TILE(d[7]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define PGCONV_PRODUCT_128(type) \
  asm volatile( \
      "{ .reg .pred yes; setp.eq.u32 yes, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " \
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
          "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
          "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
          "{%64, %65, %66, %67}, %68, yes, 1, 1, 0; }" \
      : \
          PGCONV_TILE(d[0]), PGCONV_TILE(d[1]), PGCONV_TILE(d[2]), PGCONV_TILE(d[3]), \
          PGCONV_TILE(d[4]), PGCONV_TILE(d[5]), PGCONV_TILE(d[6]), PGCONV_TILE(d[7]), \
          PGCONV_TILE(d[8]), PGCONV_TILE(d[9]), PGCONV_TILE(d[10]), PGCONV_TILE(d[11]), \
          PGCONV_TILE(d[12]), PGCONV_TILE(d[13]), PGCONV_TILE(d[14]), PGCONV_TILE(d[15]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// clang-format on

// sums += left right, right of 8 N columns.
template <class E, int N>
PGCONV_DEVICE void warpgroup_multiply_add(float (&d)[N][4], const uint32_t (&a)[4], const void* rows, int bytes) {
  static_assert(N == 8 || N == 16, "other widths have other instructions");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const uint64_t b = right_operand(rows, bytes);
  if constexpr (N == 8) {
    if constexpr (E::wide)
      PGCONV_PRODUCT_64("bf16");
    else
      PGCONV_PRODUCT_64("f16");
  } else if constexpr (N == 16) {
    if constexpr (E::wide)
      PGCONV_PRODUCT_128("bf16");
    else
      PGCONV_PRODUCT_128("f16");
  }
#endif
}

#undef PGCONV_TILE
#undef PGCONV_PRODUCT_64
#undef PGCONV_PRODUCT_128

#else

PGCONV_DEVICE void fence_shared() {}
PGCONV_DEVICE void warpgroup_begin() {}
PGCONV_DEVICE void warpgroup_commit() { emulator::commit_products(); }
template <int pending>
PGCONV_DEVICE void warpgroup_wait() {
  emulator::wait_products(pending);
}
template <int N>
PGCONV_DEVICE void hold_sums(float (&)[N][4]) {}
template <class E, int N>
PGCONV_DEVICE void warpgroup_multiply_add(float (&d)[N][4], const uint32_t (&a)[4], const void* rows, int bytes) {
  emulator::multiply_add_later({d[0], a, static_cast<const unsigned char*>(rows) + bytes, 8 * N, E::wide});
}

#endif

}  // namespace PGCONV_ISA
}  // namespace pgconv
