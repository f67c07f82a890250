#include "host.h"

namespace pgconv {

Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(like, sizes, dtype);
  size_t size = dtype == ScalarType::Double ? 8 : dtype == ScalarType::BFloat16 ? 2 : 4;
  if (out.numel() > 0) advise_large_pages(out.mutable_data_ptr(), size * size_t(out.numel()));
  return out;
}

void check_product(const char* op, std::initializer_list<int64_t> sizes) {
  double product = 1;
  for (int64_t n : sizes) product *= double(std::max<int64_t>(n, 1));
  if (product > double(int64_t(1) << 48)) fail(op, ": the sizes of the call are too large");
}

int64_t thread_count() { return std::max<int64_t>(torch::stable::get_num_threads(), 1); }

}  // namespace pgconv
