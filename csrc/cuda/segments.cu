// Sums, maxima and softmax over groups of rows. One thread reduces one column of a short segment, in the order of positions
// as the CPU does; a block reduces some columns of a long one, with a tree that is the same on every run.
#include <cmath>
#include <cstdint>
#include <optional>

#include "checks.h"
#include "common/half.h"
#include "cuda/launch.h"
#include "cuda/sort.h"

namespace pct {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kLongSegment = 512;   // rows from which on a block works on a segment
constexpr int kColumns = 8;             // columns of a long segment that a block works on: 32 bytes of each row
constexpr int kRows = kThreads / kColumns;
constexpr int64_t kLongBlocks = 4096;   // they walk over the segments, most of which are short

// The rows of all segments; whatever offsets and order hold, no row outside [0, rows) is touched.
struct Segments {
  const int64_t* offsets;
  const int64_t* order;  // may be null: position i is row i
  int64_t count, columns, rows;

  __device__ int64_t begin(int64_t segment) const { return clamp(offsets[segment], 0, rows); }
  __device__ int64_t end(int64_t segment) const { return clamp(offsets[segment + 1], begin(segment), rows); }
  __device__ int64_t row(int64_t i) const { return order ? clamp(order[i], 0, rows - 1) : i; }

 private:
  __device__ static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
  }
};

// The part of a segment that a thread sees: positions first, first + step, ... below end.
struct Part {
  int64_t segment, column, first, end, step;
  int64_t length;  // of the whole segment
  bool leader;     // writes what there is one of
};

// An Op has a State, start() and add(state, row, position, column) to build one, merge(a, b) to join two, and finish(state, part).
template <class Op>
__global__ void short_segments(Op op, Segments at) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= at.count * at.columns) return;
  const int64_t segment = item / at.columns, column = item % at.columns;
  const int64_t begin = at.begin(segment), end = at.end(segment);
  if (end - begin >= kLongSegment) return;
  typename Op::State state = op.start();
  for (int64_t i = begin; i < end; ++i) op.add(state, at.row(i), i, column);
  op.finish(state, at, Part{segment, column, begin, end, 1, end - begin, true});
}

template <class Op>
__global__ void long_segments(Op op, Segments at) {
  __shared__ typename Op::State partial[kThreads];
  const int lane = threadIdx.x / kColumns;
  const int64_t blocks = (at.columns + kColumns - 1) / kColumns;
  for (int64_t item = blockIdx.x; item < at.count * blocks; item += gridDim.x) {
    const int64_t segment = item / blocks, column = item % blocks * kColumns + threadIdx.x % kColumns;
    const int64_t begin = at.begin(segment), end = at.end(segment);
    if (end - begin < kLongSegment) continue;  // the same for the whole block
    typename Op::State state = op.start();
    if (column < at.columns)
      for (int64_t i = begin + lane; i < end; i += kRows) op.add(state, at.row(i), i, column);
    partial[threadIdx.x] = state;
    __syncthreads();
    for (int half = kRows / 2; half > 0; half /= 2) {
      if (lane < half) op.merge(partial[threadIdx.x], partial[threadIdx.x + half * kColumns]);
      __syncthreads();
    }
    state = partial[threadIdx.x % kColumns];
    __syncthreads();
    if (column < at.columns)
      op.finish(state, at, Part{segment, column, begin + lane, end, kRows, end - begin, lane == 0});
  }
}

template <class Op>
void run(const Op& op, const Segments& at, cudaStream_t stream) {
  if (at.count * at.columns == 0) return;
  PCT_LAUNCH(short_segments<Op>, blocks_for(at.count * at.columns, kThreads), kThreads, 0, stream, op, at);
  if (at.rows < kLongSegment) return;
  const int64_t items = at.count * ((at.columns + kColumns - 1) / kColumns);
  PCT_LAUNCH(long_segments<Op>, static_cast<int>(items < kLongBlocks ? items : kLongBlocks), kThreads, 0, stream, op, at);
}

Segments segments_of(const Tensor& offsets, const std::optional<Tensor>& order, int64_t rows, int64_t columns) {
  return {offsets.data<int64_t>(), order ? order->data<int64_t>() : nullptr, offsets.size(0) - 1, columns, rows};
}

template <class T>
struct Sum {
  using State = accumulator<T>;
  const T* values;
  int64_t columns;
  bool mean;
  T* out;

  __device__ State start() const { return 0; }
  __device__ void add(State& sum, int64_t row, int64_t, int64_t column) const { sum += State(values[row * columns + column]); }
  __device__ void merge(State& sum, const State& other) const { sum += other; }
  __device__ void finish(const State& sum, const Segments&, const Part& part) const {
    const State terms = mean && part.length > 0 ? State(part.length) : State(1);
    if (part.leader) out[part.segment * columns + part.column] = T(sum / terms);
  }
};

template <class T>
struct Spread {
  struct State {};
  const T* values;
  int64_t columns;
  bool mean;
  T* out;

  __device__ State start() const { return {}; }
  __device__ void add(State&, int64_t, int64_t, int64_t) const {}
  __device__ void merge(State&, const State&) const {}
  __device__ void finish(const State&, const Segments& at, const Part& part) const {
    using A = accumulator<T>;
    const A terms = mean && part.length > 0 ? A(part.length) : A(1);
    const T share = T(A(values[part.segment * columns + part.column]) / terms);
    for (int64_t i = part.first; i < part.end; i += part.step) out[at.row(i) * columns + part.column] = share;
  }
};

// NaN is larger than everything, and of equal values the first is the largest.
template <class T>
struct Max {
  using A = accumulator<T>;
  struct State {
    A value;
    int64_t row, position;
  };
  const T* values;
  int64_t columns;
  T* out;
  int64_t* argrow;

  __device__ State start() const { return {0, -1, INT64_MAX}; }
  __device__ void add(State& best, int64_t row, int64_t position, int64_t column) const {
    const A value = values[row * columns + column];
    if (best.row < 0 || larger(value, best.value)) best = {value, row, position};
  }
  __device__ void merge(State& best, const State& other) const {
    const bool equal = !larger(other.value, best.value) && !larger(best.value, other.value);
    if (larger(other.value, best.value) || (equal && other.position < best.position)) best = other;
  }
  __device__ void finish(const State& best, const Segments&, const Part& part) const {
    if (!part.leader) return;
    out[part.segment * columns + part.column] = T(best.value);
    argrow[part.segment * columns + part.column] = best.row;
  }

 private:
  __device__ static bool larger(A a, A b) { return !(a <= b) && b == b; }
};

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// One pass: the sum of exponentials is rescaled whenever a larger value comes (Milakov and Gimelshein 2018).
template <class T>
struct Softmax {
  using A = accumulator<T>;
  struct State {
    A largest, sum;
  };
  const T* values;
  int64_t columns;
  T* out;

  __device__ State start() const { return {-A(INFINITY), 0}; }
  __device__ void add(State& state, int64_t row, int64_t, int64_t column) const {
    const A value = values[row * columns + column];
    if (value > state.largest)
      state = {value, state.sum * exponential(state.largest - value) + 1};
    else if (value != -A(INFINITY))
      state.sum += exponential(value - state.largest);
  }
  __device__ void merge(State& state, const State& other) const {
    const A largest = state.largest > other.largest ? state.largest : other.largest;
    state = {largest, scaled(state, largest) + scaled(other, largest)};
  }
  __device__ void finish(const State& state, const Segments& at, const Part& part) const {
    // with +inf, as in torch.softmax, no row has a meaning
    const A sum = state.largest == A(INFINITY) ? A(NAN) : state.sum;
    for (int64_t i = part.first; i < part.end; i += part.step) {
      const int64_t place = at.row(i) * columns + part.column;
      out[place] = T(exponential(A(values[place]) - state.largest) / sum);
    }
  }

 private:
  __device__ static A scaled(const State& state, A largest) {
    return state.largest == largest ? state.sum : state.sum * exponential(state.largest - largest);
  }
};

// y (g - sum of y g over the segment)
template <class T>
struct SoftmaxBackward {
  using State = accumulator<T>;
  const T *grad, *softmax;
  int64_t columns;
  T* out;

  __device__ State start() const { return 0; }
  __device__ void add(State& sum, int64_t row, int64_t, int64_t column) const {
    const int64_t place = row * columns + column;
    sum += State(softmax[place]) * State(grad[place]);
  }
  __device__ void merge(State& sum, const State& other) const { sum += other; }
  __device__ void finish(const State& sum, const Segments& at, const Part& part) const {
    for (int64_t i = part.first; i < part.end; i += part.step) {
      const int64_t place = at.row(i) * columns + part.column;
      out[place] = T(State(softmax[place]) * (State(grad[place]) - sum));
    }
  }
};

// Rows that are in no segment keep the zeros; without an order there are none.
Tensor rows_like(const Tensor& like, const std::optional<Tensor>& order, int64_t rows) {
  const int64_t columns = like.size(1);
  return order ? zeros({rows, columns}, like.dtype(), like) : empty({rows, columns}, like.dtype(), like);
}

Tensor segment_sum_cuda(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order, bool mean) {
  check_segments("segment_sum", values, offsets, order);
  OnDeviceOf device(values);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1));
  Tensor out = empty({at.count, at.columns}, values.dtype(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(Sum<T>{values.data<T>(), at.columns, mean, out.mutable_data<T>()}, at, device.stream());
  });
  return out;
}

Tensor segment_spread_cuda(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order, int64_t rows,
                           bool mean) {
  check_segment_spread(values, offsets, order, rows);
  OnDeviceOf device(values);
  const Segments at = segments_of(offsets, order, rows, values.size(1));
  Tensor out = rows_like(values, order, rows);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(Spread<T>{values.data<T>(), at.columns, mean, out.mutable_data<T>()}, at, device.stream());
  });
  return out;
}

std::tuple<Tensor, Tensor> segment_max_cuda(const Tensor& values, const Tensor& offsets,
                                            const std::optional<Tensor>& order) {
  check_segments("segment_max", values, offsets, order);
  OnDeviceOf device(values);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1));
  Tensor out = empty({at.count, at.columns}, values.dtype(), values);
  Tensor argrow = empty({at.count, at.columns}, int64(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(Max<T>{values.data<T>(), at.columns, out.mutable_data<T>(), argrow.mutable_data<int64_t>()}, at, device.stream());
  });
  return {std::move(out), std::move(argrow)};
}

template <class T>
__global__ void max_backward_kernel(const T* __restrict__ grad, const int64_t* __restrict__ argrow, int64_t count,
                                    int64_t columns, int64_t rows, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count && argrow[i] >= 0 && argrow[i] < rows) out[argrow[i] * columns + i % columns] = grad[i];
}

Tensor segment_max_backward_cuda(const Tensor& grad, const Tensor& argrow, const Tensor& offsets,
                                 const std::optional<Tensor>& order, int64_t rows) {
  check_segment_max_backward(grad, argrow, offsets, order, rows);
  OnDeviceOf device(grad);
  Tensor out = zeros({rows, grad.size(1)}, grad.dtype(), grad);
  if (grad.numel() == 0) return out;
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    PCT_LAUNCH(max_backward_kernel<T>, blocks_for(grad.numel(), kThreads), kThreads, 0, device.stream(), grad.data<T>(),
               argrow.data<int64_t>(), grad.numel(), grad.size(1), rows, out.mutable_data<T>());
  });
  return out;
}

Tensor segment_softmax_cuda(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order) {
  check_segments("segment_softmax", values, offsets, order);
  OnDeviceOf device(values);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1));
  Tensor out = rows_like(values, order, at.rows);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(Softmax<T>{values.data<T>(), at.columns, out.mutable_data<T>()}, at, device.stream());
  });
  return out;
}

Tensor segment_softmax_backward_cuda(const Tensor& grad, const Tensor& softmax, const Tensor& offsets,
                                     const std::optional<Tensor>& order) {
  check_segment_softmax_backward(grad, softmax, offsets, order);
  OnDeviceOf device(grad);
  const Segments at = segments_of(offsets, order, grad.size(0), grad.size(1));
  Tensor out = rows_like(grad, order, at.rows);
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(SoftmaxBackward<T>{grad.data<T>(), softmax.data<T>(), at.columns, out.mutable_data<T>()}, at, device.stream());
  });
  return out;
}

// ---- rows in the order of their groups -------------------------------------------------------------------------------
__global__ void group_keys(const int64_t* __restrict__ index, int64_t rows, int64_t size, uint32_t* __restrict__ keys) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows) keys[i] = static_cast<uint32_t>(index[i] >= 0 && index[i] < size ? index[i] : size);
}

__global__ void widen(const uint32_t* __restrict__ in, int64_t rows, int64_t* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows) out[i] = in[i];
}

// offsets[g] is the first place in keys that holds g or more
__global__ void group_offsets(const uint32_t* __restrict__ keys, int64_t rows, int64_t size,
                              int64_t* __restrict__ offsets) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group > size) return;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < group)
      low = middle + 1;
    else
      high = middle;
  }
  offsets[group] = low;
}

std::tuple<Tensor, Tensor> sort_index_cuda(const Tensor& index, int64_t size) {
  check_sort_index(index, size);
  constexpr int64_t kMost = 0x7fffffff;  // the sort has 32-bit keys
  const int64_t rows = index.size(0);
  PCT_CHECK(rows <= kMost && size < kMost, "sort_index: on CUDA at most 2^31 - 1 rows and 2^31 - 2 groups");
  OnDeviceOf device(index);
  Tensor order = empty({rows}, int64(), index), offsets = zeros({size + 1}, int64(), index);
  if (rows > 0) {
    int bits = 1;
    while ((size >> bits) > 0) ++bits;
    Tensor keys = empty({rows}, int32(), index);
    PCT_LAUNCH(group_keys, blocks_for(rows, kThreads), kThreads, 0, device.stream(), index.data<int64_t>(), rows, size,
               words(keys));
    const SortedKeys sorted = stable_sort(std::move(keys), bits, device.stream());
    PCT_LAUNCH(widen, blocks_for(rows, kThreads), kThreads, 0, device.stream(), words(sorted.rows), rows,
               order.mutable_data<int64_t>());
    PCT_LAUNCH(group_offsets, blocks_for(size + 1, kThreads), kThreads, 0, device.stream(), words(sorted.keys), rows,
               size, offsets.mutable_data<int64_t>());
  }
  return {std::move(order), std::move(offsets)};
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&sort_index_cuda>("sort_index")
      .implement<&segment_sum_cuda>("segment_sum")
      .implement<&segment_spread_cuda>("segment_spread")
      .implement<&segment_max_cuda>("segment_max")
      .implement<&segment_max_backward_cuda>("segment_max_backward")
      .implement<&segment_softmax_cuda>("segment_softmax")
      .implement<&segment_softmax_backward_cuda>("segment_softmax_backward");
});

}  // namespace
}  // namespace pct
