// The machine that kernels are written for, and the only place where the two that exist differ: a GPU, whose instructions
// these functions are, and the emulator (../emulator), which carries them out on the host, so that tests run the very same
// kernels where there is no GPU.
//
// A kernel takes one struct by value. Blocks have one dimension and no more than 1024 threads; a warp is 32 of them.
//
// Matrix instructions: a lane l = 4 g + t of a warp holds of an 8 x 8 matrix of 16-bit numbers the two at (g, 2 t), (g, 2 t + 1),
// in one word. Of a 16 x 16 left operand it holds four such words, of the matrices (0, 0), (8, 0), (0, 8), (8, 8); of a right
// operand, 16 deep and 8 wide, two words of (k, n) = (2 t, g), (2 t + 1, g), and of (2 t + 8, g), (2 t + 9, g); of the sums
// those at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
#pragma once

#include "../common/numeric.h"
#include "machine.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// One block for a multiprocessor is enough: without the 1 the compiler may spill to make room for two.
#define PGCONV_KERNEL(threads) PGCONV_KERNEL_PER(threads, 1)
// With registers for so many blocks on a multiprocessor.
#define PGCONV_KERNEL_PER(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define PGCONV_DEVICE static __device__ __forceinline__
#define PGCONV_MEMBER __device__ __forceinline__
#else
#include "../emulator/emulator.h"
#define PGCONV_KERNEL(threads) void
#define PGCONV_KERNEL_PER(threads, blocks) void
#define PGCONV_DEVICE static inline
#define PGCONV_MEMBER inline
#endif

namespace pgconv {
namespace PGCONV_ISA {

constexpr int kWarp = 32;

// What moves together.
struct alignas(16) FourWords {
  uint32_t word[4];
};
struct alignas(8) TwoNumbers {
  float number[2];
};

#if defined(__CUDACC__)

PGCONV_DEVICE int thread() { return threadIdx.x; }
PGCONV_DEVICE int threads() { return blockDim.x; }
PGCONV_DEVICE int64_t block() { return blockIdx.x; }
PGCONV_DEVICE int64_t blocks() { return gridDim.x; }
// The same, but what is computed from them is computed here, and kept in no register from before.
PGCONV_DEVICE int thread_anew() {
  int number;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
  return number;
}
PGCONV_DEVICE int64_t block_anew() {
  int number;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(number));
  return number;
}

// The block's memory, of as many bytes as it was launched with.
template <class T>
PGCONV_DEVICE T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

PGCONV_DEVICE void sync_block() { __syncthreads(); }
// Memory written by lanes of the warp before is seen by its lanes after.
PGCONV_DEVICE void sync_warp() { __syncwarp(); }
// The value of the lane whose number differs in the bits of `mask`.
template <class T>
PGCONV_DEVICE T exchange(T x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
// The value of that lane.
template <class T>
PGCONV_DEVICE T value_of_lane(T x, int source) {
  return __shfl_sync(0xffffffffu, x, source);
}

PGCONV_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// `bytes` (4 or 16, which both addresses are multiples of) on their way into shared memory, or zeros where not valid. They are
// there after the wait for their group, for the thread itself, and after a barrier for others.
template <int bytes>
PGCONV_DEVICE void copy_async(void* to, const void* from, bool valid) {
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0));
}
PGCONV_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
// All groups but the last `pending`.
template <int pending>
PGCONV_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four matrices from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
PGCONV_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
PGCONV_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
PGCONV_DEVICE uint32_t transposed_matrix(uint32_t matrix) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
  return result;
}

PGCONV_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
PGCONV_DEVICE float number_of(uint32_t bits) { return __uint_as_float(bits); }
// A word of the high halves of two.
PGCONV_DEVICE uint32_t high_halves(uint32_t low, uint32_t high) { return __byte_perm(low, high, 0x7632); }

struct Half {
  static constexpr bool wide = false;  // of range
  PGCONV_DEVICE uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  // Of the two numbers of a word, the k-th.
  PGCONV_DEVICE float value(uint32_t word, int k) { return __half2float(__ushort_as_half(uint16_t(word >> (16 * k)))); }
  // sums += left right
  PGCONV_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  // The same with operands of half the depth: the first words.
  PGCONV_DEVICE void multiply_add_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
  }
};
struct Bfloat16 {
  static constexpr bool wide = true;
  PGCONV_DEVICE uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  PGCONV_DEVICE float value(uint32_t word, int k) { return __uint_as_float(k ? word & 0xffff0000u : word << 16); }
  PGCONV_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  // The same with operands of half the depth: the first words.
  PGCONV_DEVICE void multiply_add_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
  }
};

// The special-function unit's. The sine has an absolute error of about 1e-6 + 1.6e-7 |x|: its argument is multiplied by 1 / 2 pi
// and cut off.
PGCONV_DEVICE float fast_sine(float x) {
  float y;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PGCONV_DEVICE float fast_cosine(float x) {
  float y;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PGCONV_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PGCONV_DEVICE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class P>
void launch(Machine& machine, void (*kernel)(P), Grid grid, const P& p) {
  if (grid.blocks == 0) return;
  if (grid.shared > kSharedBytes)
    machine.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared));
  kernel<<<dim3(unsigned(grid.blocks)), grid.threads, grid.shared, static_cast<cudaStream_t>(machine.stream)>>>(p);
  machine.check(cudaGetLastError());
}

#else

PGCONV_DEVICE int thread() { return emulator::thread(); }
PGCONV_DEVICE int threads() { return emulator::threads(); }
PGCONV_DEVICE int64_t block() { return emulator::block(); }
PGCONV_DEVICE int64_t blocks() { return emulator::blocks(); }
PGCONV_DEVICE int thread_anew() { return thread(); }
PGCONV_DEVICE int64_t block_anew() { return block(); }

template <class T>
PGCONV_DEVICE T* shared_memory() {
  return reinterpret_cast<T*>(emulator::shared_memory());
}

PGCONV_DEVICE void sync_block() { emulator::sync_block(); }
PGCONV_DEVICE void sync_warp() { emulator::sync_warp(); }
template <class T>
PGCONV_DEVICE T value_of_lane(T x, int source) {
  T result;
  emulator::value_of_lane(&x, &result, sizeof(T), source);
  return result;
}
template <class T>
PGCONV_DEVICE T exchange(T x, int mask) {
  return value_of_lane(x, thread() % kWarp ^ mask);
}

template <int bytes>
PGCONV_DEVICE void copy_async(void* to, const void* from, bool valid) {
  static_assert(bytes == 4 || bytes == 16, "no such copy");
  emulator::copy_async(to, from, bytes, valid);
}
PGCONV_DEVICE void commit_copies() { emulator::commit_copies(); }
template <int pending>
PGCONV_DEVICE void wait_copies() {
  emulator::wait_copies(pending);
}

PGCONV_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) { emulator::load_matrices(to, row, false); }
PGCONV_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) { emulator::load_matrices(to, row, true); }
PGCONV_DEVICE uint32_t transposed_matrix(uint32_t matrix) { return emulator::transposed_matrix(matrix); }

PGCONV_DEVICE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
PGCONV_DEVICE float number_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
PGCONV_DEVICE uint32_t high_halves(uint32_t low, uint32_t high) { return low >> 16 | (high & 0xffff0000u); }

struct Half {
  static constexpr bool wide = false;  // of range
  PGCONV_DEVICE uint32_t pack(float low, float high) {
    return emulator::half_bits(low) | uint32_t(emulator::half_bits(high)) << 16;
  }
  PGCONV_DEVICE float value(uint32_t word, int k) { return emulator::half_value(uint16_t(word >> (16 * k))); }
  PGCONV_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::multiply_add(d, a, b0, b1, emulator::half_value);
  }
  PGCONV_DEVICE void multiply_add_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b) {
    emulator::multiply_add(d, {a[0], a[1], 0, 0}, b, 0, emulator::half_value);
  }
};
struct Bfloat16 {
  static constexpr bool wide = true;
  PGCONV_DEVICE uint32_t pack(float low, float high) {
    return emulator::bfloat16_bits(low) | uint32_t(emulator::bfloat16_bits(high)) << 16;
  }
  PGCONV_DEVICE float value(uint32_t word, int k) { return emulator::bfloat16_value(uint16_t(word >> (16 * k))); }
  PGCONV_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::multiply_add(d, a, b0, b1, emulator::bfloat16_value);
  }
  PGCONV_DEVICE void multiply_add_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b) {
    emulator::multiply_add(d, {a[0], a[1], 0, 0}, b, 0, emulator::bfloat16_value);
  }
};

PGCONV_DEVICE float fast_sine(float x) { return emulator::sine(x); }
PGCONV_DEVICE float fast_cosine(float x) { return emulator::cosine(x); }
PGCONV_DEVICE float fast_exp2(float x) { return emulator::exp2(x); }
PGCONV_DEVICE float fast_reciprocal(float x) { return emulator::reciprocal(x); }

template <class P>
void launch(Machine& machine, void (*kernel)(P), Grid grid, const P& p) {
  emulator::launch(machine, grid, [kernel, &p] { kernel(p); });
}

#endif

PGCONV_DEVICE int lane() { return thread() % kWarp; }
PGCONV_DEVICE int warp() { return thread() / kWarp; }

// Sum over the lanes of a warp, the same bits in all of them.
template <class T>
PGCONV_DEVICE T sum_of_lanes(T x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += exchange(x, mask);
  return x;
}

}  // namespace PGCONV_ISA
}  // namespace pgconv
