// Multi-scale deformable attention on CUDA: lanes of a warp share the channels of one token and head.
#include <tuple>
#include <vector>

#include "cuda/rows.h"

namespace pct {
namespace {

// The tensors of one call. A row is a token (query of a batch element) in one head: its samples lie side by side.
template <class T>
struct Deformable {
  const T *value, *locations, *weights;
  Levels levels;
  int64_t rows, queries, cells, heads, dim, points;

  __device__ int64_t samples() const { return levels.count * points; }
  // where the numbers of the row's head begin in a tensor shaped as value
  __device__ int64_t first_cell(int64_t row) const {
    return (row / heads / queries * cells * heads + row % heads) * dim;
  }
};

template <class T>
Deformable<T> deformable_of(const Tensor& value, const Levels& levels, const Tensor& locations, const Tensor& weights) {
  const int64_t rows = weights.size(0) * weights.size(1) * weights.size(2);
  return {value.data<T>(), locations.data<T>(), weights.data<T>(), levels,        rows,
          weights.size(1), value.size(1),       value.size(2),     value.size(3), weights.size(4)};
}

template <class T>
__global__ void deformable_attention_kernel(Deformable<T> p, RowLanes at_row, T* __restrict__ out) {
  const int64_t row = at_row.row();
  if (row >= p.rows) return;
  const T* cells = p.value + p.first_cell(row);
  const int64_t stride = p.heads * p.dim;
  for (int64_t c = at_row.lane(); c < p.dim; c += at_row.lanes()) {
    T sum = 0;
    int64_t sample = row * p.samples();
    for (int64_t l = 0; l < p.levels.count; ++l)
      for (int64_t point = 0; point < p.points; ++point, ++sample) {
        const T x = p.locations[2 * sample], y = p.locations[2 * sample + 1], weight = p.weights[sample];
        Corners<T> at;
        if (!find_corners(p.levels.level[l], x, y, at)) {
          sum += weight * value_outside(x, y);
          continue;
        }
        T share[4], cell[4];
        for (int k = 0; k < 4; ++k) share[k] = weight * at.share[k], cell[k] = cells[at.row[k] * stride + c];
        sum += (share[0] * cell[0] + share[1] * cell[1]) + (share[2] * cell[2] + share[3] * cell[3]);
      }
    out[row * p.dim + c] = sum;
  }
}

Tensor deformable_attention_cuda(const Tensor& value, const std::vector<int64_t>& level_shapes, const Tensor& locations,
                                 const Tensor& weights) {
  const Levels levels = check_deformable_attention(value, level_shapes, locations, weights);
  OnDeviceOf device(value);
  Tensor output = empty({weights.size(0), weights.size(1), value.size(2) * value.size(3)}, value.dtype(), value);
  if (output.numel() == 0) return output;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Deformable<T> p = deformable_of<T>(value, levels, locations, weights);
    const RowLanes at(p.dim);
    PCT_LAUNCH(deformable_attention_kernel<T>, at.blocks(p.rows), kRowThreads, 0, device.stream(), p, at,
               output.mutable_data<T>());
  };
  value.dtype() == float32() ? run(float()) : run(double());
  return output;
}

template <class T>
struct Gradients {
  const T* output;
  T *value, *locations, *weights;
};

// Gradients of cells are added in whatever order threads come (pctransformer/ops/deformable.py takes the sorted way where
// results must repeat); those of locations and weights are each one sum over the lanes of a row, always the same.
template <class T>
__global__ void deformable_attention_backward_kernel(Deformable<T> p, Gradients<T> grad, RowLanes at_row) {
  const int64_t row = at_row.row();
  const bool used = row < p.rows;  // lanes of rows beyond the end stay, for the shuffles
  const int64_t first_cell = used ? p.first_cell(row) : 0, stride = p.heads * p.dim;
  int64_t sample = row * p.samples();
  for (int64_t l = 0; l < p.levels.count; ++l)
    for (int64_t point = 0; point < p.points; ++point, ++sample) {
      const T x = used ? p.locations[2 * sample] : T(0), y = used ? p.locations[2 * sample + 1] : T(0);
      const T weight = used ? p.weights[sample] : T(0);
      Corners<T> at;
      T dots[4] = {};
      const bool found = used && find_corners(p.levels.level[l], x, y, at);
      for (int64_t c = at_row.lane(); found && c < p.dim; c += at_row.lanes()) {
        const T of_output = grad.output[row * p.dim + c];
        for (int k = 0; k < 4; ++k) {
          if (!at.valid[k]) continue;
          const int64_t cell = first_cell + at.row[k] * stride + c;
          dots[k] += of_output * p.value[cell];
          atomicAdd(grad.value + cell, weight * at.share[k] * of_output);
        }
      }
      for (int step = at_row.lanes() / 2; step > 0; step /= 2)
        for (int k = 0; k < 4; ++k) dots[k] += __shfl_xor_sync(kFullWarp, dots[k], step);
      if (!used || at_row.lane() != 0) continue;
      if (found) {
        const Slope<T> slope = find_slope(p.levels.level[l], at, dots);
        grad.locations[2 * sample] = weight * slope.x;
        grad.locations[2 * sample + 1] = weight * slope.y;
        grad.weights[sample] = (at.share[0] * dots[0] + at.share[1] * dots[1]) +
                               (at.share[2] * dots[2] + at.share[3] * dots[3]);
      } else {
        grad.locations[2 * sample] = grad.locations[2 * sample + 1] = grad.weights[sample] = value_outside(x, y);
      }
    }
}

std::tuple<Tensor, Tensor, Tensor> deformable_attention_backward_cuda(
    const Tensor& grad_output, const Tensor& value, const std::vector<int64_t>& level_shapes, const Tensor& locations,
    const Tensor& weights) {
  const Levels levels = check_deformable_attention_backward(grad_output, value, level_shapes, locations, weights);
  OnDeviceOf device(value);
  const int64_t batches = weights.size(0), queries = weights.size(1), heads = weights.size(2), points = weights.size(4);
  Tensor grad_value = zeros({batches, value.size(1), heads, value.size(3)}, value.dtype(), value);
  Tensor grad_locations = empty({batches, queries, heads, levels.count, points, 2}, value.dtype(), value);
  Tensor grad_weights = empty({batches, queries, heads, levels.count, points}, value.dtype(), value);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Deformable<T> p = deformable_of<T>(value, levels, locations, weights);
    const Gradients<T> grad{grad_output.data<T>(), grad_value.mutable_data<T>(), grad_locations.mutable_data<T>(),
                            grad_weights.mutable_data<T>()};
    const RowLanes at(p.dim);
    PCT_LAUNCH(deformable_attention_backward_kernel<T>, at.blocks(p.rows), kRowThreads, 0, device.stream(), p, grad, at);
  };
  if (grad_weights.numel() > 0) value.dtype() == float32() ? run(float()) : run(double());
  return {std::move(grad_value), std::move(grad_locations), std::move(grad_weights)};
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&deformable_attention_cuda>("deformable_attention")
      .implement<&deformable_attention_backward_cuda>("deformable_attention_backward");
});

}  // namespace
}  // namespace pct
