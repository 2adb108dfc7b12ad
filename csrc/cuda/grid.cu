#include "cuda/grid.h"

#include <algorithm>
#include <cstring>

#include "cuda/sort.h"

namespace pct {
namespace {

constexpr int kThreads = 256;

// The inverse of from_ordered. Every number is above 0.
__device__ uint32_t ordered(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ bool finite(const float* p) {
  return p[0] - p[0] == 0 && p[1] - p[1] == 0 && p[2] - p[2] == 0;
}

// box[cloud] = ordered maxima of -x, -y, -z, x, y, z, zeros at first
__global__ void bound_clouds_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                    int64_t clouds, uint32_t* __restrict__ box) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool valid = row < n && finite(xyz + 3 * row);
  const int cloud = valid ? static_cast<int>(cloud_of(offsets, clouds, row)) : -1;
  // Where all points of the warp are of one cloud, one lane speaks for them.
  const unsigned those = __ballot_sync(kFullWarp, valid);
  if (those == 0) return;
  const int speaker = __ffs(those) - 1, common = __shfl_sync(kFullWarp, cloud, speaker);
  const bool together = __ballot_sync(kFullWarp, valid && cloud != common) == 0;
  for (int side = 0; side < 6; ++side) {
    const float x = valid ? xyz[3 * row + side % 3] : 0.0f;
    uint32_t highest = valid ? ordered(side < 3 ? -x : x) : 0;
    if (together)
      for (int step = 16; step > 0; step /= 2) {
        const uint32_t other = __shfl_xor_sync(kFullWarp, highest, step);
        highest = other > highest ? other : highest;
      }
    if (together ? static_cast<int>(threadIdx.x) % 32 == speaker : valid)
      atomicMax(&box[6 * int64_t(together ? common : cloud) + side], highest);
  }
}

__global__ void shape_clouds_kernel(const int64_t* __restrict__ offsets, int64_t clouds, int64_t n,
                                    const uint32_t* __restrict__ box, float min_cell, CloudCells* __restrict__ out) {
  const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= clouds) return;
  const int64_t begin = offsets[b] < 0 ? 0 : offsets[b] > n ? n : offsets[b];
  const int64_t end = offsets[b + 1] < begin ? begin : offsets[b + 1] > n ? n : offsets[b + 1];
  CloudCells cloud;
  cloud.first = static_cast<uint32_t>(begin * kMaxCellsPerPoint);
  cloud.cells_per_metre = 0;
  for (int axis = 0; axis < 3; ++axis) cloud.lower[axis] = 0, cloud.shape[axis] = 0;
  if (end > begin && box[6 * b] != 0) {
    const double most = fmin(double(end - begin) * kMaxCellsPerPoint, 2e9);  // cells along an axis are counted in int
    double extent[3], farthest = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const double upper = from_ordered(box[6 * b + 3 + axis]);
      cloud.lower[axis] = -from_ordered(box[6 * b + axis]);
      extent[axis] = upper - cloud.lower[axis];
      farthest = fmax(farthest, fmax(fabs(upper), fabs(double(cloud.lower[axis]))));
    }
    // No cell below these bounds gives few enough cells: extents along one, two and three axes alone must fit.
    const double x = extent[0], y = extent[1], z = extent[2];
    double cell = fmax(fmax(min_cell + 1e-6 * farthest, fmax(x, fmax(y, z)) / most),
                       fmax(sqrt(fmax(x * y, fmax(y * z, z * x)) / most), cbrt(x * y * z / most)));
    cell = fmin(fmax(cell, 1e-30), 1e30);
    while ((floor(x / cell) + 1) * (floor(y / cell) + 1) * (floor(z / cell) + 1) > most) cell *= 1.05;
    cloud.cells_per_metre = static_cast<float>(1 / cell);
    for (int axis = 0; axis < 3; ++axis) cloud.shape[axis] = static_cast<int>(floor(extent[axis] / cell)) + 1;
  }
  out[b] = cloud;
}

__global__ void number_cells_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                    int64_t clouds, const CloudCells* __restrict__ cells, uint32_t* __restrict__ keys) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= n) return;
  const uint32_t nowhere = static_cast<uint32_t>(n * kMaxCellsPerPoint);
  const float* p = xyz + 3 * row;
  uint32_t key = nowhere;
  if (finite(p)) {
    const CloudCells cloud = cells[cloud_of(offsets, clouds, row)];
    key = cell_number(cloud, cell_along(cloud, 0, p[0]), cell_along(cloud, 1, p[1]), cell_along(cloud, 2, p[2]));
  }
  keys[row] = key < nowhere ? key : nowhere;
}

// begins[c] = how many of the ascending keys are below c
__global__ void find_begins_kernel(const uint32_t* __restrict__ keys, int64_t n, int64_t cells,
                                   uint32_t* __restrict__ begins) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c > cells) return;
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < c) low = middle + 1;
    else high = middle;
  }
  begins[c] = static_cast<uint32_t>(low);
}

__global__ void gather_points_kernel(const float* __restrict__ xyz, int64_t n, const uint32_t* __restrict__ rows,
                                     CellPoint* __restrict__ points) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float* p = xyz + 3 * int64_t(rows[i]);
  points[i] = CellPoint{p[0], p[1], p[2], static_cast<int>(rows[i])};
}

}  // namespace

Tensor bound_clouds(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream) {
  const int64_t n = xyz.size(0), clouds = offsets.size(0) - 1;
  Tensor box = zeros({clouds, 6}, int32(), xyz);
  if (n > 0 && clouds > 0)
    PCT_LAUNCH(bound_clouds_kernel, blocks_for(n, kThreads), kThreads, 0, stream, xyz.data<float>(), n,
               offsets.data<int64_t>(), clouds, words(box));
  return box;
}

Grid build_grid(const Tensor& xyz, const Tensor& offsets, float min_cell, cudaStream_t stream) {
  const int64_t n = xyz.size(0), count = offsets.size(0) - 1, cells = n * kMaxCellsPerPoint;
  PCT_CHECK(n < int64_t(1) << 31, "a grid holds at most 2^31 - 1 points, got ", n);
  constexpr int64_t kWords = sizeof(CloudCells) / sizeof(int32_t);
  Grid grid{empty({count, kWords}, int32(), xyz), empty({cells + 1}, int32(), xyz), empty({n, 4}, float32(), xyz)};
  Tensor box = bound_clouds(xyz, offsets, stream), keys = empty({n}, int32(), xyz);
  if (count == 0) return grid;
  CloudCells* clouds = reinterpret_cast<CloudCells*>(grid.clouds.mutable_data<int32_t>());
  const float* points = xyz.data<float>();
  const int64_t* rows = offsets.data<int64_t>();
  PCT_LAUNCH(shape_clouds_kernel, blocks_for(count, kThreads), kThreads, 0, stream, rows, count, n, words(box), min_cell,
             clouds);
  if (n > 0)
    PCT_LAUNCH(number_cells_kernel, blocks_for(n, kThreads), kThreads, 0, stream, points, n, rows, count, clouds,
               words(keys));
  int bits = 1;
  while (bits < 32 && (cells >> bits) != 0) ++bits;
  const SortedKeys sorted = stable_sort(std::move(keys), bits, stream);
  PCT_LAUNCH(find_begins_kernel, blocks_for(cells + 1, kThreads), kThreads, 0, stream, words(sorted.keys), n, cells,
             words(grid.begins));
  if (n > 0)
    PCT_LAUNCH(gather_points_kernel, blocks_for(n, kThreads), kThreads, 0, stream, points, n, words(sorted.rows),
               reinterpret_cast<CellPoint*>(grid.points.mutable_data<float>()));
  return grid;
}

}  // namespace pct
