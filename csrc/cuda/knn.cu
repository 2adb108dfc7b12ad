// The k nearest points on CUDA: one warp per query walks a tree of boxes, thirty-two wide, over the packed points.
//
// The points are laid along a Hilbert curve, cloud after cloud, and cut into blocks of 32; 32 blocks make a node, 32
// nodes the next higher node. A cloud is a range of places in that order; blocks at its ends may hold points of its
// neighbours too, which are passed over. Small clouds keep the order of their rows: the same walk is then a search
// through all points. The tree is that of cpu/box_tree.h, and neighbours are the same 64-bit keys, so both give the
// same rows.
#include <algorithm>
#include <iterator>

#include "checks.h"
#include "common/curves.h"
#include "common/geometry.h"
#include "common/neighbor_key.h"
#include "cuda/grid.h"
#include "cuda/launch.h"
#include "cuda/sort.h"

namespace pct {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int64_t kSortedFrom = 2048;  // points per cloud on average from which sorting pays
constexpr int kMaxLevels = 6;  // 2^31 points in blocks of 32, up to a level of at most 32 nodes
constexpr int kMaxAxisBits = 10;

struct alignas(16) TreePoint {
  float x, y, z;  // NaN for a point that is not finite
  uint32_t row;
};

struct alignas(16) Box {
  float low[3];
  uint32_t row;  // the lowest in the box
  float high[3];
  uint32_t unused;
};

struct Tree {
  const TreePoint* points;
  int64_t size;
  int levels;
  const Box* boxes[kMaxLevels];  // of blocks, of nodes, of nodes of nodes, ...
};

template <class T>
__device__ bool finite(const T* p) {
  return p[0] - p[0] == 0 && p[1] - p[1] == 0 && p[2] - p[2] == 0;
}

// key = cloud above, place along the curve through the cloud's cube below
__global__ void number_points_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                     int64_t clouds, const uint32_t* __restrict__ bounds, int axis_bits,
                                     uint32_t* __restrict__ keys) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= n) return;
  const int64_t cloud = cloud_of(offsets, clouds, row);
  const uint32_t* box = bounds + 6 * cloud;
  float extent = 0;
  for (int axis = 0; axis < 3; ++axis)
    extent = fmaxf(extent, from_ordered(box[3 + axis]) + from_ordered(box[axis]));
  const float last = static_cast<float>((1 << axis_bits) - 1);
  uint32_t cell[3];
  for (int axis = 0; axis < 3; ++axis) {
    const float place = (xyz[3 * row + axis] + from_ordered(box[axis])) / extent * last;
    cell[axis] = static_cast<uint32_t>(fminf(fmaxf(place, 0.0f), last));  // NaN: 0
  }
  for (int bit = axis_bits - 1; bit > 0; --bit) undo_turn(cell[0], cell[1], cell[2], bit);
  const uint64_t code = gray_to_binary(interleave_bits(cell[0], cell[1], cell[2]));
  keys[row] = static_cast<uint32_t>(static_cast<uint64_t>(cloud) << (3 * axis_bits) | code);
}

// The box around those of the lanes of a warp; lane 0 writes it.
__device__ void write_union(Box box, int lane, Box* out) {
  for (int step = 16; step > 0; step /= 2) {
    for (int axis = 0; axis < 3; ++axis) {
      box.low[axis] = fminf(box.low[axis], __shfl_xor_sync(kFullWarp, box.low[axis], step));
      box.high[axis] = fmaxf(box.high[axis], __shfl_xor_sync(kFullWarp, box.high[axis], step));
    }
    const uint32_t row = __shfl_xor_sync(kFullWarp, box.row, step);
    box.row = row < box.row ? row : box.row;
  }
  if (lane == 0) *out = box;
}

__device__ Box empty_box() {
  return Box{{INFINITY, INFINITY, INFINITY}, kNoRow, {-INFINITY, -INFINITY, -INFINITY}, 0};
}

// One warp per block of points. rows: the order of the points, or null for the order they are in.
__global__ void bound_blocks_kernel(const float* __restrict__ xyz, int64_t n, const uint32_t* __restrict__ rows,
                                    TreePoint* __restrict__ points, Box* __restrict__ boxes) {
  const int lane = threadIdx.x % 32;
  const int64_t block = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, place = block * 32 + lane;
  if (block * 32 >= n) return;  // a whole warp
  Box box = empty_box();
  if (place < n) {
    const uint32_t row = rows ? rows[place] : static_cast<uint32_t>(place);
    const float p[3] = {xyz[3 * int64_t(row)], xyz[3 * int64_t(row) + 1], xyz[3 * int64_t(row) + 2]};
    points[place] = finite(p) ? TreePoint{p[0], p[1], p[2], row} : TreePoint{NAN, NAN, NAN, row};
    if (finite(p)) {
      box.row = row;
      for (int axis = 0; axis < 3; ++axis) box.low[axis] = box.high[axis] = p[axis];
    }
  }
  write_union(box, lane, boxes + block);
}

// One warp per node.
__global__ void bound_nodes_kernel(const Box* __restrict__ children, int64_t n, Box* __restrict__ boxes) {
  const int lane = threadIdx.x % 32;
  const int64_t node = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, child = node * 32 + lane;
  if (node * 32 >= n) return;  // a whole warp
  write_union(child < n ? children[child] : empty_box(), lane, boxes + node);
}

__device__ uint64_t box_key(const Box& box, const float* query) {
  float outside[3];
  for (int axis = 0; axis < 3; ++axis)
    outside[axis] = fmaxf(fmaxf(box.low[axis] - query[axis], query[axis] - box.high[axis]), 0.0f);
  return neighbor_key(squared_norm(outside[0], outside[1], outside[2]), box.row);
}

// Bitonic networks over the lanes of a warp. Keys that rise to the middle and then fall, or the reverse, become
// ascending.
__device__ uint64_t exchange(uint64_t key, int step, bool keep_lower) {
  const uint64_t other = __shfl_xor_sync(kFullWarp, key, step);
  return (other < key) == keep_lower ? other : key;
}

__device__ uint64_t sort_bitonic(uint64_t key, int lane) {
  for (int step = 16; step > 0; step /= 2) key = exchange(key, step, (lane & step) == 0);
  return key;
}

__device__ uint64_t sort(uint64_t key, int lane) {
  for (int size = 2; size < 32; size *= 2)
    for (int step = size / 2; step > 0; step /= 2)
      key = exchange(key, step, ((lane & step) == 0) == ((lane & size) == 0));
  return sort_bitonic(key, lane);
}

// The nearest points of one query so far: key number 32 run + lane is in this lane. 32 (kRuns - 1) < k <= 32 kRuns.
// Loops over runs are unrolled, so that the keys stay in registers.
template <int kRuns>
struct Nearest {
  uint64_t keys[kRuns];
  uint64_t bound = kNoNeighbor;  // the k-th key: only lower ones are wanted
  int k, lane;
  uint64_t* queue;  // 64 keys in shared memory, the lower half of them for candidates that wait for company
  int waiting = 0;

  __device__ Nearest(int k, int lane, uint64_t* queue) : k(k), lane(lane), queue(queue) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) keys[run] = kNoNeighbor;
  }

  // Every lane brings a key; those below the bound are queued, and merged once they are a full warp.
  __device__ void offer(uint64_t key) {
    const unsigned wanted = __ballot_sync(kFullWarp, key < bound);
    if (key < bound) queue[waiting + __popc(wanted & ((1u << lane) - 1))] = key;
    waiting += __popc(wanted);
    if (waiting < 32) return;
    __syncwarp();
    const uint64_t full = queue[lane], rest = queue[32 + lane];
    __syncwarp();
    waiting -= 32;
    if (lane < waiting) queue[lane] = rest;
    merge(full);
  }

  __device__ void finish() {
    __syncwarp();
    merge(lane < waiting ? queue[lane] : kNoNeighbor);
  }

  // Passes 32 new keys through the runs from the lowest on: each keeps the lower half of both, hands on the upper.
  __device__ void merge(uint64_t fresh) {
    fresh = sort(fresh, lane);
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const uint64_t reversed = __shfl_xor_sync(kFullWarp, fresh, 31);
      const uint64_t lower = reversed < keys[run] ? reversed : keys[run];
      const uint64_t upper = reversed < keys[run] ? keys[run] : reversed;
      keys[run] = sort_bitonic(lower, lane);
      if (run + 1 < kRuns) fresh = sort_bitonic(upper, lane);
    }
    bound = __shfl_sync(kFullWarp, keys[kRuns - 1], (k - 1) % 32);
  }
};

template <int kRuns>
__global__ void knn_kernel(Tree tree, const int64_t* __restrict__ offsets, const float* __restrict__ queries,
                           int64_t m, const int64_t* __restrict__ query_offsets, int64_t clouds, int k,
                           int64_t* __restrict__ index, float* __restrict__ distance) {
  __shared__ uint64_t queues[kWarps][64];
  const int lane = threadIdx.x % 32;
  const int64_t q = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (q >= m) return;  // a whole warp
  const int64_t cloud = cloud_of(query_offsets, clouds, q);
  const int64_t begin = offsets[cloud] < 0 ? 0 : offsets[cloud];
  const int64_t end = offsets[cloud + 1] > tree.size ? tree.size : offsets[cloud + 1];
  const float query[3] = {queries[3 * q], queries[3 * q + 1], queries[3 * q + 2]};
  Nearest<kRuns> nearest(k, lane, queues[threadIdx.x / 32]);

  if (finite(query) && begin < end) {
    // The walk begins at the lowest level at which the cloud has at most 32 boxes. Per level every lane holds one box
    // of the node under way, and its key until it has been visited.
    uint64_t open[kMaxLevels];
    int64_t first[kMaxLevels];
    const auto enter = [&](int level, int64_t child) {
      const int64_t low = begin >> (5 * (level + 1)), high = (end - 1) >> (5 * (level + 1));
      first[level] = child > low ? child : low;
      const int64_t box = first[level] + lane;
      open[level] = box <= high && box < child + 32 ? box_key(tree.boxes[level][box], query) : kNoNeighbor;
    };
    int top = 0;
    while (top + 1 < tree.levels && ((end - 1) >> (5 * (top + 1))) - (begin >> (5 * (top + 1))) >= 32) ++top;
    enter(top, begin >> (5 * (top + 1)));
    for (int level = top; level <= top;) {
      uint64_t next = open[level];
      for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(kFullWarp, next, step);
        next = other < next ? other : next;
      }
      if (next >= nearest.bound) {  // neither this box nor any farther one
        ++level;
        continue;
      }
      // Rows differ between boxes, so one lane alone holds this key.
      const int chosen = __ffs(__ballot_sync(kFullWarp, open[level] == next)) - 1;
      if (lane == chosen) open[level] = kNoNeighbor;
      const int64_t box = first[level] + chosen;
      if (level > 0) {
        enter(--level, box * 32);
        continue;
      }
      const int64_t place = box * 32 + lane;
      uint64_t key = kNoNeighbor;
      if (place >= begin && place < end) {
        const TreePoint p = tree.points[place];
        key = neighbor_key(squared_norm(query[0] - p.x, query[1] - p.y, query[2] - p.z), p.row);
      }
      nearest.offer(key);
    }
    nearest.finish();
  }
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    const int j = 32 * run + lane;
    if (j >= k) continue;
    index[q * k + j] = neighbor_row(nearest.keys[run]);
    distance[q * k + j] = neighbor_distance(nearest.keys[run]);
  }
}

// float64 has no fast path: one thread per query meets every point and keeps its list in the results.
__global__ void knn_double_kernel(const double* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                  const double* __restrict__ queries, int64_t m,
                                  const int64_t* __restrict__ query_offsets, int64_t clouds, int k,
                                  int64_t* __restrict__ index, double* __restrict__ distance) {
  const int64_t q = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (q >= m) return;
  const int64_t cloud = cloud_of(query_offsets, clouds, q);
  const int64_t begin = offsets[cloud] < 0 ? 0 : offsets[cloud], end = offsets[cloud + 1] > n ? n : offsets[cloud + 1];
  const double* query = queries + 3 * q;
  index += q * k;
  distance += q * k;
  int found = 0;
  for (int64_t row = begin; row < end; ++row) {
    const double* p = xyz + 3 * row;
    const double d = squared_norm(query[0] - p[0], query[1] - p[1], query[2] - p[2]);
    if (!finite(p) || !finite(query) || (found == k && d >= distance[k - 1])) continue;
    int j = found < k ? found++ : k - 1;
    for (; j > 0 && distance[j - 1] > d; --j) distance[j] = distance[j - 1], index[j] = index[j - 1];
    distance[j] = d;
    index[j] = row;
  }
  for (int j = found; j < k; ++j) distance[j] = INFINITY, index[j] = -1;
}

// Owns the memory of a Tree.
struct TreeMemory {
  Tensor points, boxes;
  Tree tree;
};

TreeMemory build_tree(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream) {
  const int64_t n = xyz.size(0), clouds = offsets.size(0) - 1;
  PCT_CHECK(n < int64_t(1) << 31, "knn: at most 2^31 - 1 points on CUDA, got ", n, "; split the batch");
  const float* coordinates = xyz.data<float>();
  Tensor rows = empty({0}, int32(), xyz);
  const bool sorted = n > kSortedFrom * clouds;
  if (sorted) {
    int cloud_bits = 0;
    while (clouds > int64_t(1) << cloud_bits) ++cloud_bits;
    const int axis_bits = std::min(kMaxAxisBits, (32 - cloud_bits) / 3);
    Tensor bounds = bound_clouds(xyz, offsets, stream), keys = empty({n}, int32(), xyz);
    PCT_LAUNCH(number_points_kernel, blocks_for(n, kThreads), kThreads, 0, stream, coordinates, n,
               offsets.data<int64_t>(), clouds, words(bounds), axis_bits, words(keys));
    rows = stable_sort(std::move(keys), cloud_bits + 3 * axis_bits, stream).rows;
  }
  int64_t counts[kMaxLevels], boxes = 0;
  int levels = 0;
  for (int64_t count = n; levels == 0 || count > 32; boxes += counts[levels++])
    counts[levels] = count = (count + 31) / 32;
  static_assert(sizeof(TreePoint) == 16 && sizeof(Box) == 32);
  TreeMemory memory{empty({n, 4}, float32(), xyz), empty({boxes, 8}, float32(), xyz), {}};
  TreePoint* points = reinterpret_cast<TreePoint*>(memory.points.mutable_data<float>());
  Box* box = reinterpret_cast<Box*>(memory.boxes.mutable_data<float>());
  memory.tree = Tree{points, n, levels, {}};
  for (int level = 0; level < levels && n > 0; ++level) {
    if (level == 0)
      PCT_LAUNCH(bound_blocks_kernel, blocks_for(counts[0], kWarps), kThreads, 0, stream, coordinates, n,
                 sorted ? words(rows) : nullptr, points, box);
    else
      PCT_LAUNCH(bound_nodes_kernel, blocks_for(counts[level], kWarps), kThreads, 0, stream,
                 memory.tree.boxes[level - 1], counts[level - 1], box);
    memory.tree.boxes[level] = box;
    box += counts[level];
  }
  return memory;
}

std::tuple<Tensor, Tensor> knn_cuda(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz,
                                    const Tensor& query_offsets, int64_t k) {
  check_knn(xyz, offsets, query_xyz, query_offsets, k);
  OnDeviceOf device(xyz);
  const int64_t n = xyz.size(0), m = query_xyz.size(0), clouds = offsets.size(0) - 1;
  Tensor index = empty({m, k}, int64(), xyz), distance = empty({m, k}, xyz.dtype(), xyz);
  if (m == 0 || clouds == 0) return {std::move(index), std::move(distance)};
  const int64_t *rows = offsets.data<int64_t>(), *query_rows = query_offsets.data<int64_t>();
  if (xyz.dtype() == float64()) {
    PCT_LAUNCH(knn_double_kernel, blocks_for(m, kThreads), kThreads, 0, device.stream(), xyz.data<double>(), n, rows,
               query_xyz.data<double>(), m, query_rows, clouds, static_cast<int>(k), index.mutable_data<int64_t>(),
               distance.mutable_data<double>());
    return {std::move(index), std::move(distance)};
  }
  const TreeMemory memory = build_tree(xyz, offsets, device.stream());
  constexpr decltype(&knn_kernel<1>) kernels[] = {knn_kernel<1>, knn_kernel<2>, knn_kernel<3>, knn_kernel<4>,
                                                  knn_kernel<5>, knn_kernel<6>, knn_kernel<7>, knn_kernel<8>};
  static_assert(std::size(kernels) == kMaxNeighbors / 32);
  PCT_LAUNCH(kernels[(k - 1) / 32], blocks_for(m, kWarps), kThreads, 0, device.stream(), memory.tree, rows,
             query_xyz.data<float>(), m, query_rows, clouds, static_cast<int>(k), index.mutable_data<int64_t>(),
             distance.mutable_data<float>());
  return {std::move(index), std::move(distance)};
}

const Registration kernels("CUDA", [](Library& library) { library.implement<&knn_cuda>("knn"); });

}  // namespace
}  // namespace pct
