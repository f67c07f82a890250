// The machine of a call from torch: its caching allocator, the device of the tensors and the current stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/check.h"
#include "machine.h"

namespace pgconv {

// Of a device, times ten. PGCONV_CUDA_CAPABILITY in the environment lowers it, so that kernels for older GPUs can be tested.
int compute_capability(int device);

class TorchMachine : public Machine {
 public:
  // Otherwise kernels of a tensor on another device than the current one would be launched on that.
  explicit TorchMachine(const Tensor& on);
  void check(int error) override;

 protected:
  void* allocate(int64_t bytes) override;

 private:
  const Tensor& on_;
  torch::stable::accelerator::DeviceGuard guard_;
  // Given back to the allocator when the call returns: what comes next on the stream waits for it.
  std::vector<Tensor> memory_;
};

}  // namespace pgconv
