#include "torch_machine.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdlib>

// Torch from 2.13 on has the first for every device, a torch with CUDA the second. Weak: the library loads under a torch that
// lacks either.
extern "C" {
__attribute__((weak)) AOTITorchError torch_stream_native_handle(StreamHandle stream, void** handle);
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
}

namespace pgconv {

static void* current_stream(int32_t device) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream) {
    if (aoti_torch_get_current_cuda_stream(device, &stream) != 0) fail("CUDA: torch tells no current stream");
  } else if (torch_stream_native_handle) {
    StreamHandle handle = nullptr;
    if (aoti_torch_get_current_stream(device, &handle) != 0) fail("CUDA: torch tells no current stream");
    AOTITorchError error = torch_stream_native_handle(handle, &stream);
    if (aoti_torch_delete_stream(handle) != 0) fail("CUDA: torch tells no current stream");
    if (error != 0) fail("CUDA: torch tells no current stream");
  } else {
    fail("pgconv: this torch does not tell the current CUDA stream; use torch 2.10 or newer built with CUDA");
  }
  return stream;
}

int compute_capability(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    fail("pgconv: the CUDA driver does not tell the compute capability of device ", device);
  const char* most = std::getenv("PGCONV_CUDA_CAPABILITY");
  return most ? std::min(10 * major + minor, std::atoi(most)) : 10 * major + minor;
}

TorchMachine::TorchMachine(const Tensor& on) : on_(on), guard_(on.get_device_index()) {
  stream = current_stream(on.get_device_index());
  capability = compute_capability(on.get_device_index());
}

void TorchMachine::check(int error) {
  if (error != cudaSuccess)
    fail("pgconv: a CUDA kernel could not be launched: ", cudaGetErrorString(static_cast<cudaError_t>(error)));
}

void* TorchMachine::allocate(int64_t bytes) {
  memory_.push_back(torch::stable::new_empty(on_, {bytes}, ScalarType::Byte));
  return memory_.back().mutable_data_ptr();
}

}  // namespace pgconv
