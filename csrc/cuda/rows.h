// How threads are laid over (row, column) pairs: a power of two of lanes per row, so that neighbouring threads touch
// neighbouring columns and no thread divides.
#pragma once
#include "cuda/launch.h"

namespace pct {

constexpr int kRowThreads = 256;

struct RowLanes {
  int shift;  // 2^shift lanes per row, at most a warp

  explicit RowLanes(int64_t columns) : shift(0) {
    while (shift < 5 && (int64_t(1) << shift) < columns) ++shift;
  }
  int blocks(int64_t rows) const { return blocks_for(rows, kRowThreads >> shift); }

  __device__ int64_t row() const {
    return static_cast<int64_t>(blockIdx.x) * (kRowThreads >> shift) + (threadIdx.x >> shift);
  }
  __device__ int lane() const { return threadIdx.x & (lanes() - 1); }
  __device__ int lanes() const { return 1 << shift; }
};

}  // namespace pct
