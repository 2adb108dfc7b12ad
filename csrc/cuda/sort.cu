// Radix sort. One warp owns kWarpKeys consecutive keys and ranks them 32 at a time with ballots; the counts of every digit
// in every warp's share, scanned digit by digit, say where each share's keys of that digit begin.
#include "cuda/sort.h"

#include <algorithm>
#include <utility>

namespace pct {
namespace {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kWarpKeys = 512;
constexpr int kScanThreads = 256, kScanItems = 8, kScanTile = kScanThreads * kScanItems;

__device__ uint32_t digit_of(uint32_t key, int shift) { return (key >> shift) & (kDigits - 1); }

__global__ void count_digits_kernel(const uint32_t* __restrict__ keys, int64_t n, int shift, int64_t shares,
                                    uint32_t* __restrict__ counts) {
  __shared__ uint32_t warp_count[kWarps][kDigits];
  const int lane = threadIdx.x % 32;
  const int64_t share = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  uint32_t* count = warp_count[threadIdx.x / 32];
  for (int digit = lane; digit < kDigits; digit += 32) count[digit] = 0;
  __syncwarp();
  for (int64_t i = share * kWarpKeys + lane; i < (share + 1) * kWarpKeys && i < n; i += 32)
    atomicAdd(&count[digit_of(keys[i], shift)], 1u);
  __syncwarp();
  if (share >= shares) return;
  for (int digit = lane; digit < kDigits; digit += 32) counts[digit * shares + share] = count[digit];
}

__global__ void move_keys_kernel(const uint32_t* __restrict__ keys, const uint32_t* __restrict__ rows, int64_t n, int shift,
                                 int64_t shares, const uint32_t* __restrict__ begins, uint32_t* __restrict__ sorted_keys,
                                 uint32_t* __restrict__ sorted_rows) {
  __shared__ uint32_t warp_begin[kWarps][kDigits];
  const int lane = threadIdx.x % 32;
  const int64_t share = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (share >= shares) return;  // a whole warp
  uint32_t* begin = warp_begin[threadIdx.x / 32];
  for (int digit = lane; digit < kDigits; digit += 32) begin[digit] = begins[digit * shares + share];
  __syncwarp();
  for (int64_t first = share * kWarpKeys; first < (share + 1) * kWarpKeys && first < n; first += 32) {
    const int64_t i = first + lane;
    const bool valid = i < n;
    const uint32_t key = valid ? keys[i] : 0, digit = digit_of(key, shift);
    unsigned same = __ballot_sync(kFullWarp, valid);  // lanes that hold the same digit as this one
    for (int bit = 0; bit < kDigitBits; ++bit) {
      const unsigned ones = __ballot_sync(kFullWarp, (digit >> bit) & 1);
      same &= (digit >> bit) & 1 ? ones : ~ones;
    }
    const int rank = __popc(same & ((1u << lane) - 1));
    if (valid) {
      const uint32_t place = begin[digit] + rank;
      sorted_keys[place] = key;
      sorted_rows[place] = rows ? rows[i] : static_cast<uint32_t>(i);
    }
    __syncwarp();
    if (valid && rank == 0) begin[digit] += __popc(same);
    __syncwarp();
  }
}

// Exclusive sum over a block of kScanThreads threads; `total` comes back in every thread.
__device__ uint32_t scan_block(uint32_t value, uint32_t* total) {
  __shared__ uint32_t warp_total[kScanThreads / 32];
  const int lane = threadIdx.x % 32;
  uint32_t sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kFullWarp, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) warp_total[threadIdx.x / 32] = sum;
  __syncthreads();
  uint32_t before = 0, all = 0;
  for (int warp = 0; warp < kScanThreads / 32; ++warp) {
    if (warp < static_cast<int>(threadIdx.x) / 32) before += warp_total[warp];
    all += warp_total[warp];
  }
  __syncthreads();
  *total = all;
  return before + sum - value;
}

__global__ void sum_tiles_kernel(const uint32_t* __restrict__ values, int64_t n, uint32_t* __restrict__ sums) {
  uint32_t sum = 0, total;
  const int64_t first = int64_t(blockIdx.x) * kScanTile + threadIdx.x;
  for (int item = 0; item < kScanItems; ++item)
    if (first + item * kScanThreads < n) sum += values[first + item * kScanThreads];
  scan_block(sum, &total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void scan_sums_kernel(uint32_t* __restrict__ sums, int64_t tiles) {
  uint32_t before = 0, total;
  for (int64_t first = 0; first < tiles; first += kScanThreads) {
    const int64_t i = first + threadIdx.x;
    const uint32_t begin = before + scan_block(i < tiles ? sums[i] : 0, &total);
    if (i < tiles) sums[i] = begin;
    before += total;
  }
}

__global__ void scan_tiles_kernel(uint32_t* __restrict__ values, int64_t n, const uint32_t* __restrict__ sums) {
  uint32_t before = sums[blockIdx.x], total;
  for (int item = 0; item < kScanItems; ++item) {
    const int64_t i = int64_t(blockIdx.x) * kScanTile + item * kScanThreads + threadIdx.x;
    const uint32_t begin = before + scan_block(i < n ? values[i] : 0, &total);
    if (i < n) values[i] = begin;
    before += total;
  }
}

}  // namespace

void sum_before(const Tensor& values, cudaStream_t stream) {
  const int64_t n = values.numel(), tiles = (n + kScanTile - 1) / kScanTile;
  if (n == 0) return;
  const Tensor sums = empty({tiles}, int32(), values);
  PCT_LAUNCH(sum_tiles_kernel, blocks_for(n, kScanTile), kScanThreads, 0, stream, words(values), n, words(sums));
  PCT_LAUNCH(scan_sums_kernel, 1, kScanThreads, 0, stream, words(sums), tiles);
  PCT_LAUNCH(scan_tiles_kernel, blocks_for(n, kScanTile), kScanThreads, 0, stream, words(values), n, words(sums));
}

SortedKeys stable_sort(Tensor keys, int bits, cudaStream_t stream) {
  const int64_t n = keys.numel(), shares = (n + kWarpKeys - 1) / kWarpKeys;
  Tensor rows = empty({n}, int32(), keys), other_keys = empty({n}, int32(), keys), other_rows = empty({n}, int32(), keys);
  const Tensor counts = empty({shares * kDigits}, int32(), keys);
  if (n == 0) return {std::move(keys), std::move(rows)};
  for (int shift = 0; shift == 0 || shift < bits; shift += kDigitBits) {
    PCT_LAUNCH(count_digits_kernel, blocks_for(shares, kWarps), kThreads, 0, stream, words(keys), n, shift, shares,
               words(counts));
    sum_before(counts, stream);
    PCT_LAUNCH(move_keys_kernel, blocks_for(shares, kWarps), kThreads, 0, stream, words(keys),
               shift == 0 ? nullptr : words(rows), n, shift, shares, words(counts), words(other_keys), words(other_rows));
    std::swap(keys, other_keys);
    std::swap(rows, other_rows);
  }
  return {std::move(keys), std::move(rows)};
}

}  // namespace pct
