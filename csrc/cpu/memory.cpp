#include "memory.h"

#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace pgconv {
namespace {

constexpr size_t kLargePage = size_t(2) << 20;

struct Block {
  void* data;
  size_t bytes;
};

struct Pool {
  std::mutex mutex;
  std::vector<Block> free;  // in the order they were returned
  size_t held = 0;
};

// Never destroyed: worker threads may return blocks while the process ends.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

// The address sanitizer knows blocks; that a workspace is the first part of one, and that blocks in the pool are nobody's, it
// is told here.
void mark(const Block& block, size_t own) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(block.data, own);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block.data) + own, block.bytes - own);
#else
  (void)block;
  (void)own;
#endif
}

void release(const Block& block) {
  mark(block, block.bytes);
  ::operator delete(block.data, std::align_val_t(64));
}

}  // namespace

void advise_large_pages(void* p, size_t bytes) {
#if defined(__linux__)
  if (bytes < 2 * kLargePage) return;
  uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + kLargePage - 1) / kLargePage * kLargePage;
  uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / kLargePage * kLargePage;
  // A kernel without large pages refuses; the memory works all the same.
  if (end > begin) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p;
  (void)bytes;
#endif
}

Workspace::Workspace(size_t bytes) : data_(nullptr), bytes_(bytes < 64 ? 64 : bytes) {
  Block given_way{nullptr, 0};
  {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    // The smallest that is large enough, but not one far larger: that would be missing elsewhere.
    size_t best = p.free.size();
    for (size_t k = 0; k < p.free.size(); ++k)
      if (p.free[k].bytes >= bytes_ && p.free[k].bytes / 2 <= bytes_ + (size_t(1) << 16) &&
          (best == p.free.size() || p.free[k].bytes < p.free[best].bytes))
        best = k;
    if (best < p.free.size()) {
      data_ = p.free[best].data;
      bytes_ = p.free[best].bytes;
      p.held -= bytes_;
      p.free.erase(p.free.begin() + best);
      mark({data_, bytes_}, bytes);
      return;
    }
    // The new block will also serve what the next smaller one served: that one gives way, or forward and backward passes
    // would keep a set each.
    size_t smaller = p.free.size();
    for (size_t k = 0; k < p.free.size(); ++k)
      if (p.free[k].bytes < bytes_ && p.free[k].bytes >= bytes_ / 2 &&
          (smaller == p.free.size() || p.free[k].bytes > p.free[smaller].bytes))
        smaller = k;
    if (smaller < p.free.size()) {
      given_way = p.free[smaller];
      p.held -= p.free[smaller].bytes;
      p.free.erase(p.free.begin() + smaller);
    }
  }
  if (given_way.data) release(given_way);
  data_ = ::operator new(bytes_, std::align_val_t(64));
  advise_large_pages(data_, bytes_);
  mark({data_, bytes_}, bytes);
}

Workspace::~Workspace() {
  std::vector<Block> surplus;
  mark({data_, bytes_}, 0);
  {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.free.push_back({data_, bytes_});
    p.held += bytes_;
    while (p.held > kPooledBytes) {  // the longest unused first
      surplus.push_back(p.free.front());
      p.held -= p.free.front().bytes;
      p.free.erase(p.free.begin());
    }
  }
  for (const Block& block : surplus) release(block);
}

}  // namespace pgconv
