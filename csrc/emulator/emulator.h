// A GPU on the host: every thread of a block is a fiber, the blocks run one after the other. It is there to find mistakes:
// - which thread runs next is drawn at random at every wait, from a seed, so that a missing barrier, of a block or of a warp, shows in
//   some schedule;
// - shared memory and workspaces begin as NaN, and have exactly the size asked for, so that the address sanitizer sees what
//   lies beyond;
// - by the seed warps run at one speed, or some far ahead of others, as far as barriers let them;
// - copies to shared memory and products of warpgroups are carried out when they are waited for, and not before (copies with every other
//   pair of seeds at once, since a GPU may do either); products begin behind
//   a warpgroup_begin(), read no copy that its thread has not fenced, and are waited for before their thread ends;
// - threads of a warp (block) that wait for each other in different places, or of which some never come, are an error;
// - a block that asks for more shared memory than the smallest GPU of its compute capability has is an error.
//
// Not modelled: the memory model between blocks, the order of unsynchronised accesses inside one instruction, time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "../cuda/machine.h"

namespace pgconv {
namespace emulator {

// As aligned as shared memory, and not a byte more than asked for. Begins as NaN, whatever it is read as.
class Memory {
 public:
  explicit Memory(int64_t bytes);
  unsigned char* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{1024};
  struct Delete {
    void operator()(unsigned char* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<unsigned char, Delete> data_;
};

// Memory of a driver's workspaces, and the seed of the schedule.
class Host : public Machine {
 public:
  explicit Host(unsigned seed = 0) : seed(seed) {}
  void check(int) override {}

  const unsigned seed;

 protected:
  void* allocate(int64_t bytes) override {
    memory_.emplace_back(bytes);
    return memory_.back().get();
  }

 private:
  std::vector<Memory> memory_;
};

// Runs body for every thread of the grid. Throws std::runtime_error where a kernel is wrong.
void launch(Machine& machine, Grid grid, const std::function<void()>& body);

// Inside a launch.
int thread();
int threads();
int64_t block();
int64_t blocks();
unsigned char* shared_memory();
// Stops the launch unless the bytes lie in the block's shared memory, on a boundary of their own number.
void check_shared(const char* name, const void* p, int bytes);
void sync_block();
void sync_warp();
// Each lane names the one whose value it takes; where there is none its result stays as it was.
void value_of_lane(const void* value, void* result, int bytes, int source);

// A step that the lanes of the calling thread's warp take together: each brings its operands, and when all are there `step` is
// called once with those of all lanes, in order. `name` tells instructions apart: lanes that meet in different ones are an
// error.
using Operands = void* const*;
void together(const char* name, void* operands, const std::function<void(Operands)>& step);

// Instructions, as ../cuda/device.h describes them.
void copy_async(void* to, const void* from, int bytes, bool valid);
void commit_copies();
void wait_copies(int pending);
void load_matrices(uint32_t (&to)[4], const void* row, bool transposed);
uint32_t transposed_matrix(uint32_t matrix);
// Products exact, their sum added in double, and cut off once to float32.
void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*value)(uint16_t));

float toward_zero(double x);

// A product of a warpgroup, see ../cuda/warpgroup.h: carried out at the wait for its group, with what registers and shared memory
// hold then.
struct Product {
  float* sums;
  const uint32_t* left;
  const unsigned char* rows;  // of the right operand, from the first number on
  int columns;
  bool wide;  // bfloat16
  bool adds;  // to what the sums were
  bool same(const Product& other) const {
    return rows == other.rows && columns == other.columns && wide == other.wide && adds == other.adds;
  }
};
void begin_products();
// What the thread has copied to shared memory may be read by products behind the next barrier.
void fence_shared();
void multiply_add_later(const Product& product);
void commit_products();
void wait_products(int pending);

// The special-function unit.
float sine(float x);
float cosine(float x);
float exp2(float x);
float reciprocal(float x);

uint16_t half_bits(float x);
float half_value(uint16_t bits);
uint16_t bfloat16_bits(float x);
float bfloat16_value(uint16_t bits);

}  // namespace emulator
}  // namespace pgconv
