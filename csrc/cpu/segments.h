// Sums over groups of rows, as segments.cpp and the gradients in grouping.cpp need them.
#pragma once
#include <algorithm>
#include <cstdint>

#include "common/half.h"
#include "cpu/simd.h"
#include "torch_abi.h"

namespace pct {

// Columns are handled in blocks whose running results stay in registers or the first cache.
constexpr int64_t kColumnBlock = 64;

// Rows this far ahead are fetched where an order makes the processor's own guess useless.
constexpr int64_t kFetchAhead = 8;

// Groups equal index values: the rows of group g are order[offsets[g]] to order[offsets[g + 1] - 1], ascending. Rows with
// index -1 come last, after offsets[size]. index must be in [-1, size).
void sort_index(const int64_t* index, int64_t rows, int64_t size, int64_t* order, int64_t* offsets);

// out[s] = sum over positions i in [offsets[s], offsets[s + 1]) of weight[p] * values[p / per_row], where p = order[i], or i
// without an order; divided by the number of terms for a mean. Terms are added in the order of positions, whatever the
// number of threads.
template <class T>
struct SegmentSum {
  using A = accumulator<T>;
  const T* values;
  int64_t columns;
  const int64_t* order;  // may be null
  const A* weight;       // may be null: 1
  int64_t per_row;
  const int64_t* offsets;
  int64_t segments;
  bool mean;
  T* out;

  void run() const;
};

extern template struct SegmentSum<float>;
extern template struct SegmentSum<double>;
extern template struct SegmentSum<BFloat16>;
extern template struct SegmentSum<Half>;

// parallel_for over (segment, block of columns) pairs: body(segment, first column, number of columns). `rows` of all
// segments together say how much work a pair is.
template <class Body>
void for_segments(int64_t segments, int64_t rows, int64_t columns, const Body& range) {
  const int64_t blocks = (columns + kColumnBlock - 1) / kColumnBlock, items = segments * blocks;
  constexpr int64_t kTermsPerTask = 1 << 15;
  const int64_t grain = 1 + items * kTermsPerTask / (rows * columns + 1);
  parallel_for(0, items, grain, range);
}

}  // namespace pct
