// Morton and Hilbert codes on CUDA: one thread per point, all bits in registers.
#include "checks.h"
#include "common/curves.h"
#include "cuda/launch.h"

namespace pct {
namespace {

constexpr int kThreads = 256;

template <bool kHilbert, class T>
__global__ void curve_code_kernel(const T* __restrict__ coordinates, int64_t n, int bits, int64_t* __restrict__ code) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const uint32_t mask = (1u << bits) - 1;  // the CPU kernel refuses what this cuts off
  uint32_t x = static_cast<uint32_t>(coordinates[3 * i]) & mask;
  uint32_t y = static_cast<uint32_t>(coordinates[3 * i + 1]) & mask;
  uint32_t z = static_cast<uint32_t>(coordinates[3 * i + 2]) & mask;
  if (kHilbert)
    for (int bit = bits - 1; bit > 0; --bit) undo_turn(x, y, z, bit);
  const uint64_t morton = interleave_bits(x, y, z);
  code[i] = static_cast<int64_t>(kHilbert ? gray_to_binary(morton) : morton);
}

template <bool kHilbert>
Tensor curve_code(const Tensor& coordinates, int64_t bits) {
  OnDeviceOf device(coordinates);
  const int64_t n = coordinates.size(0);
  Tensor code = empty({n}, int64(), coordinates);
  if (n == 0) return code;
  const int blocks = blocks_for(n, kThreads), levels = static_cast<int>(bits);
  int64_t* out = code.mutable_data<int64_t>();
  if (coordinates.dtype() == int32())
    PCT_LAUNCH((curve_code_kernel<kHilbert, int32_t>), blocks, kThreads, 0, device.stream(),
               coordinates.data<int32_t>(), n, levels, out);
  else
    PCT_LAUNCH((curve_code_kernel<kHilbert, int64_t>), blocks, kThreads, 0, device.stream(),
               coordinates.data<int64_t>(), n, levels, out);
  return code;
}

Tensor morton_code_cuda(const Tensor& coordinates, int64_t bits) {
  check_morton_code(coordinates, bits);
  return curve_code<false>(coordinates, bits);
}

Tensor hilbert_code_cuda(const Tensor& coordinates, int64_t bits) {
  check_hilbert_code(coordinates, bits);
  return curve_code<true>(coordinates, bits);
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&morton_code_cuda>("morton_code");
  library.implement<&hilbert_code_cuda>("hilbert_code");
});

}  // namespace
}  // namespace pct
