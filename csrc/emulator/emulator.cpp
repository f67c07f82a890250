#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <random>
#include <stdexcept>
#include <string>

namespace pgconv {
namespace emulator {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpgroup = 4 * kWarp;
constexpr int kMostThreads = 1024;
constexpr int kGranule = 16;  // the largest copy
constexpr size_t kStackBytes = 256 << 10;

// What a seed decides beside the order of threads: whether warps differ in speed, and whether copies come before they are waited for.
constexpr unsigned kUnequalWarps = 1, kEarlyCopies = 2;
// In rounds: for how long a warp is fast or slow, and how seldom a slow one runs.
constexpr int kEpoch = 256, kSlow = 64;

// Threads that wait for each other: all of a warp or of a block.
struct Meeting {
  int size = 0, arrived = 0;
  uint64_t round = 0;
  const char* name = nullptr;
  std::vector<void*> operands;
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  // What it waits for: the meeting has to pass this round.
  Meeting* meeting = nullptr;
  uint64_t round = 0;
  // Copies of the open group, and of those committed and not waited for.
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> committed;
  // Places of copies that were waited for and not fenced, in granules.
  std::vector<int64_t> unfenced;
  // Likewise products of its warpgroup.
  bool begun = false;
  std::vector<Product> products;
  std::deque<std::vector<Product>> committed_products;

  bool ready() const { return !done && (!meeting || meeting->round > round); }
};

class Block {
 public:
  Block(const Grid& grid, const std::function<void()>& body, unsigned seed) : grid(grid), early_copies(seed & kEarlyCopies), body_(body), unequal_warps_(seed & kUnequalWarps), random_(seed) {
    fibers_.resize(grid.threads);
    for (auto& fiber : fibers_) fiber.stack.reset(new char[kStackBytes]);
    warps_.resize((grid.threads + kWarp - 1) / kWarp);
    warpgroups_.resize(grid.threads / kWarpgroup);
  }

  void run(int64_t number);

  void meet(Meeting& meeting, int place, const char* name, void* operands, const std::function<void(Operands)>& step) {
    if (meeting.arrived == 0) meeting.name = name;
    if (std::strcmp(meeting.name, name) != 0)
      return stop("threads wait for each other in " + std::string(meeting.name) + " and in " + name);
    meeting.operands[place] = operands;
    Fiber& fiber = fibers_[current];
    fiber.meeting = &meeting;
    fiber.round = meeting.round;
    if (++meeting.arrived == meeting.size) {
      step(meeting.operands.data());
      meeting.arrived = 0;
      ++meeting.round;
    }
    // Who completes a meeting does not go on before the others by more than chance.
    leave();
    fiber.meeting = nullptr;
  }
  void sync_block() {
    meet(all_, current, "sync_block", nullptr, [](Operands) {});
  }
  Meeting& warp() { return warps_[current / kWarp]; }
  Meeting& warpgroup() { return warpgroups_.at(current / kWarpgroup); }
  Fiber& fiber() { return fibers_[current]; }
  void check_shared(const char* name, const void* p, int bytes) {
    auto* begin = static_cast<const unsigned char*>(p);
    bool inside = begin >= shared->get() && begin + bytes <= shared->get() + grid.shared;
    bool aligned = reinterpret_cast<uintptr_t>(p) % bytes == 0;
    if (!inside || !aligned) stop(std::string(name) + (inside ? ": address not aligned" : ": outside shared memory"));
  }

  // Counts copies to a place of shared memory that products may not read yet.
  void leave_unfenced(const Copy& copy) {
    const int64_t first = static_cast<unsigned char*>(copy.to) - shared->get();
    ++unfenced_[first / kGranule];
    fiber().unfenced.push_back(first / kGranule);
  }
  void fence() {
    for (int64_t at : fiber().unfenced) --unfenced_[at];
    fiber().unfenced.clear();
  }
  bool fenced(int64_t byte) const { return unfenced_[byte / kGranule] == 0; }

  [[noreturn]] void finish() {
    if (!fiber().products.empty() || !fiber().committed_products.empty()) stop("products that nobody waits for");
    fibers_[current].done = true;
    setcontext(&scheduler_);
    __builtin_unreachable();
  }
  // Ends the launch with an error; does not return to the thread.
  void stop(const std::string& message) {
    error_ = message;
    leave();
  }
  const std::function<void()>& body() const { return body_; }

  const Grid grid;
  const bool early_copies;
  int64_t number = 0;
  int current = 0;
  std::unique_ptr<Memory> shared;

 private:
  void leave() { swapcontext(&fibers_[current].context, &scheduler_); }
  void prepare();
  void hold_slow_warps(std::vector<int>& ready, int64_t round);

  const std::function<void()>& body_;
  const bool unequal_warps_;
  std::mt19937 random_;
  std::vector<bool> slow_;  // warps
  ucontext_t scheduler_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> warps_, warpgroups_;
  Meeting all_;
  std::vector<int> unfenced_;
  std::string error_;
};

Block* running = nullptr;

void start() {
  running->body()();
  running->finish();
}

void Block::prepare() {
  shared = std::make_unique<Memory>(grid.shared);
  unfenced_.assign(grid.shared / kGranule + 1, 0);
  all_ = Meeting{};
  all_.size = grid.threads;
  all_.operands.assign(grid.threads, nullptr);
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w] = Meeting{};
    warps_[w].size = std::min(kWarp, grid.threads - int(w) * kWarp);
    warps_[w].operands.assign(kWarp, nullptr);
  }
  for (auto& meeting : warpgroups_) {
    meeting = Meeting{};
    meeting.size = kWarpgroup;
    meeting.operands.assign(kWarpgroup, nullptr);
  }
  for (auto& fiber : fibers_) {
    fiber.done = false;
    fiber.meeting = nullptr;
    fiber.open.clear();
    fiber.committed.clear();
    fiber.unfenced.clear();
    fiber.begun = false;
    fiber.products.clear();
    fiber.committed_products.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
}

// Leaves out threads of slow warps, unless there are no others: fast ones run ahead as far as barriers let them.
void Block::hold_slow_warps(std::vector<int>& ready, int64_t round) {
  if (round % kEpoch == 0) {
    slow_.resize(warps_.size());
    for (size_t w = 0; w < slow_.size(); ++w) slow_[w] = random_() % 2;
  }
  if (round % kSlow == 0) return;
  auto slow = [this](int t) { return slow_[t / kWarp]; };
  if (!std::all_of(ready.begin(), ready.end(), slow)) ready.erase(std::remove_if(ready.begin(), ready.end(), slow), ready.end());
}

void Block::run(int64_t block_number) {
  number = block_number;
  prepare();
  std::vector<int> ready;
  for (int64_t round = 0;; ++round) {
    ready.clear();
    bool waiting = false;
    for (int t = 0; t < grid.threads; ++t) {
      if (fibers_[t].ready()) ready.push_back(t);
      waiting |= !fibers_[t].done;
    }
    if (!waiting) return;
    if (ready.empty()) {
      std::string places;
      for (const auto& fiber : fibers_)
        if (!fiber.done && places.find(fiber.meeting->name) == std::string::npos)
          places += std::string(places.empty() ? "" : ", ") + fiber.meeting->name;
      throw std::runtime_error("emulator: threads wait for ever in " + places);
    }
    if (unequal_warps_) hold_slow_warps(ready, round);
    // All that are ready run once, in random order, up to their next wait.
    std::shuffle(ready.begin(), ready.end(), random_);
    for (int t : ready) {
      current = t;
      swapcontext(&scheduler_, &fibers_[t].context);
      if (!error_.empty()) throw std::runtime_error("emulator: " + error_);
    }
  }
}

}  // namespace

Memory::Memory(int64_t bytes) : data_(static_cast<unsigned char*>(::operator new(bytes, kAlignment))) {
  std::memset(data_.get(), 0xff, bytes);
}

void launch(Machine& machine, Grid grid, const std::function<void()>& body) {
  const int shared = most_shared(machine.capability);
  if (grid.threads < 1 || grid.threads > kMostThreads || grid.shared > shared || grid.blocks < 0 || grid.blocks > INT32_MAX)
    throw std::runtime_error("emulator: not every GPU can launch this grid");
  if (running) throw std::runtime_error("emulator: a launch inside a launch");
  Block block(grid, body, static_cast<Host&>(machine).seed);
  running = &block;
  try {
    for (int64_t number = 0; number < grid.blocks; ++number) block.run(number);
  } catch (...) {
    running = nullptr;
    throw;
  }
  running = nullptr;
}

int thread() { return running->current; }
int threads() { return running->grid.threads; }
int64_t block() { return running->number; }
int64_t blocks() { return running->grid.blocks; }
unsigned char* shared_memory() { return running->shared->get(); }
void check_shared(const char* name, const void* p, int bytes) { running->check_shared(name, p, bytes); }
void sync_block() { running->sync_block(); }
void sync_warp() {
  together("sync_warp", nullptr, [](Operands) {});
}

void together(const char* name, void* operands, const std::function<void(Operands)>& step) {
  running->meet(running->warp(), running->current % kWarp, name, operands, step);
}

void value_of_lane(const void* value, void* result, int bytes, int source) {
  struct Lane {
    const void* value;
    void* result;
    int source;
  } own{value, result, source};
  together("value_of_lane", &own, [bytes](Operands lanes) {
    auto at = [&](int l) { return static_cast<Lane*>(lanes[l]); };
    for (int l = 0; l < kWarp; ++l)
      if (at(l) && at(at(l)->source)) std::memcpy(at(l)->result, at(at(l)->source)->value, bytes);
  });
}

namespace {

void carry_out(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, bool valid) {
  check_shared("copy_async", to, bytes);
  if (valid && reinterpret_cast<uintptr_t>(from) % bytes) running->stop("copy_async: address not aligned");
  const Copy copy{to, from, bytes, valid};
  if (running->early_copies) carry_out(copy);
  running->fiber().open.push_back(copy);
}
void commit_copies() {
  Fiber& fiber = running->fiber();
  fiber.committed.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void wait_copies(int pending) {
  auto& groups = running->fiber().committed;
  for (; int(groups.size()) > pending; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (!running->early_copies) carry_out(copy);
      running->leave_unfenced(copy);
    }
}

void begin_products() { running->fiber().begun = true; }
void fence_shared() { running->fence(); }
void multiply_add_later(const Product& product) {
  if (!running->fiber().begun) running->stop("a product without warpgroup_begin");
  running->fiber().products.push_back(product);
}
void commit_products() {
  Fiber& fiber = running->fiber();
  fiber.begun = false;
  fiber.committed_products.push_back(std::move(fiber.products));
  fiber.products.clear();
}

namespace {

// Numbers of a right operand's column: granules of its row of 128 bytes are turned by three bits of the address.
uint16_t right_number(const Product& product, int column, int k) {
  const unsigned char* base = shared_memory();
  int64_t at = product.rows - base + column * 128 + 2 * k;
  at ^= (at >> 7 & 7) << 4;
  if (!running->fenced(at)) running->stop("a product reads copies without fence_shared");
  uint16_t bits;
  std::memcpy(&bits, base + at, 2);
  return bits;
}

void multiply_add_now(const std::vector<const Product*>& of) {
  const Product& any = *of[0];
  auto value = any.wide ? bfloat16_value : half_value;
  std::vector<double> right(any.columns * 16);
  for (int n = 0; n < any.columns; ++n)
    for (int k = 0; k < 16; ++k) right[16 * n + k] = value(right_number(any, n, k));
  for (int w = 0; w < kWarpgroup / kWarp; ++w) {
    double left[16][16];
    for (int l = 0; l < kWarp; ++l)
      for (int n = 0; n < 4; ++n)
        for (int k = 0; k < 2; ++k)
          left[l / 4 + 8 * (n % 2)][l % 4 * 2 + k + 8 * (n / 2)] = value(uint16_t(of[w * kWarp + l]->left[n] >> (16 * k)));
    for (int l = 0; l < kWarp; ++l)
      for (int n = 0; n < any.columns / 2; ++n) {
        int row = l / 4 + 8 * (n / 2 % 2), column = n / 4 * 8 + l % 4 * 2 + n % 2;
        float& d = of[w * kWarp + l]->sums[n];
        double sum = any.adds ? d : 0.0f;
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[16 * column + k];
        d = toward_zero(sum);
      }
  }
}

}  // namespace

void wait_products(int pending) {
  if (running->current / kWarpgroup >= running->grid.threads / kWarpgroup) running->stop("wait_products: no whole warpgroup");
  running->meet(running->warpgroup(), running->current % kWarpgroup, "wait_products", &running->fiber().committed_products,
                [pending](Operands threads) {
                  auto groups = [&](int t) -> auto& { return *static_cast<std::deque<std::vector<Product>>*>(threads[t]); };
                  for (; int(groups(0).size()) > pending; [&] {
                         for (int t = 0; t < kWarpgroup; ++t) groups(t).pop_front();
                       }())
                    for (size_t k = 0; k < groups(0).front().size(); ++k) {
                      std::vector<const Product*> all;
                      for (int t = 0; t < kWarpgroup; ++t) {
                        if (groups(t).empty() || groups(t).front().size() <= k || !groups(t).front()[k].same(groups(0).front()[k]))
                          return running->stop("wait_products: threads of a warpgroup have different products");
                        all.push_back(&groups(t).front()[k]);
                      }
                      multiply_add_now(all);
                    }
                });
}

}  // namespace emulator
}  // namespace pgconv
