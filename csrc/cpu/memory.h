// Memory of the convolutions: workspaces that are kept between calls, and outputs in large pages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pgconv {

// Asks for large pages for the whole ones among [p, p + bytes). A fresh tensor of more than 32 MB is new memory on every
// call, and touching it page by page costs as much as a convolution. Only a hint; settings of the process stay as they are.
void advise_large_pages(void* p, size_t bytes);

// A block of uninitialised memory on a 64-byte boundary, returned to a shared pool at the end of its life. The pool keeps
// at most kPooledBytes. Safe from any thread; a block has one owner at a time.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  size_t bytes_;
};

constexpr size_t kPooledBytes = size_t(128) << 20;

}  // namespace pgconv
