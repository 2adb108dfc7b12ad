// What the CPU kernels check about the values they are given. On CUDA these checks would stall the stream.
#pragma once
#include <cmath>
#include <cstdint>
#include <numeric>

#include "torch_abi.h"

namespace pct {

// Errors about values carry this mark; pctransformer/ops/_library.py turns them into ValueError.
#define PCT_VALUE_CHECK(condition, ...) PCT_CHECK(condition, "[value] ", __VA_ARGS__)

// offsets start with 0, never decrease and end with `rows`
inline void check_offset_values(const int64_t* offsets, int64_t clouds, int64_t rows, const char* op, const char* name) {
  PCT_VALUE_CHECK(offsets[0] == 0, op, ": ", name, " must start with 0, it starts with ", offsets[0],
                  "; cumulative counts without the leading 0 become offsets with PointBatch.from_pointcept");
  for (int64_t b = 0; b < clouds; ++b)
    PCT_VALUE_CHECK(offsets[b] <= offsets[b + 1], op, ": ", name, " must not decrease, but ", name, "[", b, "] = ",
                    offsets[b], " and ", name, "[", b + 1, "] = ", offsets[b + 1]);
  PCT_VALUE_CHECK(offsets[clouds] == rows, op, ": ", name, " must end with the number of rows, ", rows,
                  "; it ends with ", offsets[clouds]);
}

// every index in [low, rows)
inline void check_index_values(const int64_t* index, int64_t n, int64_t low, int64_t rows, const char* op,
                               const char* name) {
  int64_t signs = 0;  // negative once a difference was: one vectorised pass without branches
  for (int64_t i = 0; i < n; ++i) signs |= (index[i] - low) | (rows - 1 - index[i]);
  if (signs >= 0) return;
  for (int64_t i = 0; i < n; ++i)
    PCT_VALUE_CHECK(index[i] >= low && index[i] < rows, op, ": ", name, " must be in [", low, ", ", rows, "), but holds ",
                    index[i], low < 0 ? "; -1 stands for no row" : "");
}

// no NaN and no infinity among n values; `columns` turns a position into a row for the message
template <class T>
inline void check_finite(const T* values, int64_t n, int64_t columns, const char* op, const char* name) {
  // 0 * x is 0 for finite x and NaN otherwise; several sums, so that the pass is vectorised
  constexpr int kSums = 32;
  T sums[kSums] = {};
  for (int64_t i = 0; i + kSums <= n; i += kSums)
    for (int lane = 0; lane < kSums; ++lane) sums[lane] += values[i + lane] * T(0);
  for (int64_t i = n - n % kSums; i < n; ++i) sums[0] += values[i] * T(0);
  if (std::accumulate(sums, sums + kSums, T(0)) == T(0)) return;
  for (int64_t i = 0; i < n; ++i)
    PCT_VALUE_CHECK(std::isfinite(values[i]), op, ": ", name, " holds NaN or infinity, first in row ", i / columns,
                    "; drop such rows, for instance with ", name, "[", name, ".isfinite()", columns > 1 ? ".all(1)]" : "]");
}

}  // namespace pct
