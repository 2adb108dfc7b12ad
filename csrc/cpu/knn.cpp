// The k nearest points on the CPU. Queries run along a Hilbert curve, so that each starts from a bound its predecessor
// found; a neighbour is one 64-bit key, distance above row, so that ties go to the lower row in one comparison.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "checks.h"
#include "common/geometry.h"
#include "common/neighbor_key.h"
#include "cpu/box_tree.h"
#include "cpu/simd.h"
#include "cpu/values.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(PCT_PORTABLE)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns about its own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#define PCT_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq")))
#endif

namespace pct {
namespace {

// The nearest points of one query so far.
struct Nearest {
  int k;
  int runs;  // of sixteen keys
  float query[3];
  float bound;         // no point farther than this is among the nearest,
  uint32_t bound_row;  // nor, at this distance, one with this row or a higher one
  int waiting;         // candidates not yet among the keys (AVX-512 only)
  alignas(64) uint64_t keys[kMaxNeighbors];  // ascending
  alignas(64) float waiting_distance[3 * kWidth];
  alignas(64) uint32_t waiting_row[3 * kWidth];

  explicit Nearest(int k) : k(k), runs((k + kWidth - 1) / kWidth) {}

  // `within`: a squared distance that is known to hold k points, or infinity
  void start(const float* xyz, float within) {
    std::copy(xyz, xyz + 3, query);
    bound = within;
    bound_row = kNoRow;
    waiting = 0;
    std::fill(keys, keys + kWidth * runs, kNoNeighbor);
  }
  bool wants(float distance, uint32_t row) const {
    return (distance < bound) | ((distance == bound) & (row < bound_row));  // without branches
  }
  // Once k points are known the k-th is the bound.
  void tighten() {
    if (keys[k - 1] == kNoNeighbor) return;
    bound = neighbor_distance(keys[k - 1]);
    bound_row = static_cast<uint32_t>(keys[k - 1]);
  }
};

// A query at `xyz` found k points within this squared distance: by the triangle inequality, the squared distance
// within which they are of `other`. Distances are rounded, so a little is added.
float carry_over(const float* xyz, float distance, const float* other) {
  const double x = double(xyz[0]) - other[0], y = double(xyz[1]) - other[1], z = double(xyz[2]) - other[2];
  const double radius = std::sqrt(double(distance)) + std::sqrt(squared_norm(x, y, z));
  const double within = radius * radius * 1.00001 + 1e-37;
  return within < 3e38 ? static_cast<float>(within) : std::numeric_limits<float>::infinity();
}

// What depends on the instruction set: `reach` tests the sixteen boxes of a node, `scan` searches the points below a
// node of the lowest level, `finish` completes the keys.
struct Portable {
  PCT_CLONES static unsigned reach(const BoxNode& node, const Nearest& nearest, float* distance) {
    for (int i = 0; i < kWidth; ++i) {
      float outside[3];
      for (int a = 0; a < 3; ++a) {
        const float below = node.low[a][i] - nearest.query[a], above = nearest.query[a] - node.high[a][i];
        const float nearer = below > above ? below : above;
        outside[a] = nearer > 0 ? nearer : 0;
      }
      distance[i] = squared_norm(outside[0], outside[1], outside[2]);
    }
    unsigned open = 0;
    for (int i = 0; i < kWidth; ++i) open |= static_cast<unsigned>(nearest.wants(distance[i], node.row[i])) << i;
    return open;
  }

  // the distances of a block's points; how many are within the bound
  PCT_CLONES static int measure(const PointBlock& block, const float* query, float bound, float* distance) {
    int within = 0;
    for (int i = 0; i < kWidth; ++i) {
      distance[i] = squared_norm(query[0] - block.xyz[0][i], query[1] - block.xyz[1][i], query[2] - block.xyz[2][i]);
      within += distance[i] <= bound;
    }
    return within;
  }

  static void scan(const BoxNode& node, const PointBlock* blocks, Nearest& nearest) {
    alignas(64) float box[kWidth], distance[kWidth];
    const unsigned open = reach(node, nearest, box);
    for (int b = 0; b < kWidth; ++b) {
      if (!(open >> b & 1) || !nearest.wants(box[b], node.row[b])) continue;
      if (measure(blocks[b], nearest.query, nearest.bound, distance) == 0) continue;
      for (int i = 0; i < kWidth; ++i)
        if (distance[i] <= nearest.bound) insert(neighbor_key(distance[i], blocks[b].row[i]), nearest);
    }
  }

  static void insert(uint64_t key, Nearest& nearest) {
    if (key >= nearest.keys[nearest.k - 1]) return;
    int place = nearest.k - 1;
    for (; place > 0 && nearest.keys[place - 1] > key; --place) nearest.keys[place] = nearest.keys[place - 1];
    nearest.keys[place] = key;
    nearest.tighten();
  }

  static void finish(Nearest&) {}
};

#ifdef PCT_AVX512
// The same with sixteen lanes at a time. Points within the bound are compressed into a short queue; sixteen of it are
// sorted in two registers and pass through the runs of keys from the lowest on: a run keeps the lower half of both,
// and hands on the upper.
struct Avx512 {
  PCT_AVX512 static __m512 box_distance(const BoxNode& node, __m512 x, __m512 y, __m512 z) {
    return norm(outside(node, 0, x), outside(node, 1, y), outside(node, 2, z));
  }
  PCT_AVX512 static __m512 outside(const BoxNode& node, int axis, __m512 x) {
    const __m512 below = _mm512_sub_ps(_mm512_load_ps(node.low[axis]), x);
    const __m512 above = _mm512_sub_ps(x, _mm512_load_ps(node.high[axis]));
    return _mm512_max_ps(_mm512_max_ps(below, above), _mm512_setzero_ps());
  }
  PCT_AVX512 static __m512 norm(__m512 x, __m512 y, __m512 z) {
    return _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(y, y)), _mm512_mul_ps(z, z));
  }
  PCT_AVX512 static __mmask16 wanted(__m512 distance, const BoxNode& node, const Nearest& nearest) {
    const __m512 bound = _mm512_set1_ps(nearest.bound);
    const __mmask16 level = _mm512_cmp_ps_mask(distance, bound, _CMP_EQ_OQ);
    return _mm512_cmp_ps_mask(distance, bound, _CMP_LT_OQ) |
           _mm512_mask_cmplt_epu32_mask(level, _mm512_load_epi32(node.row), _mm512_set1_epi32(nearest.bound_row));
  }

  PCT_AVX512 static unsigned reach(const BoxNode& node, const Nearest& nearest, float* distance) {
    const __m512 found = box_distance(node, _mm512_set1_ps(nearest.query[0]), _mm512_set1_ps(nearest.query[1]),
                                      _mm512_set1_ps(nearest.query[2]));
    _mm512_store_ps(distance, found);
    return wanted(found, node, nearest);
  }

  PCT_AVX512 static void scan(const BoxNode& node, const PointBlock* blocks, Nearest& nearest) {
    const __m512 x = _mm512_set1_ps(nearest.query[0]), y = _mm512_set1_ps(nearest.query[1]),
                 z = _mm512_set1_ps(nearest.query[2]);
    __m512 bound = _mm512_set1_ps(nearest.bound);
    int waiting = nearest.waiting;
    for (unsigned open = wanted(box_distance(node, x, y, z), node, nearest); open; open &= open - 1) {
      const PointBlock& block = blocks[__builtin_ctz(open)];
      const __m512 distance =
          norm(_mm512_sub_ps(x, _mm512_load_ps(block.xyz[0])), _mm512_sub_ps(y, _mm512_load_ps(block.xyz[1])),
               _mm512_sub_ps(z, _mm512_load_ps(block.xyz[2])));
      const __mmask16 near = _mm512_cmp_ps_mask(distance, bound, _CMP_LE_OQ);
      // compressed in a register: compressing into memory is slow on some processors
      _mm512_storeu_ps(nearest.waiting_distance + waiting, _mm512_maskz_compress_ps(near, distance));
      _mm512_storeu_si512(nearest.waiting_row + waiting,
                          _mm512_maskz_compress_epi32(near, _mm512_load_epi32(block.row)));
      waiting += __builtin_popcount(near);
      if (waiting < kWidth) continue;
      merge(kWidth, nearest);
      waiting -= kWidth;
      _mm512_store_ps(nearest.waiting_distance, _mm512_loadu_ps(nearest.waiting_distance + kWidth));
      _mm512_store_si512(nearest.waiting_row, _mm512_loadu_si512(nearest.waiting_row + kWidth));
      nearest.tighten();
      bound = _mm512_set1_ps(nearest.bound);
    }
    nearest.waiting = waiting;
  }

  PCT_AVX512 static void finish(Nearest& nearest) { merge(nearest.waiting, nearest); }

  // One step of a bitonic network: lane i meets lane i ^ kStep; lanes in kUpper keep the higher key.
  template <int kStep, unsigned kUpper>
  PCT_AVX512 static __m512i exchange(__m512i keys) {
    const __m512i other = kStep == 1   ? _mm512_shuffle_epi32(keys, _MM_PERM_BADC)
                          : kStep == 2 ? _mm512_permutex_epi64(keys, 0x4e)
                                       : _mm512_shuffle_i64x2(keys, keys, 0x4e);
    return _mm512_mask_max_epu64(_mm512_min_epu64(keys, other), kUpper, keys, other);
  }
  template <bool kDescending>  // a bitonic sequence becomes sorted
  PCT_AVX512 static __m512i sort_bitonic(__m512i keys) {
    constexpr unsigned flip = kDescending ? 0xff : 0;
    return exchange<1, 0xaa ^ flip>(exchange<2, 0xcc ^ flip>(exchange<4, 0xf0 ^ flip>(keys)));
  }
  template <bool kDescending>
  PCT_AVX512 static __m512i sort(__m512i keys) {
    keys = exchange<1, 0x66>(keys);
    keys = exchange<1, 0x5a>(exchange<2, 0x3c>(keys));
    return sort_bitonic<kDescending>(keys);
  }

  PCT_AVX512 static __m512i keys_of(__m256i distance, __m256i row, __mmask8 unused) {
    const __m512i high = _mm512_slli_epi64(_mm512_cvtepu32_epi64(distance), 32);
    return _mm512_mask_set1_epi64(_mm512_or_si512(high, _mm512_cvtepu32_epi64(row)), unused, -1);
  }

  // Merges the first `count` <= 16 waiting candidates into the keys.
  PCT_AVX512 static void merge(int count, Nearest& nearest) {
    const __m512i distance = _mm512_load_si512(nearest.waiting_distance), row = _mm512_load_si512(nearest.waiting_row);
    const unsigned unused = 0xffffu << count;
    __m512i a = sort<true>(keys_of(_mm512_castsi512_si256(distance), _mm512_castsi512_si256(row), unused));
    __m512i b = sort<false>(
        keys_of(_mm512_extracti64x4_epi64(distance, 1), _mm512_extracti64x4_epi64(row, 1), unused >> 8));
    __m512i first = sort_bitonic<true>(_mm512_max_epu64(a, b)), second = sort_bitonic<true>(_mm512_min_epu64(a, b));
    for (int run = 0; run < nearest.runs; ++run) {
      uint64_t* keys = nearest.keys + kWidth * run;
      a = _mm512_load_si512(keys), b = _mm512_load_si512(keys + 8);
      const __m512i low_a = _mm512_min_epu64(a, first), low_b = _mm512_min_epu64(b, second);
      _mm512_store_si512(keys, sort_bitonic<false>(_mm512_min_epu64(low_a, low_b)));
      _mm512_store_si512(keys + 8, sort_bitonic<false>(_mm512_max_epu64(low_a, low_b)));
      if (run + 1 == nearest.runs) break;
      const __m512i high_a = _mm512_max_epu64(a, first), high_b = _mm512_max_epu64(b, second);
      first = sort_bitonic<true>(_mm512_max_epu64(high_a, high_b));
      second = sort_bitonic<true>(_mm512_min_epu64(high_a, high_b));
    }
  }
};
#endif

template <class Isa>
void visit(const BoxTree& tree, int level, int64_t i, Nearest& nearest) {
  const BoxNode& node = tree.node(level, i);
  if (level == 0) return Isa::scan(node, tree.blocks(i), nearest);
  alignas(64) float distance[kWidth];
  for (unsigned open = Isa::reach(node, nearest, distance); open;) {
    int next = __builtin_ctz(open);
    for (unsigned rest = open & (open - 1); rest; rest &= rest - 1)
      if (distance[__builtin_ctz(rest)] < distance[next]) next = __builtin_ctz(rest);
    open &= ~(1u << next);
    if (nearest.wants(distance[next], node.row[next])) visit<Isa>(tree, level - 1, kWidth * i + next, nearest);
  }
}

PCT_CLONES void write(const uint64_t* keys, int k, int64_t first_row, int64_t* index, float* distance) {
  for (int j = 0; j < k; ++j) {
    const int64_t row = neighbor_row(keys[j]);
    index[j] = row < 0 ? -1 : first_row + row;
    distance[j] = neighbor_distance(keys[j]);
  }
}

// Queries order[from] to order[to] of one cloud.
template <class Isa>
void search(const BoxTree& tree, const uint64_t* order, int64_t from, int64_t to, const float* queries,
            int64_t first_row, Nearest& nearest, int64_t* index, float* distance) {
  const int k = nearest.k;
  const float* previous = nullptr;
  for (int64_t i = from; i < to; ++i) {
    const int64_t row = row_of(order[i]);
    const float* query = queries + 3 * row;
    nearest.start(query, previous ? carry_over(previous, neighbor_distance(nearest.keys[k - 1]), query)
                                  : std::numeric_limits<float>::infinity());
    if (!tree.empty()) visit<Isa>(tree, tree.top(), 0, nearest);
    Isa::finish(nearest);
    write(nearest.keys, k, first_row, index + k * row, distance + k * row);
    previous = query;
  }
}

using Search = decltype(&search<Portable>);

Search best_search() {
#ifdef PCT_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return &search<Avx512>;
#endif
  return &search<Portable>;
}

struct Batch {
  int64_t clouds, k;
  const int64_t *rows, *query_rows;
};

void knn_float(const Batch& batch, const float* xyz, const float* queries, int64_t* index, float* distance) {
  static const Search search = best_search();
  const auto [clouds, k, rows, query_rows] = batch;
  struct Cloud {
    BoxTree tree;
    std::vector<uint64_t> order;  // of the queries
  };
  std::vector<Cloud> prepared(clouds);
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
      const int64_t n = rows[b + 1] - rows[b], m = query_rows[b + 1] - query_rows[b];
      if (m == 0) continue;
      std::vector<uint64_t> order = hilbert_order(xyz + 3 * rows[b], n);
      prepared[b].tree = BoxTree(xyz + 3 * rows[b], order);
      const bool same = xyz + 3 * rows[b] == queries + 3 * query_rows[b] && n == m;
      prepared[b].order = same ? std::move(order) : hilbert_order(queries + 3 * query_rows[b], m);
    }
  });
  constexpr int64_t kGrain = 128;  // a piece's first query starts without a bound
  parallel_for(0, query_rows[clouds], kGrain, [&](int64_t from, int64_t to) {
    Nearest nearest(static_cast<int>(k));
    int64_t b = std::upper_bound(query_rows, query_rows + clouds + 1, from) - query_rows - 1;
    for (; from < to; ++b) {
      const int64_t first = query_rows[b], end = std::min(to, query_rows[b + 1]);
      search(prepared[b].tree, prepared[b].order.data(), from - first, end - first, queries + 3 * first, rows[b],
             nearest, index + k * first, distance + k * first);
      from = end;
    }
  });
}

// float64 has no fast path: every query meets every point.
void knn_double(const Batch& batch, const double* xyz, const double* queries, int64_t* index, double* distance) {
  const auto [clouds, k, rows, query_rows] = batch;
  parallel_for(0, query_rows[clouds], 1, [&](int64_t from, int64_t to) {
    std::vector<std::pair<double, int64_t>> nearest;
    int64_t b = std::upper_bound(query_rows, query_rows + clouds + 1, from) - query_rows - 1;
    for (int64_t q = from; q < to; ++q) {
      while (q == query_rows[b + 1]) ++b;
      nearest.clear();
      for (int64_t row = rows[b]; row < rows[b + 1]; ++row)
        nearest.emplace_back(squared_norm(queries[3 * q] - xyz[3 * row], queries[3 * q + 1] - xyz[3 * row + 1],
                                          queries[3 * q + 2] - xyz[3 * row + 2]), row);
      const int64_t found = std::min<int64_t>(k, nearest.size());
      std::partial_sort(nearest.begin(), nearest.begin() + found, nearest.end());
      nearest.resize(k, {std::numeric_limits<double>::infinity(), -1});
      for (int64_t j = 0; j < k; ++j) std::tie(distance[k * q + j], index[k * q + j]) = nearest[j];
    }
  });
}

std::tuple<Tensor, Tensor> knn_cpu(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz,
                                   const Tensor& query_offsets, int64_t k) {
  check_knn(xyz, offsets, query_xyz, query_offsets, k);
  const char* op = "knn";
  const int64_t clouds = offsets.size(0) - 1, n = xyz.size(0), m = query_xyz.size(0);
  const Batch batch{clouds, k, offsets.data<int64_t>(), query_offsets.data<int64_t>()};
  check_offset_values(batch.rows, clouds, n, op, "offsets");
  check_offset_values(batch.query_rows, clouds, m, op, "query_offsets");
  Tensor index = empty({m, k}, int64(), xyz), distance = empty({m, k}, xyz.dtype(), xyz);
  const auto compute = [&](auto zero, auto* knn) {
    using T = decltype(zero);
    check_finite(xyz.data<T>(), xyz.numel(), 3, op, "xyz");
    check_finite(query_xyz.data<T>(), query_xyz.numel(), 3, op, "query_xyz");
    knn(batch, xyz.data<T>(), query_xyz.data<T>(), index.mutable_data<int64_t>(), distance.mutable_data<T>());
  };
  if (xyz.dtype() == float32()) {
    PCT_CHECK(std::max(n, m) <= kMaxCloudPoints, op, ": more than ", kMaxCloudPoints, " points; split the batch");
    compute(float(), &knn_float);
  } else {
    compute(double(), &knn_double);
  }
  return {std::move(index), std::move(distance)};
}

const Registration kernels("CPU", [](Library& library) { library.implement<&knn_cpu>("knn"); });

}  // namespace
}  // namespace pct
