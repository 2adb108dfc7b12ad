// Voxelization on the CPU: a radix sort of runs.
//
// Points come in scan order, so consecutive ones often share a voxel: what is sorted are runs of points, not points. The
// sort is stable, so the runs of a voxel stay in the order of the input, and with them the points.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "checks.h"
#include "common/voxels.h"
#include "cpu/simd.h"
#include "cpu/values.h"

namespace pct {
namespace {

constexpr int64_t kRadixFrom = 256;  // runs; below, comparisons beat counting
constexpr int kMaxDigitBits = 11;

// The number of a point's voxel inside its grid, x fastest; all bits set outside.
template <class Key>
constexpr Key kOutside = ~Key(0);

template <class Key>
PCT_CLONES void find_keys(const float* xyz, int64_t n, const VoxelGrid& grid, Key* keys) {
  const GridAxis axis_x = grid.x, axis_y = grid.y, axis_z = grid.z;
  const Key nx = static_cast<Key>(axis_x.cells), ny = static_cast<Key>(axis_y.cells);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t x = cell_of(xyz[3 * i], axis_x), y = cell_of(xyz[3 * i + 1], axis_y), z = cell_of(xyz[3 * i + 2], axis_z);
    const Key key = (static_cast<Key>(z) * ny + static_cast<Key>(y)) * nx + static_cast<Key>(x);
    keys[i] = (x | y | z) < 0 ? kOutside<Key> : key;
  }
}

template <class Key>
struct Run {
  Key key;
  uint32_t number;  // in the order of the input
};

// Stable, by the lowest `bits` bits of the key; returns which of the two arrays holds the result.
template <class Key>
Run<Key>* sort_runs(Run<Key>* runs, Run<Key>* scratch, int64_t n, int bits) {
  if (n < kRadixFrom) {
    std::stable_sort(runs, runs + n, [](const Run<Key>& a, const Run<Key>& b) { return a.key < b.key; });
    return runs;
  }
  const int passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits, width = (bits + passes - 1) / passes;
  const Key mask = (Key(1) << width) - 1;
  std::vector<uint32_t> starts(static_cast<size_t>(passes) << width, 0);
  for (int64_t i = 0; i < n; ++i)
    for (int pass = 0; pass < passes; ++pass)
      ++starts[(static_cast<size_t>(pass) << width) + (runs[i].key >> (width * pass) & mask)];
  for (int pass = 0; pass < passes; ++pass) {
    uint32_t* start = starts.data() + (static_cast<size_t>(pass) << width);
    uint32_t sum = 0;
    for (int64_t digit = 0; digit <= static_cast<int64_t>(mask); ++digit) sum += std::exchange(start[digit], sum);
    for (int64_t i = 0; i < n; ++i) scratch[start[runs[i].key >> (width * pass) & mask]++] = runs[i];
    std::swap(runs, scratch);
  }
  return runs;
}

// The voxels of one cloud.
template <class Key>
struct Cloud {
  std::unique_ptr<Key[]> keys;              // of its points
  std::unique_ptr<uint32_t[]> run_begins;   // the point at which a run begins
  std::unique_ptr<int32_t[]> run_voxels;    // -1: left out
  std::unique_ptr<uint32_t[]> run_places;   // how many points of its voxel come before a run
  std::vector<Key> voxel_keys;              // ascending
  std::vector<int64_t> counts;
};

template <class Key>
void find_voxels(const float* xyz, int64_t n, const VoxelGrid& grid, int64_t max_points, int64_t max_voxels,
                 Cloud<Key>& cloud) {
  cloud.keys.reset(new Key[n]);
  find_keys(xyz, n, grid, cloud.keys.get());
  const Key* keys = cloud.keys.get();

  // One more place in each array: what is written there does not count.
  std::unique_ptr<Run<Key>[]> runs(new Run<Key>[n + 1]), scratch(new Run<Key>[n + 1]);
  std::unique_ptr<uint32_t[]> ends(new uint32_t[n + 1]);  // run r ends before point ends[r + 1]
  cloud.run_begins.reset(new uint32_t[n + 1]);
  int64_t count = 0;
  Key before = kOutside<Key>;
  for (int64_t i = 0; i < n; ++i) {  // without branches: where runs end is hard to predict
    const Key key = keys[i];
    const bool inside = key != kOutside<Key>;
    runs[count] = {key, static_cast<uint32_t>(count)};
    cloud.run_begins[count] = static_cast<uint32_t>(i);
    count += inside & (key != before);
    ends[inside ? count : 0] = static_cast<uint32_t>(i + 1);
    before = key;
  }

  int bits = 1;
  while (bits < 63 && (grid.cells() - 1) >> bits != 0) ++bits;
  const Run<Key>* sorted = sort_runs(runs.get(), scratch.get(), count, bits);

  // Which voxels are left out where there are too many: those that came last.
  std::vector<uint32_t> firsts;
  uint32_t last_first = UINT32_MAX;  // a voxel stays if its first run has a lower number
  if (count > max_voxels) {
    for (int64_t i = 0; i < count; ++i)
      if (i == 0 || sorted[i].key != sorted[i - 1].key) firsts.push_back(sorted[i].number);
    if (static_cast<int64_t>(firsts.size()) > max_voxels) {
      std::nth_element(firsts.begin(), firsts.begin() + max_voxels, firsts.end());
      last_first = firsts[max_voxels];
    }
  }

  cloud.run_voxels.reset(new int32_t[count + 1]);
  cloud.run_places.reset(new uint32_t[count + 1]);
  cloud.voxel_keys.resize(count);
  cloud.counts.resize(count);
  int32_t voxel = -1;
  bool stays = false;
  for (int64_t i = 0; i < count; ++i) {
    const Run<Key> run = sorted[i];
    if (i == 0 || run.key != sorted[i - 1].key) {
      stays = run.number < last_first;
      if (stays) cloud.voxel_keys[++voxel] = run.key, cloud.counts[voxel] = 0;
    }
    cloud.run_voxels[run.number] = stays ? voxel : -1;
    if (!stays) continue;
    cloud.run_places[run.number] = static_cast<uint32_t>(cloud.counts[voxel]);
    cloud.counts[voxel] += ends[run.number + 1] - cloud.run_begins[run.number];
  }
  cloud.voxel_keys.resize(voxel + 1);
  cloud.counts.resize(voxel + 1);
  for (int64_t& points : cloud.counts) points = std::min(points, max_points);
}

// The voxel of every point, counted from the batch's first; -1 where it has none.
template <class Key>
void write_index(const Cloud<Key>& cloud, int64_t n, int64_t first_voxel, int64_t max_points, int64_t* index) {
  const Key* keys = cloud.keys.get();
  Key before = kOutside<Key>;
  int64_t run = -1;
  for (int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    run += (key != before) & (key != kOutside<Key>);
    before = key;
    if (key == kOutside<Key>) {
      index[i] = -1;
      continue;
    }
    const int64_t voxel = cloud.run_voxels[run];
    const bool stays = voxel >= 0 && cloud.run_places[run] + (i - cloud.run_begins[run]) < max_points;
    index[i] = stays ? first_voxel + voxel : -1;
  }
}

// (batch, z, y, x) of voxels. Numbers below 2^32 are divided in double: half more than a whole number, they are farther from
// the next quotient than rounding reaches.
PCT_CLONES void write_coordinates(const uint32_t* keys, int64_t n, const VoxelGrid& grid, int32_t batch, int32_t* out) {
  const double per_row = 1.0 / grid.x.cells, per_layer = 1.0 / grid.y.cells;
  const double nx = grid.x.cells, ny = grid.y.cells;
  for (int64_t i = 0; i < n; ++i) {
    const double row = std::floor((keys[i] + 0.5) * per_row), layer = std::floor((row + 0.5) * per_layer);
    out[4 * i] = batch;
    out[4 * i + 1] = static_cast<int32_t>(layer);
    out[4 * i + 2] = static_cast<int32_t>(row - layer * ny);
    out[4 * i + 3] = static_cast<int32_t>(keys[i] - row * nx);
  }
}

void write_coordinates(const uint64_t* keys, int64_t n, const VoxelGrid& grid, int32_t batch, int32_t* out) {
  const uint64_t nx = grid.x.cells, ny = grid.y.cells;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t row = keys[i] / nx;
    out[4 * i] = batch;
    out[4 * i + 1] = static_cast<int32_t>(row / ny);
    out[4 * i + 2] = static_cast<int32_t>(row % ny);
    out[4 * i + 3] = static_cast<int32_t>(keys[i] % nx);
  }
}

template <class Key>
std::tuple<Tensor, Tensor, Tensor, Tensor> voxelize(const Tensor& xyz, const Tensor& offsets, const VoxelGrid& grid,
                                                    int64_t max_points, int64_t max_voxels) {
  const int64_t clouds = offsets.size(0) - 1, n = xyz.size(0);
  const int64_t* rows = offsets.data<int64_t>();
  const float* points = xyz.data<float>();
  std::vector<Cloud<Key>> found(clouds);
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b)
      find_voxels(points + 3 * rows[b], rows[b + 1] - rows[b], grid, max_points, max_voxels, found[b]);
  });
  Tensor voxel_offsets = empty({clouds + 1}, int64(), xyz);
  int64_t* ends = voxel_offsets.mutable_data<int64_t>();
  ends[0] = 0;
  for (int64_t b = 0; b < clouds; ++b) ends[b + 1] = ends[b] + static_cast<int64_t>(found[b].counts.size());
  Tensor coordinates = empty({ends[clouds], 4}, int32(), xyz), index = empty({n}, int64(), xyz);
  Tensor counts = empty({ends[clouds]}, int64(), xyz);
  int32_t* cells = coordinates.mutable_data<int32_t>();
  int64_t *voxels = index.mutable_data<int64_t>(), *sizes = counts.mutable_data<int64_t>();
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
      const Cloud<Key>& cloud = found[b];
      write_coordinates(cloud.voxel_keys.data(), ends[b + 1] - ends[b], grid, static_cast<int32_t>(b), cells + 4 * ends[b]);
      std::copy(cloud.counts.begin(), cloud.counts.end(), sizes + ends[b]);
      write_index(cloud, rows[b + 1] - rows[b], ends[b], max_points, voxels + rows[b]);
    }
  });
  return {std::move(coordinates), std::move(voxel_offsets), std::move(index), std::move(counts)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> voxelize_cpu(const Tensor& xyz, const Tensor& offsets, double low_x, double low_y,
                                                        double low_z, double size_x, double size_y, double size_z, int64_t nx,
                                                        int64_t ny, int64_t nz, int64_t max_points, int64_t max_voxels) {
  check_voxelize(xyz, offsets, {low_x, low_y, low_z}, {size_x, size_y, size_z}, {nx, ny, nz}, max_points, max_voxels);
  check_offset_values(offsets.data<int64_t>(), offsets.size(0) - 1, xyz.size(0), "voxelize", "offsets");
  check_finite(xyz.data<float>(), xyz.numel(), 3, "voxelize", "xyz");
  const VoxelGrid grid{VoxelGrid::axis(low_x, size_x, nx), VoxelGrid::axis(low_y, size_y, ny),
                       VoxelGrid::axis(low_z, size_z, nz)};
  return grid.cells() <= kOutside<uint32_t> ? voxelize<uint32_t>(xyz, offsets, grid, max_points, max_voxels)
                                            : voxelize<uint64_t>(xyz, offsets, grid, max_points, max_voxels);
}

const Registration kernels("CPU", [](Library& library) { library.implement<&voxelize_cpu>("voxelize"); });

}  // namespace
}  // namespace pct
