// Ball query on CUDA: one warp per query.
//
// In a small cloud the warp scans the points in index order, 32 at a time, until it has k. In a large one the ball touches at
// most 32 cells of a grid, one per lane; rows ascend inside a cell, so each lane walks its cell from hit to hit and the warp
// merges: the lowest row of all lanes is the next neighbour. Either way rows come in order, there is nothing to sort, k is
// not limited, and points behind the k-th neighbour are not looked at.
#include <climits>
#include <optional>

#include "checks.h"
#include "common/geometry.h"
#include "cuda/grid.h"
#include "cuda/launch.h"

namespace pct {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int64_t kGridFrom = 2048;  // points per cloud from which cells pay; also the average from which a grid is built

struct Ball {
  float x, y, z;
  float limit;  // a point is inside when its squared distance is <= limit, so NaN never is
  __device__ bool holds(float px, float py, float pz) const { return squared_norm(px - x, py - y, pz - z) <= limit; }
};

// The first k rows of [begin, end) inside the ball; how many there are, but k at most.
__device__ int64_t scan_rows(const float* __restrict__ xyz, int64_t begin, int64_t end, const Ball& ball, int64_t k,
                             int64_t* __restrict__ out) {
  const int lane = threadIdx.x % 32;
  int64_t found = 0;
  for (int64_t first = begin; first < end && found < k; first += 32) {
    const int64_t row = first + lane;
    const bool inside = row < end && ball.holds(xyz[3 * row], xyz[3 * row + 1], xyz[3 * row + 2]);
    const unsigned those = __ballot_sync(kFullWarp, inside);
    const int64_t place = found + __popc(those & ((1u << lane) - 1));
    if (inside && place < k) out[place] = row;
    found += __popc(those);
  }
  return found < k ? found : k;
}

// The same from up to 32 runs of points with ascending rows, one run [at, end) per lane.
__device__ int64_t merge_runs(const CellPoint* __restrict__ points, uint32_t at, uint32_t end, const Ball& ball, int64_t k,
                              int64_t* __restrict__ out) {
  constexpr int kNone = INT_MAX;  // rows are below kMaxBallQueryPoints
  const int lane = threadIdx.x % 32;
  int lowest = -1, next = -1;
  for (int64_t found = 0; found < k; ++found) {
    if (next == lowest) {  // this lane's row was written: on to its next hit
      next = kNone;
      while (at < end && next == kNone) {
        const CellPoint point = points[at++];
        if (ball.holds(point.x, point.y, point.z)) next = point.row;
      }
    }
    lowest = next;
    for (int step = 16; step > 0; step /= 2) {
      const int other = __shfl_xor_sync(kFullWarp, lowest, step);
      lowest = other < lowest ? other : lowest;
    }
    if (lowest == kNone) return found;
    if (lane == 0) out[found] = lowest;
  }
  return k;
}

__global__ void ball_query_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                  int64_t clouds, const float* __restrict__ query_xyz, int64_t m,
                                  const int64_t* __restrict__ query_offsets, Cells cells, float reach, float limit,
                                  int64_t k, bool pad_first, int64_t* __restrict__ index) {
  const int lane = threadIdx.x % 32;
  const int64_t query = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (query >= m) return;  // a whole warp
  const int64_t b = cloud_of(query_offsets, clouds, query);
  const int64_t begin = offsets[b] < 0 ? 0 : offsets[b], end = offsets[b + 1] < n ? offsets[b + 1] : n;
  const float* q = query_xyz + 3 * query;
  const Ball ball{q[0], q[1], q[2], limit};
  int64_t* out = index + query * k;

  int64_t found = -1;
  if (cells.clouds != nullptr && end - begin >= kGridFrom && cells.clouds[b].shape[0] > 0) {
    const CloudCells& cloud = cells.clouds[b];
    int low[3], count[3];
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = cell_along(cloud, axis, ball_low(q[axis], reach));
      count[axis] = cell_along(cloud, axis, ball_high(q[axis], reach)) - low[axis] + 1;
    }
    if (int64_t(count[0]) * count[1] <= 32 && count[0] * count[1] * int64_t(count[2]) <= 32) {
      uint32_t at = 0, last = 0;
      if (lane < count[0] * count[1] * count[2]) {
        const uint32_t cell = cell_number(cloud, low[0] + lane / (count[1] * count[2]),
                                          low[1] + lane / count[2] % count[1], low[2] + lane % count[2]);
        at = cells.begins[cell];
        last = cells.begins[cell + 1];
      }
      found = merge_runs(cells.points, at, last, ball, k, out);
    }
  }
  if (found < 0) found = scan_rows(xyz, begin, end, ball, k, out);

  __syncwarp();
  const int64_t padding = pad_first && found > 0 ? out[0] : -1;
  for (int64_t j = found + lane; j < k; j += 32) out[j] = padding;
}

Tensor ball_query_cuda(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz, const Tensor& query_offsets,
                       double radius, int64_t k, bool closed, bool pad_first) {
  check_ball_query(xyz, offsets, query_xyz, query_offsets, radius, k);
  OnDeviceOf device(xyz);
  const int64_t n = xyz.size(0), m = query_xyz.size(0), clouds = offsets.size(0) - 1;
  Tensor index = empty({m, k}, int64(), xyz);
  if (m == 0 || clouds == 0) return index;
  const float reach = ball_reach(radius);
  std::optional<Grid> grid;
  // Cells a little wider than the ball's half, so that it touches three at most along an axis.
  if (n >= kGridFrom * clouds) grid = build_grid(xyz, offsets, reach * 1.001f, device.stream());
  PCT_LAUNCH(ball_query_kernel, blocks_for(m, kWarps), kThreads, 0, device.stream(), xyz.data<float>(), n,
             offsets.data<int64_t>(), clouds, query_xyz.data<float>(), m, query_offsets.data<int64_t>(),
             grid ? grid->cells() : Cells{}, reach, ball_limit(radius, closed), k, pad_first, index.mutable_data<int64_t>());
  return index;
}

const Registration kernels("CUDA", [](Library& library) { library.implement<&ball_query_cuda>("ball_query"); });

}  // namespace
}  // namespace pct
