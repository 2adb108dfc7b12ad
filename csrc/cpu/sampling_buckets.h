// Farthest point sampling, exactly, without looking at every point for every sample.
//
// The points lie in buckets of neighbours with bounding boxes. A sample that is farther from a box than the farthest
// point inside is from the samples before changes nothing there: the bucket is passed over. In the others the sample
// only waits, until the bucket comes first in the search for the next sample; meanwhile its old distances are upper
// bounds. (Han et al., QuickFPS, 2023.)
//
// The result is that of the plain loop, bit for bit. A box's distance is computed as a point's is: subtraction, square
// and sum round monotonically, so it is never above the distance of a point inside. And equal distances are decided by
// row everywhere, among upper bounds too: see Candidate.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "common/geometry.h"
#include "cpu/simd.h"

namespace pct {
namespace buckets {

constexpr int kLanes = 16;       // buckets are padded to so many points; boxes stand so many side by side
constexpr int kBucket = 256;     // most points of a bucket
constexpr int kWaiting = 16;     // most samples that wait in a bucket
constexpr int kDrawn = 32;       // points whose median splits a box in two
constexpr int kFewSamples = 32;  // up to here sorting points into boxes takes longer than it saves

constexpr int32_t kNoRow = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxPoints = kNoRow;  // of one cloud: rows are int32 here

PCT_INLINE int32_t bits_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
PCT_INLINE float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// A possible next sample as one number: the larger squared distance wins, then the lower row. Distances are not
// negative, so their bits are ordered as they are; -1 marks what cannot be a sample, and loses to all.
using Candidate = int64_t;

PCT_INLINE Candidate candidate(int32_t distance_bits, int32_t row) {
  return static_cast<int64_t>(distance_bits) * (int64_t(1) << 32) + (kNoRow - row);
}
PCT_INLINE float distance_of(Candidate best) { return float_of(static_cast<int32_t>(best >> 32)); }
PCT_INLINE int32_t row_of(Candidate best) { return kNoRow - static_cast<int32_t>(best); }

// x, y, z and the bits of the row, to be moved as one
typedef float Point __attribute__((vector_size(16)));
PCT_INLINE int32_t row_of(const Point& point) { return bits_of(point[3]); }

struct Box {
  float low[3], high[3];
};

// Points begin to begin + size of the columns, and the samples they have not met yet.
struct Bucket {
  int64_t begin;
  int32_t size;  // a multiple of kLanes
  int32_t waiting = 0;
  float x[kWaiting], y[kWaiting], z[kWaiting];
};

// kLanes boxes side by side, each around a bucket, or around all buckets of another Boxes.
struct alignas(64) Boxes {
  float low[3][kLanes], high[3][kLanes];
  Candidate best[kLanes];  // in the box; while samples wait, no worse than the true one
  float farthest[kLanes];  // its distance; -1 where there is no box
};

struct alignas(64) CacheLine {
  unsigned char bytes[64];
};

struct Cloud {
  const float* xyz;
  std::unique_ptr<CacheLine[]> memory;  // of the columns
  float *x, *y, *z;
  float* nearest;  // squared distance to the samples, -1 for padding
  int32_t* row;
  std::vector<Bucket> buckets;
  std::vector<Boxes> groups;  // bucket b is lane b % kLanes of groups[b / kLanes]
  std::vector<Boxes> tops;    // and group g lane g % kLanes of tops[g / kLanes]; two levels do for millions
};

// ---- from points to buckets ------------------------------------------------------------------------------------------
struct Leaf {
  int64_t begin, size;
  Box box;
};

inline Box box_around(const Point* points, int64_t n) {
  Point low = points[0], high = points[0];
  for (int64_t i = n % 2; i < n; i += 2) {  // in pairs: the minimum of the next pair does not wait for the last
    const Point a = points[i], b = points[i + 1], lower = a < b ? a : b, upper = a > b ? a : b;
    low = lower < low ? lower : low;
    high = upper > high ? upper : high;
  }
  return {{low[0], low[1], low[2]}, {high[0], high[1], high[2]}};
}

// A value with points on both sides, low <= value < high: near the median, or halfway if most points are at `high`.
inline float split_value(const Point* points, int64_t n, int axis, float low, float high) {
  float drawn[kDrawn];
  for (uint64_t i = 0; i < kDrawn; ++i) {
    const uint64_t fraction = (i * 0x9e3779b97f4a7c15u) >> 32;  // golden ratio: in step with no order of the points
    drawn[i] = points[fraction * static_cast<uint64_t>(n) >> 32][axis];
  }
  std::nth_element(drawn, drawn + kDrawn / 2, drawn + kDrawn);
  float value = drawn[kDrawn / 2];
  if (!(value < high)) value = std::max(low, 0.5f * low + 0.5f * high);
  return value < high ? value : low;
}

// Moves the points up to `value` to the front, without a branch on the data; returns how many they are.
inline int64_t partition(Point* points, int64_t n, int axis, float value) {
  int64_t front = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Point point = points[i];
    points[i] = points[front];
    points[front] = point;
    front += point[axis] <= value;
  }
  return front;
}

// Halves boxes across their longest side until they hold kBucket points; neighbours in the list are so in space.
inline std::vector<Leaf> split(Point* points, int64_t n) {
  std::vector<Leaf> leaves;
  std::vector<std::pair<int64_t, int64_t>> open{{0, n}};
  while (!open.empty()) {
    const auto [begin, size] = open.back();
    open.pop_back();
    Point* here = points + begin;
    const Box box = box_around(here, size);
    int axis = 0;
    for (int a = 1; a < 3; ++a)
      if (box.high[a] - box.low[a] > box.high[axis] - box.low[axis]) axis = a;
    if (!(box.low[axis] < box.high[axis])) {  // all in one place: only the lowest row can ever be chosen
      for (int64_t i = 1; i < size; ++i) *here = row_of(here[i]) < row_of(*here) ? here[i] : *here;
      leaves.push_back({begin, 1, box});
    } else if (size <= kBucket) {
      leaves.push_back({begin, size, box});
    } else {
      const int64_t front = partition(here, size, axis, split_value(here, size, axis, box.low[axis], box.high[axis]));
      open.push_back({begin + front, size - front});
      open.push_back({begin, front});
    }
  }
  return leaves;
}

// Runs of consecutive points: no boxes to speak of, but no time lost on them.
inline std::vector<Leaf> cut(const Point* points, int64_t n) {
  std::vector<Leaf> leaves;
  for (int64_t begin = 0; begin < n; begin += kBucket) {
    const int64_t size = std::min<int64_t>(kBucket, n - begin);
    leaves.push_back({begin, size, box_around(points + begin, size)});
  }
  return leaves;
}

PCT_INLINE void set_best(Boxes& boxes, int64_t lane, Candidate best) {
  boxes.best[lane] = best;
  boxes.farthest[lane] = distance_of(best);
}

// Makes box `index` of a list at least as large as `box`.
inline void enclose(std::vector<Boxes>& list, int64_t index, const Box& box) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t lane = index % kLanes;
  if (index / kLanes == static_cast<int64_t>(list.size())) {
    Boxes& fresh = list.emplace_back();
    for (int l = 0; l < kLanes; ++l) {
      for (int a = 0; a < 3; ++a) fresh.low[a][l] = kInfinity, fresh.high[a][l] = -kInfinity;
      set_best(fresh, l, candidate(bits_of(-1.0f), kNoRow));
    }
  }
  Boxes& boxes = list[index / kLanes];
  for (int a = 0; a < 3; ++a) {
    boxes.low[a][lane] = std::min(boxes.low[a][lane], box.low[a]);
    boxes.high[a][lane] = std::max(boxes.high[a][lane], box.high[a]);
  }
}

// The points that may be chosen, in buckets, ready for about m samples.
inline Cloud make_cloud(const float* xyz, int64_t n, int64_t m, bool skip_near_origin) {
  std::unique_ptr<Point[]> points(new Point[n]);
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float *p = xyz + 3 * i;
    if (skip_near_origin && near_origin(p[0], p[1], p[2])) continue;
    points[count++] = Point{p[0], p[1], p[2], float_of(static_cast<int32_t>(i))};
  }
  const bool worth_splitting = count > 0 && m > kFewSamples;
  const std::vector<Leaf> leaves = worth_splitting ? split(points.get(), count) : cut(points.get(), count);

  const auto padded = [](int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; };
  int64_t total = 0;
  for (const Leaf& leaf : leaves) total += padded(leaf.size);
  Cloud cloud;
  cloud.xyz = xyz;
  static_assert(kLanes * sizeof(float) == sizeof(CacheLine), "every bucket begins on a cache line");
  cloud.memory.reset(new CacheLine[5 * total / kLanes]);
  cloud.x = reinterpret_cast<float*>(cloud.memory.get());
  cloud.y = cloud.x + total;
  cloud.z = cloud.y + total;
  cloud.nearest = cloud.z + total;
  cloud.row = reinterpret_cast<int32_t*>(cloud.nearest + total);
  cloud.buckets.resize(leaves.size());
  int64_t begin = 0;
  for (int64_t b = 0; b < static_cast<int64_t>(leaves.size()); ++b) {
    const Leaf& leaf = leaves[b];
    const int64_t size = padded(leaf.size);
    for (int64_t i = 0; i < size; ++i) {
      const bool real = i < leaf.size;
      const Point point = real ? points[leaf.begin + i] : Point{0, 0, 0, float_of(kNoRow)};
      cloud.x[begin + i] = point[0];
      cloud.y[begin + i] = point[1];
      cloud.z[begin + i] = point[2];
      cloud.nearest[begin + i] = real ? std::numeric_limits<float>::infinity() : -1.0f;
      cloud.row[begin + i] = row_of(point);
    }
    cloud.buckets[b].begin = begin;
    cloud.buckets[b].size = static_cast<int32_t>(size);
    enclose(cloud.groups, b, leaf.box);
    enclose(cloud.tops, b / kLanes, leaf.box);
    begin += size;
  }
  return cloud;
}

// ---- sampling --------------------------------------------------------------------------------------------------------
// Everything below is inlined into sample(), and so compiled for each instruction set.
PCT_INLINE Candidate best_of(const Boxes* boxes, int64_t count) {
  Candidate best = std::numeric_limits<Candidate>::min();
  for (int64_t i = 0; i < count; ++i)
    for (int lane = 0; lane < kLanes; ++lane) best = std::max(best, boxes[i].best[lane]);
  return best;
}

PCT_INLINE int lane_of(const Boxes& boxes, Candidate best) {
  int found = 0;
  for (int lane = 0; lane < kLanes; ++lane) found |= boxes.best[lane] == best ? lane : 0;
  return found;
}

// The points of bucket b meet the samples that waited, and its candidate becomes the true one.
PCT_INLINE void settle(Cloud& cloud, int64_t b) {
  Bucket& bucket = cloud.buckets[b];
  const int32_t size = bucket.size / kLanes * kLanes;  // says to the compiler that no points are left over
  const float *x = cloud.x + bucket.begin, *y = cloud.y + bucket.begin, *z = cloud.z + bucket.begin;
  float* nearest = cloud.nearest + bucket.begin;
  const int32_t* rows = cloud.row + bucket.begin;
  for (int s = 0; s < bucket.waiting; ++s) {
    const float sx = bucket.x[s], sy = bucket.y[s], sz = bucket.z[s];
    for (int32_t i = 0; i < size; ++i) {
      const float distance = squared_norm(x[i] - sx, y[i] - sy, z[i] - sz);
      nearest[i] = distance < nearest[i] ? distance : nearest[i];
    }
  }
  bucket.waiting = 0;
  // Maxima and minima of integers, which the compiler may reorder.
  int32_t farthest = bits_of(-1.0f), row = kNoRow;
  for (int32_t i = 0; i < size; ++i) farthest = std::max(farthest, bits_of(nearest[i]));
  for (int32_t i = 0; i < size; ++i) row = std::min(row, rows[i] | (bits_of(nearest[i]) == farthest ? 0 : kNoRow));
  __builtin_prefetch(cloud.xyz + 3 * static_cast<int64_t>(row));
  const int64_t g = b / kLanes;
  set_best(cloud.groups[g], b % kLanes, candidate(farthest, row));
  set_best(cloud.tops[g / kLanes], g % kLanes, best_of(&cloud.groups[g], 1));
}

PCT_INLINE void let_wait(Cloud& cloud, int64_t b, float x, float y, float z) {
  Bucket& bucket = cloud.buckets[b];
  if (bucket.waiting == kWaiting) settle(cloud, b);
  bucket.x[bucket.waiting] = x;
  bucket.y[bucket.waiting] = y;
  bucket.z[bucket.waiting] = z;
  ++bucket.waiting;
}

// How far a coordinate lies outside of low to high.
PCT_INLINE float outside(float value, float low, float high) {
  const float below = low - value, above = value - high, more = below > above ? below : above;
  return more > 0.0f ? more : 0.0f;
}

// The boxes, as bits, in which a sample may come nearer to a point than the samples before.
PCT_INLINE uint32_t reached(const Boxes& boxes, float x, float y, float z) {
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float distance = squared_norm(outside(x, boxes.low[0][lane], boxes.high[0][lane]),
                                        outside(y, boxes.low[1][lane], boxes.high[1][lane]),
                                        outside(z, boxes.low[2][lane], boxes.high[2][lane]));
    lanes |= distance < boxes.farthest[lane] ? 1u << lane : 0u;
  }
  return lanes;
}

PCT_INLINE void add_sample(Cloud& cloud, const float* sample) {
  const float x = sample[0], y = sample[1], z = sample[2];
  const int64_t tops = static_cast<int64_t>(cloud.tops.size());
  for (int64_t t = 0; t < tops; ++t)
    for (uint32_t groups = reached(cloud.tops[t], x, y, z); groups != 0; groups &= groups - 1) {
      const int64_t g = t * kLanes + __builtin_ctz(groups);
      for (uint32_t lanes = reached(cloud.groups[g], x, y, z); lanes != 0; lanes &= lanes - 1)
        let_wait(cloud, g * kLanes + __builtin_ctz(lanes), x, y, z);
    }
}

// Settles the buckets that come first, until one comes first in which no sample waits: it holds the next sample.
PCT_INLINE int32_t next_row(Cloud& cloud) {
  const int64_t tops = static_cast<int64_t>(cloud.tops.size());
  for (;;) {
    const Candidate best = best_of(cloud.tops.data(), tops);
    int64_t t = 0;
    while (t + 1 < tops && best_of(&cloud.tops[t], 1) != best) ++t;
    const int64_t g = t * kLanes + lane_of(cloud.tops[t], best);
    const int64_t b = g * kLanes + lane_of(cloud.groups[g], best);
    if (cloud.buckets[b].waiting == 0) return row_of(best);
    settle(cloud, b);
  }
}

// Writes m >= 1 rows, `start` first; -1 where no point may be chosen.
PCT_CLONES inline void sample(Cloud& cloud, int64_t m, int64_t start, int64_t first_row, int64_t* index) {
  const float* first = cloud.xyz + 3 * start;
  for (int64_t b = 0; b < static_cast<int64_t>(cloud.buckets.size()); ++b) {
    let_wait(cloud, b, first[0], first[1], first[2]);
    settle(cloud, b);
  }
  index[0] = first_row + start;
  for (int64_t j = 1; j < m; ++j) {
    if (cloud.buckets.empty()) {
      index[j] = -1;
      continue;
    }
    const int64_t row = next_row(cloud);
    index[j] = first_row + row;
    add_sample(cloud, cloud.xyz + 3 * row);
  }
}

}  // namespace buckets
}  // namespace pct
