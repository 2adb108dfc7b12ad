// What every CUDA kernel here needs around it: the caller's device and stream, the launch, its check.
//
// Kernels keep to a small language, so that the same files also compile with a plain C++ compiler against
// tests/cuda_emulation/ and their logic runs in tests where there is no GPU: PCT_LAUNCH instead of <<<>>>,
// PCT_SHARED_MEMORY for dynamic shared memory, and the warp and atomic intrinsics that emulation knows.
#pragma once
#ifndef PCT_CUDA_EMULATION
#include <cuda_runtime.h>
#endif

#include "checks.h"

namespace pct {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kMaxSharedBytes = 64 * 1024;  // of dynamic shared memory for a block, on every GPU since Turing

inline void check_cuda(cudaError_t error, const char* what, int line) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // is this error, and would be taken for that of the next launch
  char* text = nullptr;
  torch_c10_cuda_check_msg(static_cast<int32_t>(error), what, "", static_cast<uint32_t>(line), true, &text);
  std::string message = text ? text : "unknown CUDA error";
  if (text) torch_c10_cuda_free_error_msg(text);
  fail(what, ": ", message);
}

#ifndef PCT_CUDA_EMULATION

// Up to kMaxSharedBytes of dynamic shared memory; more than 48 KiB must be asked for. All of them are, whatever this launch
// needs: another host thread may launch the same kernel with more.
#define PCT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                      \
  do {                                                                                  \
    if ((shared_bytes) > 48 * 1024)                                                     \
      ::pct::check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, \
                                             static_cast<int>(::pct::kMaxSharedBytes)), \
                        #kernel, __LINE__);                                             \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);                 \
    ::pct::check_cuda(cudaGetLastError(), #kernel, __LINE__);                           \
  } while (0)

#define PCT_SHARED_MEMORY(type, name) \
  extern __shared__ __align__(16) unsigned char pct_shared_bytes[]; \
  type* name = reinterpret_cast<type*>(pct_shared_bytes)

// Makes the tensor's device current, and hands out that device's current stream.
class OnDeviceOf {
  DeviceGuardOpaque* guard_ = nullptr;
  int32_t device_;

 public:
  explicit OnDeviceOf(const Tensor& tensor) : device_(tensor.device_index()) {
    PCT_TORCH(aoti_torch_create_device_guard(device_, &guard_));
  }
  OnDeviceOf(const OnDeviceOf&) = delete;
  ~OnDeviceOf() { aoti_torch_delete_device_guard(guard_); }
  cudaStream_t stream() const {
    void* stream;
    PCT_TORCH(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }
};

#endif  // PCT_CUDA_EMULATION

// One number from the device: waits for the stream. Only where the size of a result depends on it.
template <class T>
T read_back(const T* value, cudaStream_t stream) {
  T number;
  check_cuda(cudaMemcpyAsync(&number, value, sizeof(T), cudaMemcpyDeviceToHost, stream), "reading a size", __LINE__);
  check_cuda(cudaStreamSynchronize(stream), "reading a size", __LINE__);
  return number;
}

inline int blocks_for(int64_t items, int64_t per_block) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  PCT_CHECK(blocks <= 0x7fffffff, "a launch of ", blocks, " blocks is more than CUDA allows");
  return static_cast<int>(blocks);
}

}  // namespace pct
