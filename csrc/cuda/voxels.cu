// Voxelization on CUDA: points sorted by the number of their voxel, and a sum over where a new one begins.
//
// The sort is stable and nothing depends on which thread is first, so that results are those of the CPU. The number of
// voxels is the one thing that the host must wait for.
#include "checks.h"
#include "common/voxels.h"
#include "cuda/grid.h"
#include "cuda/launch.h"
#include "cuda/sort.h"

namespace pct {
namespace {

constexpr int kThreads = 256;

// The number of a point's voxel among those of the whole batch, x fastest; `outside` for points in none.
struct Numbering {
  VoxelGrid grid;
  uint64_t outside;  // clouds * cells of a grid: comes last

  __device__ uint64_t key(const float* point, int64_t cloud) const {
    const int32_t x = cell_of(point[0], grid.x), y = cell_of(point[1], grid.y), z = cell_of(point[2], grid.z);
    if ((x | y | z) < 0) return outside;
    const uint64_t layer = uint64_t(cloud) * grid.z.cells + z, row = layer * grid.y.cells + y;
    return row * grid.x.cells + x;
  }
};

__global__ void keys_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets, int64_t clouds,
                            Numbering numbering, uint64_t* __restrict__ keys, uint32_t* __restrict__ low) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  keys[i] = numbering.key(xyz + 3 * i, cloud_of(offsets, clouds, i));
  low[i] = static_cast<uint32_t>(keys[i]);
}

// The upper halves of keys, in the order of the lower ones.
__global__ void upper_keys_kernel(const uint64_t* __restrict__ keys, const uint32_t* __restrict__ rows, int64_t n,
                                  uint32_t* __restrict__ high) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) high[i] = static_cast<uint32_t>(keys[rows[i]] >> 32);
}

__global__ void follow_kernel(const uint32_t* __restrict__ places, const uint32_t* __restrict__ rows, int64_t n,
                              uint32_t* __restrict__ order) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) order[i] = rows[places[i]];
}

// Points in the order of their voxels.
struct Sorted {
  const uint64_t* keys;  // of point r, not sorted
  const uint32_t* rows;  // rows[i]: the point at place i
  int64_t n;
  uint64_t outside;

  __device__ bool inside(int64_t i) const { return i < n && keys[rows[i]] != outside; }
  // Whether place i is the first of its voxel; so is the first place outside, and place n.
  __device__ bool begins(int64_t i) const { return i == 0 || i == n || keys[rows[i]] != keys[rows[i - 1]]; }
};

// begins[i] for the sums of places, and, by point, whether it is the first of a voxel in the order of the input.
__global__ void mark_kernel(Sorted sorted, uint32_t* __restrict__ begins, uint32_t* __restrict__ first) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i > sorted.n) return;
  begins[i] = sorted.begins(i);
  if (i < sorted.n) first[sorted.rows[i]] = sorted.inside(i) && begins[i];
}

// Where the voxel that begins at place i begins and how many begin before it: starts[number] = i.
__global__ void starts_kernel(Sorted sorted, const uint32_t* __restrict__ numbers, uint32_t* __restrict__ starts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i <= sorted.n && sorted.begins(i)) starts[numbers[i]] = static_cast<uint32_t>(i);
}

// Whether the voxel with a number stays: of each cloud, the first max_voxels in the order of the input do. older[r] is how
// many points before r are the first of a voxel.
__global__ void stays_kernel(Sorted sorted, const uint32_t* __restrict__ numbers, const uint32_t* __restrict__ older,
                             const int64_t* __restrict__ offsets, int64_t clouds, int64_t max_voxels,
                             uint32_t* __restrict__ stays) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i > sorted.n || !sorted.begins(i)) return;
  bool stay = sorted.inside(i);
  if (stay) {
    const int64_t row = sorted.rows[i], begin = offsets[cloud_of(offsets, clouds, row)];
    stay = int64_t(older[row]) - int64_t(older[begin < 0 ? 0 : begin < row ? begin : row]) < max_voxels;
  }
  stays[numbers[i]] = stay;
}

struct Output {
  int32_t* coordinates;
  int64_t *index, *counts;
};

// One thread per place: the voxel of its point; the first place of a voxel writes the voxel too.
__global__ void write_kernel(Sorted sorted, VoxelGrid grid, const uint32_t* __restrict__ numbers,
                             const uint32_t* __restrict__ starts, const uint32_t* __restrict__ voxels, int64_t max_points,
                             Output out) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= sorted.n) return;
  // `numbers` counts the beginnings before a place
  const uint32_t number = sorted.begins(i) ? numbers[i] : numbers[i] - 1;
  const bool stays = sorted.inside(i) && voxels[number + 1] != voxels[number];
  const int64_t voxel = voxels[number], start = starts[number];
  out.index[sorted.rows[i]] = stays && i - start < max_points ? voxel : -1;
  if (!stays || i != start) return;
  const int64_t points = starts[number + 1] - start;
  out.counts[voxel] = points < max_points ? points : max_points;
  const uint64_t key = sorted.keys[sorted.rows[i]], row = key / grid.x.cells, layer = row / grid.y.cells;
  out.coordinates[4 * voxel] = static_cast<int32_t>(layer / grid.z.cells);
  out.coordinates[4 * voxel + 1] = static_cast<int32_t>(layer % grid.z.cells);
  out.coordinates[4 * voxel + 2] = static_cast<int32_t>(row % grid.y.cells);
  out.coordinates[4 * voxel + 3] = static_cast<int32_t>(key % grid.x.cells);
}

// voxel_offsets[b] is the first voxel of cloud b or a later one
__global__ void voxel_offsets_kernel(const int32_t* __restrict__ coordinates, int64_t total, int64_t clouds,
                                     int64_t* __restrict__ voxel_offsets) {
  const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (b > clouds) return;
  int64_t low = 0, high = total;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (coordinates[4 * middle] < b) low = middle + 1;
    else high = middle;
  }
  voxel_offsets[b] = low;
}

// Rows of n points in the order of their keys, below `limit`.
Tensor sort_points(const Tensor& keys, Tensor low, uint64_t limit, cudaStream_t stream) {
  const int64_t n = keys.size(0);
  int bits = 1;
  while (bits < 64 && limit >> bits != 0) ++bits;
  SortedKeys by_low = stable_sort(std::move(low), bits < 32 ? bits : 32, stream);
  if (bits <= 32) return std::move(by_low.rows);
  Tensor high = empty({n}, int32(), keys), order = empty({n}, int32(), keys);
  PCT_LAUNCH(upper_keys_kernel, blocks_for(n, kThreads), kThreads, 0, stream,
             reinterpret_cast<const uint64_t*>(keys.data<int64_t>()), words(by_low.rows), n, words(high));
  const SortedKeys by_high = stable_sort(std::move(high), bits - 32, stream);
  PCT_LAUNCH(follow_kernel, blocks_for(n, kThreads), kThreads, 0, stream, words(by_high.rows), words(by_low.rows), n,
             words(order));
  return order;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> voxelize_cuda(const Tensor& xyz, const Tensor& offsets, double low_x, double low_y,
                                                         double low_z, double size_x, double size_y, double size_z,
                                                         int64_t nx, int64_t ny, int64_t nz, int64_t max_points,
                                                         int64_t max_voxels) {
  check_voxelize(xyz, offsets, {low_x, low_y, low_z}, {size_x, size_y, size_z}, {nx, ny, nz}, max_points, max_voxels);
  OnDeviceOf device(xyz);
  const cudaStream_t stream = device.stream();
  const int64_t n = xyz.size(0), clouds = offsets.size(0) - 1;
  Tensor index = empty({n}, int64(), xyz), voxel_offsets = zeros({clouds + 1}, int64(), xyz);
  if (n == 0 || clouds == 0)
    return {empty({0, 4}, int32(), xyz), std::move(voxel_offsets), std::move(index), empty({0}, int64(), xyz)};
  const VoxelGrid grid{VoxelGrid::axis(low_x, size_x, nx), VoxelGrid::axis(low_y, size_y, ny),
                       VoxelGrid::axis(low_z, size_z, nz)};
  const Numbering numbering{grid, static_cast<uint64_t>(clouds) * grid.cells()};
  const int blocks = blocks_for(n, kThreads), blocks_and_end = blocks_for(n + 1, kThreads);

  const Tensor keys = empty({n}, int64(), xyz);
  Tensor low = empty({n}, int32(), xyz);
  PCT_LAUNCH(keys_kernel, blocks, kThreads, 0, stream, xyz.data<float>(), n, offsets.data<int64_t>(), clouds, numbering,
             reinterpret_cast<uint64_t*>(keys.mutable_data<int64_t>()), words(low));
  const Tensor rows = sort_points(keys, std::move(low), numbering.outside, stream);
  const Sorted sorted{reinterpret_cast<const uint64_t*>(keys.data<int64_t>()), words(rows), n, numbering.outside};

  // Voxels, and the points outside as one more, by number: where they begin, whether they stay, and which output they are.
  const Tensor numbers = empty({n + 1}, int32(), xyz), older = empty({n}, int32(), xyz);
  const Tensor starts = empty({n + 2}, int32(), xyz), voxels = zeros({n + 2}, int32(), xyz);
  PCT_LAUNCH(mark_kernel, blocks_and_end, kThreads, 0, stream, sorted, words(numbers), words(older));
  sum_before(numbers, stream);
  sum_before(older, stream);
  PCT_LAUNCH(starts_kernel, blocks_and_end, kThreads, 0, stream, sorted, words(numbers), words(starts));
  PCT_LAUNCH(stays_kernel, blocks_and_end, kThreads, 0, stream, sorted, words(numbers), words(older),
             offsets.data<int64_t>(), clouds, max_voxels, words(voxels));
  sum_before(voxels, stream);

  const int64_t total = read_back(words(voxels) + n + 1, stream);
  Tensor coordinates = empty({total, 4}, int32(), xyz), counts = empty({total}, int64(), xyz);
  PCT_LAUNCH(write_kernel, blocks, kThreads, 0, stream, sorted, grid, words(numbers), words(starts), words(voxels), max_points,
             Output{coordinates.mutable_data<int32_t>(), index.mutable_data<int64_t>(), counts.mutable_data<int64_t>()});
  PCT_LAUNCH(voxel_offsets_kernel, blocks_for(clouds + 1, kThreads), kThreads, 0, stream, coordinates.data<int32_t>(), total,
             clouds, voxel_offsets.mutable_data<int64_t>());
  return {std::move(coordinates), std::move(voxel_offsets), std::move(index), std::move(counts)};
}

const Registration kernels("CUDA", [](Library& library) { library.implement<&voxelize_cuda>("voxelize"); });

}  // namespace
}  // namespace pct
