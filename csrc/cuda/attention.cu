// Attention over packed sequences on CUDA, forward: after Dao et al., FlashAttention, 2022, tile by tile with a streaming
// softmax.
#include <algorithm>

#include "cuda/attention.h"

namespace pct {
namespace {

__device__ float logarithm(float x) { return logf(x); }
__device__ double logarithm(double x) { return log(x); }

// Sizes by the bytes of a row, so that all fits into the shared memory that every GPU has for a block.
template <class T, int kDim, int kBytes = kDim * int(sizeof(T))>
using ForwardTiles =
    Tiles<kBytes <= 256 ? 64 : kBytes <= 512 ? 32 : 16, kBytes <= 512 ? 32 : kBytes <= 1024 ? 16 : 8, 16, kDim>;

// Blocks that share a multiprocessor's registers: as many as can without spilling.
template <class T>
constexpr int kForwardBlocks = sizeof(T) == 4 ? 4 : 2;

template <class Tiles, class T>
struct ForwardMemory {
  T own[Tiles::kOwn * Tiles::kStride], other[Tiles::kOther * Tiles::kStride], weights[Tiles::kOwn * Tiles::kWeightStride];
  int32_t own_position[Tiles::kOwn], other_position[Tiles::kOther];
};

template <class T, int kDim>
__global__ void __launch_bounds__(ForwardTiles<T, kDim>::kThreads, kForwardBlocks<T>)
    ragged_attention_kernel(Problem<T> p, T* __restrict__ output, T* __restrict__ logsumexp) {
  using Tiles = ForwardTiles<T, kDim>;
  using Memory = ForwardMemory<Tiles, T>;
  static_assert(sizeof(Memory) <= kMaxSharedBytes);
  PCT_SHARED_MEMORY(Memory, memory);
  const Place place = find_place(p.queries, p.keys, p.sequences, p.heads, Tiles::kOwn);
  if (place.first >= place.own_rows) return;  // the whole block
  const int group = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  const int64_t row = place.own_begin + place.first, rows = place.own_rows - place.first;
  load_rows<Tiles, Tiles::kOwn>(memory->own, p.query, row, rows, place.head, p.heads, p.dim);
  if (p.table) load_positions<Tiles, Tiles::kOwn>(memory->own_position, p.queries, p.window, row, rows);

  T sums[Tiles::kRows][Tiles::kPacks * Tiles::kPack] = {}, most[Tiles::kRows], total[Tiles::kRows];
#pragma unroll
  for (int r = 0; r < Tiles::kRows; ++r) most[r] = -INFINITY, total[r] = 0;
  const int64_t seen = p.causal ? min(place.other_rows, place.first + Tiles::kOwn) : place.other_rows;
  for (int64_t start = 0; start < seen; start += Tiles::kOther) {
    const int64_t other_row = place.other_begin + start, others = place.other_rows - start;
    __syncthreads();  // nobody reads the values of the last round any more
    load_rows<Tiles, Tiles::kOther>(memory->other, p.key, other_row, others, place.head, p.heads, p.dim);
    if (p.table) load_positions<Tiles, Tiles::kOther>(memory->other_position, p.keys, p.window, other_row, others);
    __syncthreads();
    T scores[Tiles::kRows][Tiles::kColumns];
    multiply<Tiles>(memory->own, memory->other, scores);
#pragma unroll
    for (int r = 0; r < Tiles::kRows; ++r) {
      const int own_row = group + r * Tiles::kGroups;
      T highest = most[r], sum = 0;
#pragma unroll
      for (int c = 0; c < Tiles::kColumns; ++c) {
        const int column = lane + c * kRowThreads;
        const bool visible = column < others && !(p.causal && start + column > place.first + own_row);
        scores[r][c] *= p.scale;
        if (p.table)
          scores[r][c] += p.biases(place.head)[memory->own_position[own_row] - memory->other_position[column]];
        if (!visible) scores[r][c] = -INFINITY;
        highest = max(highest, scores[r][c]);
      }
      for (int step = kRowThreads / 2; step > 0; step /= 2) highest = max(highest, __shfl_xor_sync(kFullWarp, highest, step));
      const T shift = highest == -INFINITY ? T(0) : highest;  // where nothing was seen yet
#pragma unroll
      for (int c = 0; c < Tiles::kColumns; ++c) {
        const T weight = exponential(scores[r][c] - shift);
        sum += weight;
        memory->weights[own_row * Tiles::kWeightStride + lane + c * kRowThreads] = weight;
      }
      for (int step = kRowThreads / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
      const T correction = exponential(most[r] - shift);
      most[r] = highest;
      total[r] = multiply_add(total[r], correction, sum);
#pragma unroll
      for (int d = 0; d < Tiles::kPacks * Tiles::kPack; ++d) sums[r][d] *= correction;
    }
    __syncthreads();  // the keys are read, the weights written
    load_rows<Tiles, Tiles::kOther>(memory->other, p.value, other_row, others, place.head, p.heads, p.value_dim);
    __syncthreads();
    accumulate<Tiles>(memory->weights, memory->other, sums);
  }

#pragma unroll
  for (int r = 0; r < Tiles::kRows; ++r) {
    const int own_row = group + r * Tiles::kGroups;
    if (own_row >= rows) continue;
    const int64_t at = (row + own_row) * p.heads + place.head;
    store_row<Tiles>(output + at * p.value_dim, sums[r], total[r] == 0 ? T(0) : 1 / total[r], p.value_dim);
    if (lane == 0) logsumexp[at] = (most[r] == -INFINITY ? T(0) : most[r]) + logarithm(total[r]);
  }
}

template <class T>
void launch_forward(const Problem<T>& p, T* output, T* logsumexp, cudaStream_t stream) {
  with_dim(std::max(p.dim, p.value_dim), [&](auto dim) {
    using Tiles = ForwardTiles<T, dim.value>;
    const int64_t tiles = number_of_tiles(p.queries.rows, p.sequences, Tiles::kOwn);
    PCT_LAUNCH((ragged_attention_kernel<T, dim.value>), blocks_for(tiles * p.heads, 1), Tiles::kThreads,
               sizeof(ForwardMemory<Tiles, T>), stream, p, output, logsumexp);
  });
}

template <class T>
std::tuple<Tensor, Tensor> forward(const Problem<T>& p, const Tensor& query, const Tensor& value) {
  OnDeviceOf device(query);
  Tensor output = empty({p.queries.rows, p.heads, p.value_dim}, query.dtype(), query);
  Tensor logsumexp = empty({p.queries.rows, p.heads}, query.dtype(), query);
  if (p.sequences > 0 && p.queries.rows > 0)
    launch_forward(p, output.mutable_data<T>(), logsumexp.mutable_data<T>(), device.stream());
  return {std::move(output), std::move(logsumexp)};
}

std::tuple<Tensor, Tensor> ragged_attention_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                                 const Tensor& query_offsets, const Tensor& key_offsets,
                                                 const std::optional<Tensor>& bias_table,
                                                 const std::optional<Tensor>& query_coordinates,
                                                 const std::optional<Tensor>& key_coordinates, double scale,
                                                 bool causal) {
  check_ragged_attention(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates);
  const auto run = [&](auto zero) {
    return forward(problem_of<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates,
                                              key_coordinates, scale, causal),
                   query, value);
  };
  return query.dtype() == float32() ? run(float()) : run(double());
}

const Registration kernels("CUDA", [](Library& library) { library.implement<&ragged_attention_cuda>("ragged_attention"); });

}  // namespace
}  // namespace pct
