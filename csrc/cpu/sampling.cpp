#include <algorithm>
#include <limits>
#include <vector>

#include "checks.h"
#include "common/geometry.h"
#include "cpu/simd.h"
#include "cpu/values.h"

namespace pct {
namespace {

void sample_cloud(const float* xyz, int64_t n, int64_t m, int64_t start, bool skip_near_origin, int64_t first_row,
                  int64_t* index) {
  std::vector<float> nearest(n, std::numeric_limits<float>::infinity());
  int64_t current = start;
  for (int64_t j = 0; j < m; ++j) {
    index[j] = current < 0 || j >= n ? -1 : first_row + current;
    if (index[j] < 0) continue;
    const float *c = xyz + 3 * current;
    int64_t best = -1;
    float farthest = -1;
    for (int64_t i = 0; i < n; ++i) {
      const float *p = xyz + 3 * i;
      nearest[i] = std::min(nearest[i], squared_norm(p[0] - c[0], p[1] - c[1], p[2] - c[2]));
      if (nearest[i] > farthest && !(skip_near_origin && near_origin(p[0], p[1], p[2]))) farthest = nearest[i], best = i;
    }
    current = best;
  }
}

Tensor farthest_point_sample_cpu(const Tensor& xyz, const Tensor& offsets, const Tensor& sample_offsets,
                                 const Tensor& start, int64_t total, bool skip_near_origin) {
  check_farthest_point_sample(xyz, offsets, sample_offsets, start, total);
  const char* op = "farthest_point_sample";
  const int64_t clouds = offsets.size(0) - 1;
  const int64_t *rows = offsets.data<int64_t>(), *samples = sample_offsets.data<int64_t>(), *first = start.data<int64_t>();
  check_offset_values(rows, clouds, xyz.size(0), op, "offsets");
  check_offset_values(samples, clouds, total, op, "sample_offsets");
  check_finite(xyz.data<float>(), xyz.numel(), 3, op, "xyz");
  for (int64_t b = 0; b < clouds; ++b)
    PCT_VALUE_CHECK(rows[b + 1] == rows[b] || (first[b] >= 0 && first[b] < rows[b + 1] - rows[b]), op, ": start[", b,
                    "] = ", first[b], ", but cloud ", b, " has ", rows[b + 1] - rows[b], " points");
  Tensor index = empty({total}, int64(), xyz);
  const float* points = xyz.data<float>();
  int64_t* out = index.mutable_data<int64_t>();
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b)
      sample_cloud(points + 3 * rows[b], rows[b + 1] - rows[b], samples[b + 1] - samples[b], first[b], skip_near_origin,
                   rows[b], out + samples[b]);
  });
  return index;
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&farthest_point_sample_cpu>("farthest_point_sample");
});

}  // namespace
}  // namespace pct
