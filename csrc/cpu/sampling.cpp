#include <algorithm>

#include "checks.h"
#include "cpu/sampling_buckets.h"
#include "cpu/values.h"

namespace pct {
namespace {

// m samples of a cloud of n points, which is never asked for more than it has
void sample_cloud(const float* xyz, int64_t n, int64_t m, int64_t start, bool skip_near_origin, int64_t first_row,
                  int64_t* index) {
  const int64_t chosen = std::min(n, m);
  std::fill(index + chosen, index + m, -1);
  if (chosen == 0) return;
  buckets::Cloud cloud = buckets::make_cloud(xyz, n, chosen, skip_near_origin);
  buckets::sample(cloud, chosen, start, first_row, index);
}

Tensor farthest_point_sample_cpu(const Tensor& xyz, const Tensor& offsets, const Tensor& sample_offsets,
                                 const Tensor& start, int64_t total, bool skip_near_origin) {
  check_farthest_point_sample(xyz, offsets, sample_offsets, start, total);
  const char* op = "farthest_point_sample";
  const int64_t clouds = offsets.size(0) - 1;
  const int64_t *rows = offsets.data<int64_t>(), *samples = sample_offsets.data<int64_t>();
  const int64_t* first = start.data<int64_t>();
  check_offset_values(rows, clouds, xyz.size(0), op, "offsets");
  check_offset_values(samples, clouds, total, op, "sample_offsets");
  for (int64_t b = 0; b < clouds; ++b) {
    const int64_t n = rows[b + 1] - rows[b];
    PCT_VALUE_CHECK(n <= buckets::kMaxPoints, op, ": cloud ", b, " has ", n, " points, more than ", buckets::kMaxPoints,
                    "; sample parts of it");
    PCT_VALUE_CHECK(n == 0 || (first[b] >= 0 && first[b] < n), op, ": start[", b, "] = ", first[b], ", but cloud ", b,
                    " has ", n, " points");
  }
  check_finite(xyz.data<float>(), xyz.numel(), 3, op, "xyz");
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
