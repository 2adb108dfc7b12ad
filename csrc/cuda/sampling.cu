// Farthest point sampling on CUDA: one block per cloud.
#include "checks.h"
#include "common/geometry.h"
#include "cuda/launch.h"

namespace pct {
namespace {

constexpr int kThreads = 512;

__global__ void farthest_point_sample_kernel(const float* __restrict__ xyz, const int64_t* __restrict__ offsets,
                                             const int64_t* __restrict__ sample_offsets,
                                             const int64_t* __restrict__ start, bool skip_near_origin,
                                             float* __restrict__ nearest, int64_t* __restrict__ index) {
  __shared__ float warp_distance[kThreads / 32];
  __shared__ int64_t warp_row[kThreads / 32];
  __shared__ int64_t chosen;
  const int64_t first_row = offsets[blockIdx.x], n = offsets[blockIdx.x + 1] - first_row;
  const int64_t first_sample = sample_offsets[blockIdx.x], m = sample_offsets[blockIdx.x + 1] - first_sample;
  xyz += 3 * first_row;
  nearest += first_row;
  index += first_sample;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {  // a point that is not finite is no farther than a chosen one
    const bool finite = xyz[3 * i] * 0 + xyz[3 * i + 1] * 0 + xyz[3 * i + 2] * 0 == 0;
    nearest[i] = finite ? INFINITY : -INFINITY;
  }
  int64_t current = n == 0 ? -1 : start[blockIdx.x];
  if (current >= n) current = n - 1;
  for (int64_t j = 0; j < m; ++j) {
    if (j >= n) current = -1;
    if (threadIdx.x == 0) index[j] = current < 0 ? -1 : first_row + current;
    if (current < 0) continue;  // the same for every thread of the block
    const float cx = xyz[3 * current], cy = xyz[3 * current + 1], cz = xyz[3 * current + 2];
    float distance = -1;
    int64_t row = -1;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const float x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
      const float d = fminf(nearest[i], squared_norm(x - cx, y - cy, z - cz));
      nearest[i] = d;
      if (d > distance && !(skip_near_origin && near_origin(x, y, z))) distance = d, row = i;
    }
    for (int step = 16; step > 0; step >>= 1) {
      const float other = __shfl_down_sync(kFullWarp, distance, step);
      const int64_t other_row = __shfl_down_sync(kFullWarp, row, step);
      if (other > distance || (other == distance && other_row < row)) distance = other, row = other_row;
    }
    if (threadIdx.x % 32 == 0) warp_distance[threadIdx.x / 32] = distance, warp_row[threadIdx.x / 32] = row;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kThreads / 32; ++w)
        if (warp_distance[w] > distance || (warp_distance[w] == distance && warp_row[w] < row))
          distance = warp_distance[w], row = warp_row[w];
      chosen = row;
    }
    __syncthreads();
    current = chosen;
  }
}

Tensor farthest_point_sample_cuda(const Tensor& xyz, const Tensor& offsets, const Tensor& sample_offsets,
                                  const Tensor& start, int64_t total, bool skip_near_origin) {
  check_farthest_point_sample(xyz, offsets, sample_offsets, start, total);
  OnDeviceOf device(xyz);
  Tensor index = empty({total}, int64(), xyz), nearest = empty({xyz.size(0)}, float32(), xyz);
  const int clouds = static_cast<int>(offsets.size(0) - 1);
  if (clouds > 0)
    PCT_LAUNCH(farthest_point_sample_kernel, clouds, kThreads, 0, device.stream(), xyz.data<float>(),
               offsets.data<int64_t>(), sample_offsets.data<int64_t>(), start.data<int64_t>(), skip_near_origin,
               nearest.mutable_data<float>(), index.mutable_data<int64_t>());
  return index;
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&farthest_point_sample_cuda>("farthest_point_sample");
});

}  // namespace
}  // namespace pct
