// Attention over packed sequences on CUDA, backward: weights are computed again from the saved logsumexp (Dao,
// FlashAttention-2, 2023, algorithm 2), once for the queries' gradients and once for those of keys and values. Nothing is
// summed in an order that varies: gradients, that of the bias table included, are the same on every run.
#include <algorithm>

#include "cuda/attention.h"

namespace pct {
namespace {

constexpr int kWarpsPerBlock = 4;        // of the kernels without tiles
constexpr int64_t kSharedBiases = 1024;  // a larger table's gradient is summed in global memory at once

// Sizes by the bytes of a row, so that all fits into the shared memory that every GPU has for a block.
template <class T, int kDim, int kBytes = kDim * int(sizeof(T))>
using BackwardTiles = Tiles<kBytes <= 256 ? 32 : kBytes <= 1024 ? 16 : 4, kBytes <= 256 ? 32 : kBytes <= 512 ? 16 : 8,
                            kBytes <= 1024 ? 16 : 4, kDim>;

// Blocks that share a multiprocessor's registers: as many as can without spilling.
template <class T, int kDim>
constexpr int kBackwardBlocks = sizeof(T) == 4 ? (kDim <= 32 ? 4 : 3) : 2;

// The bias table's gradient is a sum over all pairs of queries and keys, in an order that varies. It is taken over whole
// multiples of a power of two, which makes the order unimportant. With weights p and grad = p * (dp - mean), a query's |grad|
// sum up to 2 |grad_output| max |value| at most; Nq times that bound may use 62 bits.
struct TableGradient {
  unsigned long long* sums;  // (H, entries), or null
  const unsigned* norms;     // (2, H): the largest norm of grad_output and of value, as the bits of a float
};

__device__ int table_exponent(const unsigned* norms, int head, int heads, int64_t queries) {
  const double bound = 2.0 * __uint_as_float(norms[head]) * __uint_as_float(norms[heads + head]) * queries;
  return bound > 0 ? static_cast<int>(fmin(fmax(61.0 - ilogb(bound), -120.0), 120.0)) : 120;
}

// norms[head] = max over rows of |features[row, head]|; NaN counts as the largest
template <class T>
__global__ void find_norms_kernel(const T* __restrict__ features, int64_t items, int heads, int dim,
                                  unsigned* __restrict__ norms) {
  const int64_t item = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (item >= items) return;  // a whole warp
  double sum = 0;
  for (int d = threadIdx.x % 32; d < dim; d += 32) sum += double(features[item * dim + d]) * double(features[item * dim + d]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  const float norm = static_cast<float>(sqrt(sum)) * 1.000001f;
  if (threadIdx.x % 32 == 0) atomicMax(&norms[item % heads], __float_as_uint(norm) & 0x7fffffffu);
}

template <class T>
__global__ void finish_table_kernel(TableGradient table, int64_t entries, int64_t queries, int heads,
                                    T* __restrict__ gradient) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= entries * heads) return;
  const int head = static_cast<int>(i / entries);
  const bool finite = isfinite(__uint_as_float(table.norms[head])) && isfinite(__uint_as_float(table.norms[heads + head]));
  const double sum = static_cast<double>(static_cast<long long>(table.sums[i]));
  gradient[i] = finite ? static_cast<T>(ldexp(sum, -table_exponent(table.norms, head, heads, queries))) : T(NAN);
}

// mean[i, h] = grad_output[i, h] . output[i, h], the mean gradient of the weights of a query
template <class T>
__global__ void find_means_kernel(const T* __restrict__ grad_output, const T* __restrict__ output, int64_t items, int dim,
                                  T* __restrict__ mean) {
  const int64_t item = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (item >= items) return;  // a whole warp
  T sum = 0;
  for (int d = threadIdx.x % 32; d < dim; d += 32) sum = multiply_add(grad_output[item * dim + d], output[item * dim + d], sum);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  if (threadIdx.x % 32 == 0) mean[item] = sum;
}

template <class Tiles, class T, bool kOwnsKeys>
struct BackwardMemory {
  T own[Tiles::kOwn * Tiles::kStride], own_partner[Tiles::kOwn * Tiles::kStride];
  T other[Tiles::kOther * Tiles::kStride], other_partner[Tiles::kOther * Tiles::kStride];
  T gradients[Tiles::kOwn * Tiles::kWeightStride], weights[kOwnsKeys ? Tiles::kOwn * Tiles::kWeightStride : 4];
  T logsumexp[kOwnsKeys ? Tiles::kOther : Tiles::kOwn], mean[kOwnsKeys ? Tiles::kOther : Tiles::kOwn];
  int32_t own_position[Tiles::kOwn], other_position[Tiles::kOther];
};

// A block that owns queries gives grad_query, and adds to the gradient of the bias table; one that owns keys gives grad_key
// and grad_value. Features come in partners: query with grad_output, key with value; scores are products of the firsts, the
// gradients of the weights those of the seconds.
template <class T, int kDim, bool kOwnsKeys>
__global__ void __launch_bounds__(BackwardTiles<T, kDim>::kThreads, (kBackwardBlocks<T, kDim>))
    ragged_attention_backward_kernel(Problem<T> p, const T* __restrict__ grad_output, const T* __restrict__ logsumexp,
                                     const T* __restrict__ mean, T* __restrict__ grad, T* __restrict__ grad_partner,
                                     TableGradient table, bool table_is_shared) {
  using Tiles = BackwardTiles<T, kDim>;
  using Memory = BackwardMemory<Tiles, T, kOwnsKeys>;
  constexpr int kQueries = kOwnsKeys ? Tiles::kOther : Tiles::kOwn;
  PCT_SHARED_MEMORY(Memory, memory);
  static_assert(sizeof(Memory) % sizeof(unsigned long long) == 0);
  static_assert(sizeof(Memory) + (kOwnsKeys ? 0 : kSharedBiases * sizeof(unsigned long long)) <= kMaxSharedBytes);
  unsigned long long* shared_table = reinterpret_cast<unsigned long long*>(memory + 1);
  const Side &own = kOwnsKeys ? p.keys : p.queries, &other = kOwnsKeys ? p.queries : p.keys;
  const T *own_features = kOwnsKeys ? p.key : p.query, *own_partner = kOwnsKeys ? p.value : grad_output;
  const T *other_features = kOwnsKeys ? p.query : p.key, *other_partner = kOwnsKeys ? grad_output : p.value;
  const Place place = find_place(own, other, p.sequences, p.heads, Tiles::kOwn);
  if (place.first >= place.own_rows) return;  // the whole block
  const int group = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  const int64_t row = place.own_begin + place.first, rows = place.own_rows - place.first;

  const auto load_queries = [&](int64_t query, int64_t count) {
    for (int i = threadIdx.x; i < kQueries; i += Tiles::kThreads) {
      const int64_t at = (query + i) * p.heads + place.head;
      const T sum = i < count ? logsumexp[at] : -INFINITY;
      memory->logsumexp[i] = sum == -INFINITY ? INFINITY : sum;  // all weights are 0 where nothing was seen
      memory->mean[i] = i < count ? mean[at] : T(0);
    }
  };
  load_rows<Tiles, Tiles::kOwn>(memory->own, own_features, row, rows, place.head, p.heads, p.dim);
  load_rows<Tiles, Tiles::kOwn>(memory->own_partner, own_partner, row, rows, place.head, p.heads, p.value_dim);
  if (p.table) load_positions<Tiles, Tiles::kOwn>(memory->own_position, own, p.window, row, rows);
  if (!kOwnsKeys) load_queries(row, rows);
  unsigned long long* table_sums = nullptr;
  T table_unit = 0;
  if (!kOwnsKeys && table.sums != nullptr) {
    table_unit = static_cast<T>(ldexp(1.0, table_exponent(table.norms, place.head, p.heads, p.queries.rows)));
    table_sums = table_is_shared ? shared_table : table.sums + place.head * p.window.size();
    if (table_is_shared)
      for (int i = threadIdx.x; i < p.window.size(); i += Tiles::kThreads) shared_table[i] = 0;
  }

  T sums[Tiles::kRows][Tiles::kPacks * Tiles::kPack] = {}, partner_sums[Tiles::kRows][Tiles::kPacks * Tiles::kPack] = {};
  int64_t start = 0, end = place.other_rows;  // of the other side, what sees or is seen
  if (p.causal && kOwnsKeys) start = place.first / Tiles::kOther * Tiles::kOther;
  if (p.causal && !kOwnsKeys) end = min(end, place.first + Tiles::kOwn);
  for (; start < end; start += Tiles::kOther) {
    const int64_t other_row = place.other_begin + start, others = place.other_rows - start;
    __syncthreads();  // nobody reads the last round any more
    load_rows<Tiles, Tiles::kOther>(memory->other, other_features, other_row, others, place.head, p.heads, p.dim);
    load_rows<Tiles, Tiles::kOther>(memory->other_partner, other_partner, other_row, others, place.head, p.heads, p.value_dim);
    if (p.table) load_positions<Tiles, Tiles::kOther>(memory->other_position, other, p.window, other_row, others);
    if (kOwnsKeys) load_queries(other_row, others);
    __syncthreads();
    T scores[Tiles::kRows][Tiles::kColumns], gradients[Tiles::kRows][Tiles::kColumns];
    multiply<Tiles>(memory->own, memory->other, scores);
    multiply<Tiles>(memory->own_partner, memory->other_partner, gradients);
#pragma unroll
    for (int r = 0; r < Tiles::kRows; ++r)
#pragma unroll
      for (int c = 0; c < Tiles::kColumns; ++c) {
        const int own_row = group + r * Tiles::kGroups, column = lane + c * kRowThreads;
        const int query = kOwnsKeys ? column : own_row;
        const int64_t own_place = place.first + own_row, other_place = start + column;
        const bool hidden = p.causal && (kOwnsKeys ? own_place > other_place : other_place > own_place);
        const bool visible = own_row < rows && column < others && !hidden;
        const int position = p.table ? memory->own_position[own_row] - memory->other_position[column] : 0;
        T score = scores[r][c] * p.scale;
        if (p.table) score += p.biases(place.head)[kOwnsKeys ? -position : position];
        const T weight = visible ? exponential(score - memory->logsumexp[query]) : T(0);
        const T gradient = visible ? weight * (gradients[r][c] - memory->mean[query]) : T(0);
        memory->gradients[own_row * Tiles::kWeightStride + column] = gradient;
        if (kOwnsKeys) memory->weights[own_row * Tiles::kWeightStride + column] = weight;
        if (!kOwnsKeys && table_sums != nullptr && visible)
          atomicAdd(&table_sums[p.window.centre() + position], static_cast<unsigned long long>(llrint(gradient * table_unit)));
      }
    __syncwarp();  // a row's weights are read by the eight threads that wrote them
    accumulate<Tiles>(memory->gradients, memory->other, sums);
    if (kOwnsKeys) accumulate<Tiles>(memory->weights, memory->other_partner, partner_sums);
  }

#pragma unroll
  for (int r = 0; r < Tiles::kRows; ++r) {
    const int own_row = group + r * Tiles::kGroups;
    if (own_row >= rows) continue;
    const int64_t at = (row + own_row) * p.heads + place.head;
    store_row<Tiles>(grad + at * p.dim, sums[r], p.scale, p.dim);
    if (kOwnsKeys) store_row<Tiles>(grad_partner + at * p.value_dim, partner_sums[r], T(1), p.value_dim);
  }
  if (!kOwnsKeys && table_sums == shared_table && table_sums != nullptr) {
    __syncthreads();
    for (int i = threadIdx.x; i < p.window.size(); i += Tiles::kThreads)
      if (shared_table[i] != 0) atomicAdd(&table.sums[place.head * p.window.size() + i], shared_table[i]);
  }
}

template <bool kOwnsKeys, class T>
void launch_backward(const Problem<T>& p, const T* grad_output, const T* logsumexp, const T* mean, T* grad, T* grad_partner,
                     TableGradient table, cudaStream_t stream) {
  const bool table_is_shared = table.sums != nullptr && p.window.size() <= kSharedBiases;
  with_dim(std::max(p.dim, p.value_dim), [&](auto dim) {
    using Tiles = BackwardTiles<T, dim.value>;
    const int64_t tiles = number_of_tiles(kOwnsKeys ? p.keys.rows : p.queries.rows, p.sequences, Tiles::kOwn);
    const int64_t bytes = sizeof(BackwardMemory<Tiles, T, kOwnsKeys>) +
                          (table_is_shared ? p.window.size() * int64_t(sizeof(unsigned long long)) : 0);
    PCT_LAUNCH((ragged_attention_backward_kernel<T, dim.value, kOwnsKeys>), blocks_for(tiles * p.heads, 1),
               Tiles::kThreads, bytes, stream, p, grad_output, logsumexp, mean, grad, grad_partner, table, table_is_shared);
  });
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Problem<T>& p, const Tensor& grad_output, const Tensor& query,
                                                    const Tensor& output, const Tensor& logsumexp) {
  OnDeviceOf device(query);
  const int32_t dtype = query.dtype();
  const int64_t queries = p.queries.rows, keys = p.keys.rows, entries = p.table ? p.window.size() : 0;
  const BiasWindow& w = p.window;
  Tensor grad_query = empty({queries, p.heads, p.dim}, dtype, query);
  Tensor grad_key = empty({keys, p.heads, p.dim}, dtype, query);
  Tensor grad_value = empty({keys, p.heads, p.value_dim}, dtype, query);
  Tensor grad_table = p.table ? empty({p.heads, 2 * w.w0 - 1, 2 * w.w1 - 1, 2 * w.w2 - 1}, dtype, query)
                              : empty({0}, dtype, query);
  Tensor mean = empty({queries, p.heads}, dtype, query);
  Tensor table_sums = zeros({p.heads, entries}, int64(), query), norms = zeros({2, p.heads}, int32(), query);
  TableGradient table{nullptr, reinterpret_cast<unsigned*>(norms.mutable_data<int32_t>())};
  if (p.table) table.sums = reinterpret_cast<unsigned long long*>(table_sums.mutable_data<int64_t>());
  const T* grads = grad_output.data<T>();
  const auto find_norms = [&](const T* features, int64_t rows, int64_t which) {
    if (p.table && rows > 0)
      PCT_LAUNCH(find_norms_kernel<T>, blocks_for(rows * p.heads, kWarpsPerBlock), 32 * kWarpsPerBlock, 0, device.stream(),
                 features, rows * p.heads, p.heads, p.value_dim,
                 reinterpret_cast<unsigned*>(norms.mutable_data<int32_t>()) + which * p.heads);
  };
  find_norms(grads, queries, 0);
  find_norms(p.value, keys, 1);
  if (queries > 0)
    PCT_LAUNCH(find_means_kernel<T>, blocks_for(queries * p.heads, kWarpsPerBlock), 32 * kWarpsPerBlock, 0, device.stream(),
               grads, output.data<T>(), queries * p.heads, p.value_dim, mean.mutable_data<T>());
  if (p.sequences > 0 && queries > 0)
    launch_backward<false>(p, grads, logsumexp.data<T>(), mean.data<T>(), grad_query.mutable_data<T>(),
                           static_cast<T*>(nullptr), table, device.stream());
  if (p.sequences > 0 && keys > 0)
    launch_backward<true>(p, grads, logsumexp.data<T>(), mean.data<T>(), grad_key.mutable_data<T>(),
                          grad_value.mutable_data<T>(), TableGradient{nullptr, nullptr}, device.stream());
  if (p.table)
    PCT_LAUNCH(finish_table_kernel<T>, blocks_for(entries * p.heads, 256), 256, 0, device.stream(), table, entries, queries,
               p.heads, grad_table.mutable_data<T>());
  return {std::move(grad_query), std::move(grad_key), std::move(grad_value), std::move(grad_table)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ragged_attention_backward_cuda(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output,
    const Tensor& logsumexp, const Tensor& query_offsets, const Tensor& key_offsets,
    const std::optional<Tensor>& bias_table, const std::optional<Tensor>& query_coordinates,
    const std::optional<Tensor>& key_coordinates, double scale, bool causal) {
  check_ragged_attention_backward(grad_output, query, key, value, output, logsumexp, query_offsets, key_offsets,
                                  bias_table, query_coordinates, key_coordinates);
  const auto run = [&](auto zero) {
    return backward(problem_of<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table,
                                               query_coordinates, key_coordinates, scale, causal),
                    grad_output, query, output, logsumexp);
  };
  return query.dtype() == float32() ? run(float()) : run(double());
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&ragged_attention_backward_cuda>("ragged_attention_backward");
});

}  // namespace
}  // namespace pct
