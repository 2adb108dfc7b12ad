// Farthest point sampling on CUDA: one block per cloud, each thread with its share of the points, one barrier a sample.
//
// A step needs the result of the step before, so a cloud is the work of one block: batches fill the GPU, a single huge
// cloud does not. How large the clouds are is known on the device only; each block looks where its points fit.
#include "checks.h"
#include "common/geometry.h"
#include "cuda/launch.h"

namespace pct {
namespace {

constexpr int kWarp = 32;
constexpr int kMinThreads = 64;
constexpr int kMaxThreads = 1024;
constexpr int kUsualPoints = 4;            // per thread, where all clouds are of the mean size
constexpr int kPointsInRegisters = 8;      // per thread, with coordinates and distances in registers
constexpr int kDistancesInRegisters = 24;  // per thread, with only distances in registers, coordinates mostly in L1

struct CloudTask {
  const float* xyz;
  int64_t n, m, first_row, start;  // start -1 in an empty cloud
  bool skip_near_origin;
  float* nearest;  // (n,) scratch memory
  int64_t* index;  // (m,) the result

  __device__ bool may_be_chosen(float x, float y, float z) const {
    const bool finite = x * 0 + y * 0 + z * 0 == 0;
    return finite && !(skip_near_origin && near_origin(x, y, z));
  }
};

// What the warps of a block found, for even and for odd steps: so a warp may write while a slower one still reads.
template <class Row>
struct Found {
  float distance[2][kMaxThreads / kWarp];
  Row row[2][kMaxThreads / kWarp];
};

// The larger distance, and of equal ones the lower row, over the lanes of a warp; in every lane.
template <class Row>
__device__ void farthest_in_warp(float& distance, Row& row) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, distance, step);
    const Row other_row = __shfl_xor_sync(kFullWarp, row, step);
    if (other > distance || (other == distance && other_row < row)) distance = other, row = other_row;
  }
}

// The same over the block, in every thread; -1 where no thread has a point to offer (distance -1).
template <class Row>
__device__ Row farthest_in_block(float distance, Row row, Found<Row>& found, int parity) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  farthest_in_warp(distance, row);
  if (lane == 0) found.distance[parity][warp] = distance, found.row[parity][warp] = row;
  __syncthreads();
  distance = lane < warps ? found.distance[parity][lane] : -1.0f;
  row = lane < warps ? found.row[parity][lane] : 0;
  farthest_in_warp(distance, row);
  return distance < 0 ? -1 : row;
}

// Up to kPoints points per thread. A warp has consecutive rows, so that one address per thread serves all its points.
template <int kPoints>
__device__ void sample_in_registers(const CloudTask& cloud, Found<int>& found) {
  constexpr bool kHolds = kPoints <= kPointsInRegisters;
  const int n = static_cast<int>(cloud.n), first = threadIdx.x / kWarp * kWarp * kPoints + threadIdx.x % kWarp;
  float x[kPoints], y[kPoints], z[kPoints], nearest[kPoints];  // nearest -1: no point, or one that may not be chosen
#pragma unroll
  for (int p = 0; p < kPoints; ++p) {
    const int i = first + p * kWarp;
    nearest[p] = -1;
    if (i >= n) continue;
    x[p] = cloud.xyz[3 * i], y[p] = cloud.xyz[3 * i + 1], z[p] = cloud.xyz[3 * i + 2];
    if (cloud.may_be_chosen(x[p], y[p], z[p])) nearest[p] = INFINITY;
  }
  int current = static_cast<int>(cloud.start);
  for (int64_t j = 0; j < cloud.m; ++j) {
    if (j >= n) current = -1;
    if (threadIdx.x == 0) cloud.index[j] = current < 0 ? -1 : cloud.first_row + current;
    if (current < 0) continue;  // the same for every thread of the block
    const float cx = cloud.xyz[3 * current], cy = cloud.xyz[3 * current + 1], cz = cloud.xyz[3 * current + 2];
    float distance = -1;
    int row = 0;
#pragma unroll
    for (int p = 0; p < kPoints; ++p) {
      if (nearest[p] < 0) continue;
      const int i = first + p * kWarp;
      const float px = kHolds ? x[p] : cloud.xyz[3 * i], py = kHolds ? y[p] : cloud.xyz[3 * i + 1],
                  pz = kHolds ? z[p] : cloud.xyz[3 * i + 2];
      nearest[p] = fminf(nearest[p], squared_norm(px - cx, py - cy, pz - cz));
      if (nearest[p] > distance) distance = nearest[p], row = i;
    }
    current = farthest_in_block(distance, row, found, j & 1);
  }
}

// Any number of points
__device__ void sample_in_memory(const CloudTask& cloud, Found<int64_t>& found) {
  for (int64_t i = threadIdx.x; i < cloud.n; i += blockDim.x) {
    const float *p = cloud.xyz + 3 * i;
    cloud.nearest[i] = cloud.may_be_chosen(p[0], p[1], p[2]) ? INFINITY : -1;
  }
  int64_t current = cloud.start;
  for (int64_t j = 0; j < cloud.m; ++j) {
    if (j >= cloud.n) current = -1;
    if (threadIdx.x == 0) cloud.index[j] = current < 0 ? -1 : cloud.first_row + current;
    if (current < 0) continue;
    const float cx = cloud.xyz[3 * current], cy = cloud.xyz[3 * current + 1], cz = cloud.xyz[3 * current + 2];
    float distance = -1;
    int64_t row = 0;
    for (int64_t i = threadIdx.x; i < cloud.n; i += blockDim.x) {
      const float *p = cloud.xyz + 3 * i;
      const float d = fminf(cloud.nearest[i], squared_norm(p[0] - cx, p[1] - cy, p[2] - cz));
      cloud.nearest[i] = d;
      if (d > distance) distance = d, row = i;
    }
    current = farthest_in_block(distance, row, found, j & 1);
  }
}

__device__ int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

__global__ void __launch_bounds__(kMaxThreads)
    farthest_point_sample_kernel(const float* __restrict__ xyz, int64_t rows, const int64_t* __restrict__ offsets,
                                 int64_t total, const int64_t* __restrict__ sample_offsets,
                                 const int64_t* __restrict__ start, bool skip_near_origin, float* __restrict__ nearest,
                                 int64_t* __restrict__ index) {
  __shared__ Found<int> found;
  __shared__ Found<int64_t> found_far;
  const int64_t b = blockIdx.x;
  const int64_t begin = clamped(offsets[b], 0, rows), end = clamped(offsets[b + 1], begin, rows);
  const int64_t first = clamped(sample_offsets[b], 0, total), last = clamped(sample_offsets[b + 1], first, total);
  const int64_t n = end - begin, chosen_first = n == 0 ? -1 : clamped(start[b], 0, n - 1);
  const CloudTask cloud{xyz + 3 * begin, n, last - first, begin, chosen_first, skip_near_origin, nearest + begin,
                        index + first};
  const int64_t per_thread = (cloud.n + blockDim.x - 1) / blockDim.x;
  if (per_thread <= 1) sample_in_registers<1>(cloud, found);
  else if (per_thread <= 2) sample_in_registers<2>(cloud, found);
  else if (per_thread <= 4) sample_in_registers<4>(cloud, found);
  else if (per_thread <= kPointsInRegisters) sample_in_registers<kPointsInRegisters>(cloud, found);
  else if (per_thread <= 16) sample_in_registers<16>(cloud, found);
  else if (per_thread <= kDistancesInRegisters) sample_in_registers<kDistancesInRegisters>(cloud, found);
  else sample_in_memory(cloud, found_far);
}

Tensor farthest_point_sample_cuda(const Tensor& xyz, const Tensor& offsets, const Tensor& sample_offsets,
                                  const Tensor& start, int64_t total, bool skip_near_origin) {
  check_farthest_point_sample(xyz, offsets, sample_offsets, start, total);
  OnDeviceOf device(xyz);
  const int64_t clouds = offsets.size(0) - 1, rows = xyz.size(0);
  Tensor index = empty({total}, int64(), xyz), nearest = empty({rows}, float32(), xyz);
  if (clouds == 0) return index;
  int threads = kMinThreads;
  while (threads < kMaxThreads && threads * kUsualPoints * clouds < rows) threads *= 2;
  PCT_LAUNCH(farthest_point_sample_kernel, blocks_for(clouds, 1), threads, 0, device.stream(), xyz.data<float>(), rows,
             offsets.data<int64_t>(), total, sample_offsets.data<int64_t>(), start.data<int64_t>(), skip_near_origin,
             nearest.mutable_data<float>(), index.mutable_data<int64_t>());
  return index;
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&farthest_point_sample_cuda>("farthest_point_sample");
});

}  // namespace
}  // namespace pct
