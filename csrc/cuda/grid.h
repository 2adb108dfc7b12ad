// A uniform grid over packed clouds on CUDA: the points of every cloud, sorted by cell, rows ascending inside a cell.
//
// Built without host synchronisation and the same on every run. Its memory depends on the number of points alone: a cloud
// of n points has at most 2 n cells, and where its extent asks for more, its cells are larger. Points that are not finite
// are in no cell. Cells of one cloud are numbered with z fastest: a column (x, y) of cells z0 to z1 is one run of points.
#pragma once
#include <cstring>

#include "cuda/launch.h"

namespace pct {

constexpr int kMaxCellsPerPoint = 2;

struct CloudCells {  // the cells of one cloud
  float lower[3];    // corner of its bounding box, metres
  float cells_per_metre;
  int shape[3];      // cells along x, y and z; zeros for a cloud without finite points: it has no cell to ask for
  uint32_t first;    // number of its first cell; they all lie below kMaxCellsPerPoint * N
};

struct alignas(16) CellPoint {
  float x, y, z;
  int row;  // of the packed data
};

// What kernels take. Points of cell c are points[begins[c]] up to points[begins[c + 1]].
struct Cells {
  const CloudCells* clouds;
  const uint32_t* begins;
  const CellPoint* points;
};

// Owns the memory behind Cells.
struct Grid {
  Tensor clouds, begins, points;
  Cells cells() const {
    return {reinterpret_cast<const CloudCells*>(clouds.data<int32_t>()),
            reinterpret_cast<const uint32_t*>(begins.data<int32_t>()),
            reinterpret_cast<const CellPoint*>(points.data<float>())};
  }
};

// The finest grid whose cells are at least min_cell metres wide, and wide enough for rounding not to matter.
Grid build_grid(const Tensor& xyz, const Tensor& offsets, float min_cell, cudaStream_t stream);

// The cell coordinate of x along one axis. It never decreases with x, rounding included: whatever lies between a and b
// is in a cell between cell_along(a) and cell_along(b). Positions outside the box, and NaN, count as its border cells.
__device__ inline int cell_along(const CloudCells& cloud, int axis, float x) {
  const int cell = static_cast<int>(fminf(fmaxf((x - cloud.lower[axis]) * cloud.cells_per_metre, 0.0f), 2e9f));
  return cell < cloud.shape[axis] ? cell : cloud.shape[axis] - 1;
}

__device__ inline uint32_t cell_number(const CloudCells& cloud, int x, int y, int z) {
  return cloud.first + (static_cast<uint32_t>(x) * cloud.shape[1] + y) * cloud.shape[2] + z;
}

// Floats travel as unsigned words in the same order where atomicMax must work on them.
__device__ inline float from_ordered(uint32_t word) {
  const uint32_t bits = word & 0x80000000u ? word & 0x7fffffffu : ~word;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// (B, 6) ordered words per cloud: the maxima of -x, -y, -z, x, y and z of its finite points; zeros where there are none.
Tensor bound_clouds(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream);

// The cloud that row belongs to: the last one that begins at or before it.
__device__ inline int64_t cloud_of(const int64_t* offsets, int64_t clouds, int64_t row) {
  int64_t low = 0, high = clouds;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle] <= row) low = middle;
    else high = middle;
  }
  return low;
}

}  // namespace pct
