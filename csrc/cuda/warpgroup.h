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

// Places of 16, 32, and 64 sums in an instruction, and what lies there: 4, 8, and 16 tiles of 8 columns.
#define PGCONV_PLACES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PGCONV_PLACES_32 PGCONV_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PGCONV_PLACES_64 \
  PGCONV_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
                   ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PGCONV_TILE(k) "+f"(d[k][0]), "+f"(d[k][1]), "+f"(d[k][2]), "+f"(d[k][3])
#define PGCONV_TILES_4(k) PGCONV_TILE(k), PGCONV_TILE(k + 1), PGCONV_TILE(k + 2), PGCONV_TILE(k + 3)
#define PGCONV_TILES_8(k) PGCONV_TILES_4(k), PGCONV_TILES_4(k + 4)
#define PGCONV_TILES_16(k) PGCONV_TILES_8(k), PGCONV_TILES_8(k + 8)
// The places behind those of the sums: the left operand's, the right one's, and whether sums are added to.
#define PGCONV_PRODUCT(type, columns, places, left, right, adds, ...) \
  asm volatile("{ .reg .pred more; setp.ne.u32 more, " adds ", 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type \
               "." type " {" places "}, {" left "}, " right ", more, 1, 1, 0; }" \
               : __VA_ARGS__ \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds_to)))
#define PGCONV_PRODUCT_4(type) \
  PGCONV_PRODUCT(type, "32", PGCONV_PLACES_16, "%16, %17, %18, %19", "%20", "%21", PGCONV_TILES_4(0))
#define PGCONV_PRODUCT_8(type) \
  PGCONV_PRODUCT(type, "64", PGCONV_PLACES_32, "%32, %33, %34, %35", "%36", "%37", PGCONV_TILES_8(0))
#define PGCONV_PRODUCT_16(type) \
  PGCONV_PRODUCT(type, "128", PGCONV_PLACES_64, "%64, %65, %66, %67", "%68", "%69", PGCONV_TILES_16(0))
#define PGCONV_PRODUCT_OF(N) \
  if constexpr (E::wide) \
    PGCONV_PRODUCT_##N("bf16"); \
  else \
    PGCONV_PRODUCT_##N("f16")

// sums += left right, or sums = left right; right of 8 N columns.
template <class E, int N>
PGCONV_DEVICE void warpgroup_multiply_add(float (&d)[N][4], const uint32_t (&a)[4], const void* rows, int bytes,
                                          bool adds_to = true) {
  static_assert(N == 4 || N == 8 || N == 16, "other widths have other instructions");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const uint64_t b = right_operand(rows, bytes);
  if constexpr (N == 4) {
    PGCONV_PRODUCT_OF(4);
  } else if constexpr (N == 8) {
    PGCONV_PRODUCT_OF(8);
  } else {
    PGCONV_PRODUCT_OF(16);
  }
#endif
}

#undef PGCONV_PLACES_16
#undef PGCONV_PLACES_32
#undef PGCONV_PLACES_64
#undef PGCONV_TILE
#undef PGCONV_TILES_4
#undef PGCONV_TILES_8
#undef PGCONV_TILES_16
#undef PGCONV_PRODUCT
#undef PGCONV_PRODUCT_4
#undef PGCONV_PRODUCT_8
#undef PGCONV_PRODUCT_16
#undef PGCONV_PRODUCT_OF

#else

PGCONV_DEVICE void fence_shared() { emulator::fence_shared(); }
PGCONV_DEVICE void warpgroup_begin() { emulator::begin_products(); }
PGCONV_DEVICE void warpgroup_commit() { emulator::commit_products(); }
template <int pending>
PGCONV_DEVICE void warpgroup_wait() {
  emulator::wait_products(pending);
}
template <int N>
PGCONV_DEVICE void hold_sums(float (&)[N][4]) {}
template <class E, int N>
PGCONV_DEVICE void warpgroup_multiply_add(float (&d)[N][4], const uint32_t (&a)[4], const void* rows, int bytes,
                                          bool adds_to = true) {
  emulator::multiply_add_later({d[0], a, static_cast<const unsigned char*>(rows) + bytes, 8 * N, E::wide, adds_to});
}

#endif

}  // namespace PGCONV_ISA
}  // namespace pgconv
