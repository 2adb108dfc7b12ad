// Ball query on the CPU: the first k rows, in index order, within a radius of each query.
//
// A cloud lies in memory sorted by the cells of a uniform grid, rows ascending inside each cell, with z the fastest axis, so
// that the cells of one (x, y) column around a query are one run of points. A query scans the runs its ball touches, sixteen
// points at a time, and keeps the k smallest rows. A cell's rows ascend, so a scan ends where they pass the k-th row
// known so far: crowded balls cost little more than sparse ones. A grid of one cell is the plain scan in index order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "checks.h"
#include "common/geometry.h"
#include "cpu/simd.h"
#include "cpu/values.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(PCT_PORTABLE)
#include <immintrin.h>
#define PCT_AVX512 __attribute__((target("avx512f,bmi,bmi2,popcnt")))
#endif

namespace pct {
namespace {

constexpr int64_t kLanes = 16, kBlock = 4 * kLanes;
constexpr int64_t kShortRun = 64;  // runs up to this length are scanned whole, whatever cells they cross

// ---- scanning a run of points ----------------------------------------------------------------------------------------
struct Points {  // of one cloud; the arrays are readable kBlock places past the end
  float *x, *y, *z;
  int32_t* row;  // counted from the cloud's first
};

struct Ball {
  float x, y, z;
  float limit;  // a point is inside when its squared distance is <= limit
};

// Both kinds of scan append the rows of points inside the ball to hits, and return the new end of hits.
struct Scan {
  // Rows below `bound` of points [begin, end). Where rows ascend it stops at the first row that is not below bound, and soon
  // after `enough` hits: hits needs room for kLanes more.
  int32_t* (*run)(const Points&, int64_t begin, int64_t end, const Ball&, int32_t bound, bool ascending, int64_t enough,
                  int32_t* hits);
  // All n points in index order, until there are `enough` hits; hits needs room for kBlock more.
  int32_t* (*flat)(const Points&, int64_t n, const Ball&, int64_t enough, int32_t* hits);
};

PCT_CLONES int32_t* scan_run_portable(const Points& points, int64_t begin, int64_t end, const Ball& ball, int32_t bound,
                                      bool ascending, int64_t enough, int32_t* hits) {
  const int32_t* stop = hits + enough;
  for (int64_t i = begin; i < end; i += kLanes) {
    if (ascending && (points.row[i] >= bound || hits >= stop)) break;
    int32_t inside[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      const float distance = squared_norm(points.x[i + j] - ball.x, points.y[i + j] - ball.y, points.z[i + j] - ball.z);
      inside[j] = (distance <= ball.limit) & (points.row[i + j] < bound);
    }
    const int64_t count = std::min(kLanes, end - i);
    for (int64_t j = 0; j < count; ++j) {
      *hits = points.row[i + j];
      hits += inside[j];
    }
  }
  return hits;
}

int32_t* scan_flat_portable(const Points& points, int64_t n, const Ball& ball, int64_t enough, int32_t* hits) {
  return scan_run_portable(points, 0, n, ball, std::numeric_limits<int32_t>::max(), true, enough, hits);
}

#ifdef PCT_AVX512
PCT_AVX512 inline __mmask16 inside_avx512(const float* px, const float* py, const float* pz, __m512 x, __m512 y, __m512 z,
                                          __m512 limit) {
  const __m512 dx = _mm512_sub_ps(_mm512_loadu_ps(px), x), dy = _mm512_sub_ps(_mm512_loadu_ps(py), y);
  const __m512 dz = _mm512_sub_ps(_mm512_loadu_ps(pz), z);
  const __m512 xy = _mm512_add_ps(_mm512_mul_ps(dx, dx), _mm512_mul_ps(dy, dy));
  return _mm512_cmp_ps_mask(_mm512_add_ps(xy, _mm512_mul_ps(dz, dz)), limit, _CMP_LE_OQ);
}

PCT_AVX512 int32_t* scan_run_avx512(const Points& points, int64_t begin, int64_t end, const Ball& ball, int32_t bound,
                                    bool ascending, int64_t enough, int32_t* hits) {
  const __m512 x = _mm512_set1_ps(ball.x), y = _mm512_set1_ps(ball.y), z = _mm512_set1_ps(ball.z);
  const __m512 limit = _mm512_set1_ps(ball.limit);
  const __m512i bounds = _mm512_set1_epi32(bound);
  const float *px = points.x, *py = points.y, *pz = points.z;
  const int32_t *rows = points.row, *stop = hits + enough;
  for (int64_t i = begin; i < end; i += kLanes) {
    if (ascending && (rows[i] >= bound || hits >= stop)) break;
    const __m512i row = _mm512_loadu_si512(rows + i);
    const __mmask16 valid = _bzhi_u32(0xffff, static_cast<uint32_t>(std::min(end - i, kLanes)));
    const __mmask16 inside = _mm512_mask_cmplt_epi32_mask(valid & inside_avx512(px + i, py + i, pz + i, x, y, z, limit),
                                                          row, bounds);
    // Compressing straight into memory is slow on Zen processors.
    _mm512_storeu_si512(hits, _mm512_maskz_compress_epi32(inside, row));
    hits += _mm_popcnt_u32(inside);
  }
  return hits;
}

PCT_AVX512 int32_t* scan_flat_avx512(const Points& points, int64_t n, const Ball& ball, int64_t enough, int32_t* hits) {
  constexpr int64_t kVectors = kBlock / kLanes;
  const __m512 x = _mm512_set1_ps(ball.x), y = _mm512_set1_ps(ball.y), z = _mm512_set1_ps(ball.z);
  const __m512 limit = _mm512_set1_ps(ball.limit);
  const float *px = points.x, *py = points.y, *pz = points.z;
  const int32_t* stop = hits + enough;
  __m512i row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t i = 0; i < n && hits < stop; i += kBlock) {
    uint32_t inside[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t j = i + v * kLanes;
      inside[v] = inside_avx512(px + j, py + j, pz + j, x, y, z, limit);
    }
    if (n - i < kBlock)
      for (int64_t v = 0; v < kVectors; ++v)
        inside[v] = _bzhi_u32(inside[v], static_cast<uint32_t>(std::clamp<int64_t>(n - i - v * kLanes, 0, kLanes)));
    for (int64_t v = 0; v < kVectors; ++v) {  // without a branch: where hits are few, their pattern is not predictable
      _mm512_storeu_si512(hits, _mm512_maskz_compress_epi32(inside[v], row));
      hits += _mm_popcnt_u32(inside[v]);
      row = _mm512_add_epi32(row, _mm512_set1_epi32(kLanes));
    }
  }
  return hits;
}
#endif

Scan choose_scan() {
#ifdef PCT_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("bmi2")) return {scan_run_avx512, scan_flat_avx512};
#endif
  return {scan_run_portable, scan_flat_portable};
}

// ---- the k smallest of many rows -------------------------------------------------------------------------------------
// A set of rows below n as bits, with a bit per word that says whether it holds any: sorts by going through it.
class RowSet {
  std::vector<uint64_t> words_, summary_;

 public:
  explicit RowSet(int64_t n) : words_((n + 63) / 64), summary_((words_.size() + 63) / 64) {}

  void insert(const int32_t* rows, const int32_t* end) {
    for (; rows < end; ++rows) {
      const uint32_t row = static_cast<uint32_t>(*rows);
      words_[row >> 6] |= uint64_t(1) << (row & 63);
      summary_[row >> 12] |= uint64_t(1) << (row >> 6 & 63);
    }
  }

  // Writes the k smallest rows, ascending, to out, forgets all, and returns the end of what it wrote.
  int32_t* take(int64_t k, int32_t* out) {
    const int32_t* stop = out + k;
    for (size_t s = 0; s < summary_.size(); ++s) {
      for (uint64_t full = summary_[s]; full != 0; full &= full - 1) {
        const size_t w = s * 64 + __builtin_ctzll(full);
        if (out < stop)
          for (uint64_t rows = words_[w]; rows != 0 && out < stop; rows &= rows - 1)
            *out++ = static_cast<int32_t>(w * 64 + __builtin_ctzll(rows));
        words_[w] = 0;
      }
      summary_[s] = 0;
    }
    return out;
  }
};

// ---- the grid --------------------------------------------------------------------------------------------------------
constexpr int32_t kMaxCellsPerAxis = 1 << 20;  // exact in float

// Cells are mapped to a table of about two entries per point: one to one where they are so few, else by a hash, so that neither
// a tiny radius nor a far outlier costs memory or speed. Cells that share an entry only add candidates.
struct Grid {
  Points points;
  float lower[3], last[3], cells_per_metre;
  uint32_t stride[2], mask;      // entry of cell (x, y, z): (x stride[0] + y stride[1] + z) & mask
  std::vector<uint32_t> begins;  // entry e holds points begins[e] to begins[e + 1]
  int64_t size;
  bool flat;  // one cell, in index order

  // Never decreases with x, rounding included: what lies between a and b is in a cell between cell(a) and cell(b).
  int32_t cell(int axis, float x) const {
    return static_cast<int32_t>(std::min(std::max((x - lower[axis]) * cells_per_metre, 0.0f), last[axis]));
  }
};

PCT_CLONES void transpose(const float* xyz, int64_t n, const Points& points) {
  for (int64_t i = 0; i < n; ++i) {
    points.x[i] = xyz[3 * i], points.y[i] = xyz[3 * i + 1], points.z[i] = xyz[3 * i + 2];
    points.row[i] = static_cast<int32_t>(i);
  }
}

PCT_CLONES void find_range(const float* values, int64_t n, float* lower, float* upper) {
  float low[kLanes], high[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) low[j] = high[j] = values[0];
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      low[j] = values[i + j] < low[j] ? values[i + j] : low[j];
      high[j] = values[i + j] > high[j] ? values[i + j] : high[j];
    }
  for (; i < n; ++i) low[0] = std::min(low[0], values[i]), high[0] = std::max(high[0], values[i]);
  *lower = *std::min_element(low, low + kLanes);
  *upper = *std::max_element(high, high + kLanes);
}

PCT_CLONES void find_entries(const Grid& grid, int64_t n, uint32_t* entries) {
  const float *px = grid.points.x, *py = grid.points.y, *pz = grid.points.z;
  const float x0 = grid.lower[0], y0 = grid.lower[1], z0 = grid.lower[2], scale = grid.cells_per_metre;
  const float x1 = grid.last[0], y1 = grid.last[1], z1 = grid.last[2];
  const uint32_t sx = grid.stride[0], sy = grid.stride[1], mask = grid.mask;
  for (int64_t i = 0; i < n; ++i) {
    float x = (px[i] - x0) * scale, y = (py[i] - y0) * scale, z = (pz[i] - z0) * scale;
    x = x < x1 ? x : x1, y = y < y1 ? y : y1, z = z < z1 ? z : z1;
    entries[i] = (static_cast<uint32_t>(static_cast<int32_t>(x)) * sx + static_cast<uint32_t>(static_cast<int32_t>(y)) * sy +
                  static_cast<uint32_t>(static_cast<int32_t>(z))) & mask;
  }
}

// All points in one cell, in index order.
void make_flat(const float* xyz, int64_t n, Grid& grid) {
  transpose(xyz, n, grid.points);
  grid.size = n;
  grid.flat = true;
  grid.cells_per_metre = 1;
  grid.mask = grid.stride[0] = grid.stride[1] = 0;
  for (int axis = 0; axis < 3; ++axis) grid.lower[axis] = grid.last[axis] = 0;
  grid.begins = {0, static_cast<uint32_t>(n)};
}

// Lays the grid over a flat cloud and counts the points of its cells; the points stay where they are. Cells are as wide as
// the ball reaches, and wide enough for rounding not to matter, so a ball touches a few only.
void lay_cells(float reach, Grid& grid, uint32_t* entries) {
  const float* axes[3] = {grid.points.x, grid.points.y, grid.points.z};
  double extent[3], cell = reach;
  for (int axis = 0; axis < 3; ++axis) {
    float upper;
    find_range(axes[axis], grid.size, &grid.lower[axis], &upper);
    extent[axis] = double(upper) - grid.lower[axis];
    cell = std::max({cell, extent[axis] / kMaxCellsPerAxis, 1e-6 * std::abs(upper), 1e-6 * std::abs(grid.lower[axis])});
  }
  grid.cells_per_metre = static_cast<float>(1 / std::min(cell, 1e37));
  double cells = 1;
  for (int axis = 0; axis < 3; ++axis) {
    grid.last[axis] = static_cast<float>(
        std::min(std::floor(extent[axis] * grid.cells_per_metre), double(kMaxCellsPerAxis - 1)));
    cells *= grid.last[axis] + 1.0;
  }
  uint32_t table = 64;
  while (table < 2 * grid.size && table < 1u << 30) table *= 2;
  grid.mask = table - 1;
  const bool one_to_one = cells <= table;
  grid.stride[1] = one_to_one ? static_cast<uint32_t>(grid.last[2]) + 1 : 0x85ebca6bu;
  grid.stride[0] = one_to_one ? grid.stride[1] * (static_cast<uint32_t>(grid.last[1]) + 1) : 0x9e3779b1u;
  find_entries(grid, grid.size, entries);
  // begins[e + 2] counts entry e; summed up, begins[e + 1] is where entry e begins, and after sort_points() where it ends.
  grid.begins.assign(table + 2, 0);
  for (int64_t i = 0; i < grid.size; ++i) ++grid.begins[entries[i] + 2];
  for (uint32_t e = 2; e < table + 2; ++e) grid.begins[e] += grid.begins[e - 1];
}

void sort_points(const float* xyz, const uint32_t* entries, Grid& grid) {
  const Points& points = grid.points;
  grid.flat = false;
  uint32_t* next = grid.begins.data() + 1;
  for (int64_t i = 0; i < grid.size; ++i) {
    const uint32_t place = next[entries[i]]++;
    points.x[place] = xyz[3 * i], points.y[place] = xyz[3 * i + 1], points.z[place] = xyz[3 * i + 2];
    points.row[place] = static_cast<int32_t>(i);
  }
}

// ---- a query ---------------------------------------------------------------------------------------------------------
class Search {
  const Scan scan_ = choose_scan();
  const int64_t k_, crowd_;  // hits are cut down to k when they are a crowd
  std::vector<int32_t> hits_;
  RowSet set_;
  int32_t *begin_ = nullptr, *end_ = nullptr, bound_ = 0;
  bool sorted_ = true;

  void cut() {
    set_.insert(begin_, end_);
    end_ = set_.take(k_, begin_);
    if (end_ - begin_ == k_) bound_ = begin_[k_ - 1];
    sorted_ = true;
  }

  void scan_run(const Grid& grid, uint32_t begin, uint32_t end, bool ascending, const Ball& ball) {
    if (begin == end) return;
    int32_t* first = end_;
    end_ = scan_.run(grid.points, begin, end, ball, bound_, ascending, k_, end_);
    if (end_ == first) return;
    if (ascending && end_ - first >= k_) end_ = first + k_, bound_ = first[k_ - 1];
    sorted_ = ascending && first == begin_;
    if (end_ - begin_ > crowd_) cut();
  }

  void scan_column(const Grid& grid, int32_t x, int32_t y, int32_t z0, int32_t z1, const Ball& ball) {
    const uint32_t base = x * grid.stride[0] + y * grid.stride[1], first = (base + z0) & grid.mask;
    const uint32_t cells = z1 - z0 + 1;
    if (first + cells <= grid.mask + 1) {
      const uint32_t begin = grid.begins[first], end = grid.begins[first + cells];
      if (cells == 1 || end - begin <= kShortRun) return scan_run(grid, begin, end, cells == 1, ball);
    }
    for (uint32_t z = z0; z < z0 + cells; ++z) {
      const uint32_t entry = (base + z) & grid.mask;
      scan_run(grid, grid.begins[entry], grid.begins[entry + 1], true, ball);
    }
  }

 public:
  Search(int64_t k, int64_t largest_cloud)
      : k_(std::min(k, largest_cloud)), crowd_(std::max<int64_t>(2 * k_, 64)),
        hits_(crowd_ + k_ + kShortRun + kBlock), set_(largest_cloud) {}

  // The first k rows inside the ball, ascending: how many, and where they lie until the next call.
  int64_t find(const Grid& grid, const Ball& ball, float reach, const int32_t** rows) {
    begin_ = end_ = hits_.data();
    bound_ = std::numeric_limits<int32_t>::max();
    sorted_ = true;
    if (grid.flat) {
      end_ = scan_.flat(grid.points, grid.size, ball, k_, begin_);
      *rows = begin_;
      return std::min<int64_t>(end_ - begin_, k_);
    }
    const int32_t x0 = grid.cell(0, ball_low(ball.x, reach)), x1 = grid.cell(0, ball_high(ball.x, reach));
    const int32_t y0 = grid.cell(1, ball_low(ball.y, reach)), y1 = grid.cell(1, ball_high(ball.y, reach));
    const int32_t z0 = grid.cell(2, ball_low(ball.z, reach)), z1 = grid.cell(2, ball_high(ball.z, reach));
    // The query's own column first: it usually bounds the others.
    const int32_t own_x = grid.cell(0, ball.x), own_y = grid.cell(1, ball.y);
    scan_column(grid, own_x, own_y, z0, z1, ball);
    for (int32_t x = x0; x <= x1; ++x)
      for (int32_t y = y0; y <= y1; ++y)
        if (x != own_x || y != own_y) scan_column(grid, x, y, z0, z1, ball);
    if (!sorted_) cut();
    *rows = begin_;
    return std::min<int64_t>(end_ - begin_, k_);
  }
};

// Whether queries find their k points sooner by scanning the cloud in index order than on a grid. Tried on a few of them,
// for it depends on how crowded balls are, and on how far the cloud's order is from random. Costs in nanoseconds, as measured.
bool flat_is_faster(const Grid& flat, const float* queries, int64_t m, float limit, int64_t k) {
  constexpr int64_t kSample = 8;
  constexpr double kScanPoint = 0.15, kGridPoint = 5, kGridQuery = 200;
  const double grid = kGridPoint * flat.size + kGridQuery * m, all = kScanPoint * flat.size * m;
  if (all <= grid) return true;
  if (m < 4 * kSample) return false;
  const Scan scan = choose_scan();
  const int64_t enough = std::min(k, flat.size);
  std::vector<int32_t> hits(enough + kBlock);
  int64_t scanned = 0;
  for (int64_t s = 0; s < kSample; ++s) {
    const float* q = queries + 3 * (m * (2 * s + 1) / (2 * kSample));
    const int32_t* end = scan.flat(flat.points, flat.size, {q[0], q[1], q[2], limit}, enough, hits.data());
    scanned += end - hits.data() < enough ? flat.size : hits[enough - 1];
  }
  return kScanPoint * scanned / kSample * m <= grid;
}

Tensor ball_query_cpu(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz, const Tensor& query_offsets,
                      double radius, int64_t k, bool closed, bool pad_first) {
  check_ball_query(xyz, offsets, query_xyz, query_offsets, radius, k);
  const char* op = "ball_query";
  const int64_t clouds = offsets.size(0) - 1, n = xyz.size(0), m = query_xyz.size(0);
  const int64_t *rows = offsets.data<int64_t>(), *query_rows = query_offsets.data<int64_t>();
  const float *points = xyz.data<float>(), *queries = query_xyz.data<float>();
  check_offset_values(rows, clouds, n, op, "offsets");
  check_offset_values(query_rows, clouds, m, op, "query_offsets");
  check_finite(points, xyz.numel(), 3, op, "xyz");
  check_finite(queries, query_xyz.numel(), 3, op, "query_xyz");

  Tensor index = empty({m, k}, int64(), xyz);
  int64_t* out = index.mutable_data<int64_t>();
  const float limit = ball_limit(radius, closed);
  const float reach = ball_reach(radius);

  std::unique_ptr<float[]> sorted(new float[3 * (n + kBlock)]);
  std::unique_ptr<int32_t[]> sorted_rows(new int32_t[n + kBlock]);
  std::vector<Grid> grids(clouds);
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
      const int64_t size = rows[b + 1] - rows[b];
      Grid& grid = grids[b];
      float* x = sorted.get() + rows[b];
      grid.points = {x, x + (n + kBlock), x + 2 * (n + kBlock), sorted_rows.get() + rows[b]};
      make_flat(points + 3 * rows[b], size, grid);
      if (flat_is_faster(grid, queries + 3 * query_rows[b], query_rows[b + 1] - query_rows[b], limit, k)) continue;
      std::unique_ptr<uint32_t[]> entries(new uint32_t[size]);
      lay_cells(reach, grid, entries.get());
      sort_points(points + 3 * rows[b], entries.get(), grid);
    }
  });

  int64_t largest = 0;
  for (int64_t b = 0; b < clouds; ++b) largest = std::max(largest, rows[b + 1] - rows[b]);
  parallel_for(0, m, 64, [&](int64_t from, int64_t to) {
    Search search(k, largest);
    int64_t b = std::upper_bound(query_rows, query_rows + clouds + 1, from) - query_rows - 1;
    for (int64_t i = from; i < to; ++i) {
      while (i >= query_rows[b + 1]) ++b;
      int64_t* row = out + i * k;
      const int32_t* found;
      const int64_t count = rows[b] == rows[b + 1] ? 0 : search.find(
          grids[b], {queries[3 * i], queries[3 * i + 1], queries[3 * i + 2], limit}, reach, &found);
      for (int64_t j = 0; j < count; ++j) row[j] = rows[b] + found[j];
      std::fill(row + count, row + k, pad_first && count > 0 ? row[0] : -1);
    }
  });
  return index;
}

const Registration kernels("CPU", [](Library& library) { library.implement<&ball_query_cpu>("ball_query"); });

}  // namespace
}  // namespace pct
