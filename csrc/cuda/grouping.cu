// Rows of features by index, with or without relative coordinates or weights, and the gradients of that. An index outside
// [-1, rows) counts as -1: its value cannot be looked at without stalling the stream.
#include <optional>

#include "checks.h"
#include "common/half.h"
#include "cuda/launch.h"
#include "cuda/rows.h"

namespace pct {
namespace {

__device__ __forceinline__ bool is_row(int64_t index, int64_t rows) { return index >= 0 && index < rows; }

struct alignas(16) Word16 {
  uint64_t low, high;
};

template <class Word>
__global__ void gather_kernel(const Word* __restrict__ features, const int64_t* __restrict__ index, int64_t count,
                              int64_t rows, int64_t words, RowLanes at, Word* __restrict__ out) {
  const int64_t i = at.row();
  if (i >= count) return;
  const int64_t row = index[i];
  const bool used = is_row(row, rows);
  for (int64_t w = at.lane(); w < words; w += at.lanes()) out[i * words + w] = used ? features[row * words + w] : Word{};
}

template <class Word>
void gather_words(const Tensor& features, const Tensor& index, const Tensor& out, int64_t bytes, cudaStream_t stream) {
  const int64_t count = index.size(0), words = bytes / static_cast<int64_t>(sizeof(Word));
  const RowLanes at(words);
  PCT_LAUNCH(gather_kernel<Word>, at.blocks(count), kRowThreads, 0, stream, features.data<Word>(), index.data<int64_t>(),
             count, features.size(0), words, at, out.mutable_data<Word>());
}

Tensor gather_cuda(const Tensor& features, const Tensor& index) {
  check_gather(features, index);
  OnDeviceOf device(features);
  Tensor out = empty({index.size(0), features.size(1)}, features.dtype(), features);
  if (out.numel() == 0) return out;
  const int64_t bytes = features.size(1) * features.element_size();
  // as many bytes at a time as the length and the place of rows allow
  const int64_t alignment = bytes | reinterpret_cast<intptr_t>(features.data<char>());
  if (alignment % 16 == 0)
    gather_words<Word16>(features, index, out, bytes, device.stream());
  else if (alignment % 4 == 0)
    gather_words<uint32_t>(features, index, out, bytes, device.stream());
  else if (alignment % 2 == 0)
    gather_words<uint16_t>(features, index, out, bytes, device.stream());
  else
    gather_words<uint8_t>(features, index, out, bytes, device.stream());
  return out;
}

template <class T>
__global__ void group_kernel(const float* __restrict__ xyz, const float* __restrict__ query_xyz,
                             const int64_t* __restrict__ index, const T* __restrict__ features, int64_t count,
                             int64_t rows, int64_t neighbors, int64_t columns, float radius, RowLanes at,
                             T* __restrict__ out) {
  const int64_t i = at.row();
  if (i >= count) return;
  const int64_t row = index[i], query = i / neighbors;
  const bool used = is_row(row, rows);
  for (int64_t c = at.lane(); c < 3 + columns; c += at.lanes()) {
    T value = T(0.0f);
    if (used && c < 3) value = T((xyz[3 * row + c] - query_xyz[3 * query + c]) / radius);
    if (used && c >= 3) value = features[row * columns + c - 3];
    out[i * (3 + columns) + c] = value;
  }
}

Tensor group_cuda(const Tensor& xyz, const Tensor& query_xyz, const Tensor& index, const std::optional<Tensor>& features,
                  double radius) {
  check_group(xyz, query_xyz, index, features, radius);
  OnDeviceOf device(xyz);
  const int64_t neighbors = index.size(1), columns = features ? features->size(1) : 0, count = index.numel();
  Tensor out = empty({index.size(0), neighbors, 3 + columns}, features ? features->dtype() : float32(), xyz);
  if (count == 0) return out;
  with_floating(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const RowLanes at(3 + columns);
    PCT_LAUNCH(group_kernel<T>, at.blocks(count), kRowThreads, 0, device.stream(), xyz.data<float>(),
               query_xyz.data<float>(), index.data<int64_t>(), features ? features->data<T>() : nullptr, count,
               xyz.size(0), neighbors, columns, static_cast<float>(radius), at, out.mutable_data<T>());
  });
  return out;
}

template <class T>
__global__ void weighted_gather_kernel(const T* __restrict__ features, const int64_t* __restrict__ index,
                                       const accumulator<T>* __restrict__ weight, int64_t count, int64_t rows,
                                       int64_t neighbors, int64_t columns, RowLanes at, T* __restrict__ out) {
  const int64_t m = at.row();
  if (m >= count) return;
  for (int64_t c = at.lane(); c < columns; c += at.lanes()) {
    accumulator<T> sum = 0;
    for (int64_t j = m * neighbors; j < (m + 1) * neighbors; ++j)
      if (is_row(index[j], rows)) sum += weight[j] * accumulator<T>(features[index[j] * columns + c]);
    out[m * columns + c] = T(sum);
  }
}

Tensor weighted_gather_cuda(const Tensor& features, const Tensor& index, const Tensor& weight) {
  check_weighted_gather(features, index, weight);
  OnDeviceOf device(features);
  const int64_t count = index.size(0), columns = features.size(1);
  Tensor out = empty({count, columns}, features.dtype(), features);
  if (out.numel() == 0) return out;
  with_floating(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const RowLanes at(columns);
    PCT_LAUNCH(weighted_gather_kernel<T>, at.blocks(count), kRowThreads, 0, device.stream(), features.data<T>(),
               index.data<int64_t>(), weight.data<accumulator<T>>(), count, features.size(0), index.size(1), columns, at,
               out.mutable_data<T>());
  });
  return out;
}

// Adds in whatever order threads come; pctransformer/ops/grouping.py takes the sorted way where results must repeat.
template <class T>
__global__ void gather_backward_kernel(const T* __restrict__ grad, const int64_t* __restrict__ index,
                                       const accumulator<T>* __restrict__ weight, int64_t count, int64_t rows,
                                       int64_t neighbors, int64_t columns, RowLanes at,
                                       accumulator<T>* __restrict__ total) {
  const int64_t i = at.row();
  if (i >= count || !is_row(index[i], rows)) return;
  const accumulator<T> factor = weight ? weight[i] : accumulator<T>(1);
  const T* from = grad + i / neighbors * columns;
  for (int64_t c = at.lane(); c < columns; c += at.lanes())
    atomicAdd(total + index[i] * columns + c, factor * accumulator<T>(from[c]));
}

template <class T>
__global__ void round_kernel(const accumulator<T>* __restrict__ in, int64_t count, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i < count) out[i] = T(in[i]);
}

Tensor gather_backward_cuda(const Tensor& grad, const Tensor& index, const std::optional<Tensor>& weight, int64_t rows) {
  check_gather_backward(grad, index, weight, rows);
  OnDeviceOf device(grad);
  const int64_t count = index.numel(), columns = grad.size(1);
  const bool half = grad.element_size() == 2;
  Tensor total = zeros({rows, columns}, half ? float32() : grad.dtype(), grad);
  Tensor rounded = empty({half ? rows : 0, columns}, grad.dtype(), grad);
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using A = accumulator<T>;
    const RowLanes at(columns);
    if (count * columns > 0)
      PCT_LAUNCH(gather_backward_kernel<T>, at.blocks(count), kRowThreads, 0, device.stream(), grad.data<T>(),
                 index.data<int64_t>(), weight ? weight->data<A>() : nullptr, count, rows, index.size(1), columns, at,
                 total.mutable_data<A>());
    if (rounded.numel() > 0)
      PCT_LAUNCH(round_kernel<T>, blocks_for(rounded.numel(), kRowThreads), kRowThreads, 0, device.stream(),
                 total.data<A>(), rounded.numel(), rounded.mutable_data<T>());
  });
  return half ? std::move(rounded) : std::move(total);
}

// a warp per (m, j)
template <class T>
__global__ void gather_dot_kernel(const T* __restrict__ grad, const T* __restrict__ features,
                                  const int64_t* __restrict__ index, int64_t count, int64_t rows, int64_t neighbors,
                                  int64_t columns, accumulator<T>* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + threadIdx.x / 32;
  if (i >= count) return;  // the same for a whole warp
  accumulator<T> sum = 0;
  if (is_row(index[i], rows)) {
    const T *a = grad + i / neighbors * columns, *b = features + index[i] * columns;
    for (int64_t c = threadIdx.x % 32; c < columns; c += 32) sum += accumulator<T>(a[c]) * accumulator<T>(b[c]);
  }
  for (int step = 16; step > 0; step >>= 1) sum += __shfl_down_sync(kFullWarp, sum, step);
  if (threadIdx.x % 32 == 0) out[i] = sum;
}

Tensor gather_dot_cuda(const Tensor& grad, const Tensor& features, const Tensor& index) {
  check_gather_dot(grad, features, index);
  OnDeviceOf device(grad);
  const int64_t count = index.numel();
  Tensor out = empty({index.size(0), index.size(1)}, grad.dtype() == float64() ? float64() : float32(), grad);
  if (count == 0) return out;
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    PCT_LAUNCH(gather_dot_kernel<T>, blocks_for(count, kRowThreads / 32), kRowThreads, 0, device.stream(),
               grad.data<T>(), features.data<T>(), index.data<int64_t>(), count, features.size(0), index.size(1),
               grad.size(1), out.mutable_data<accumulator<T>>());
  });
  return out;
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&gather_cuda>("gather")
      .implement<&gather_backward_cuda>("gather_backward")
      .implement<&gather_dot_cuda>("gather_dot")
      .implement<&group_cuda>("group")
      .implement<&weighted_gather_cuda>("weighted_gather");
});

}  // namespace
}  // namespace pct
