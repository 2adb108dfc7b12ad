// Multi-scale deformable attention: weighted sums of samples from several maps, and the gradients of that.
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/simd.h"

namespace pct {
namespace {

// The tensors of one call, read alike by both passes. A "token" is query i of batch element b, number b * queries + i.
template <class T>
struct Deformable {
  const T *value, *locations, *weights;
  Levels levels;
  int64_t batches, cells, queries, heads, dim, points;

  Deformable(const Tensor& value, const Levels& levels, const Tensor& locations, const Tensor& weights)
      : value(value.data<T>()),
        locations(locations.data<T>()),
        weights(weights.data<T>()),
        levels(levels),
        batches(value.size(0)),
        cells(value.size(1)),
        queries(weights.size(1)),
        heads(value.size(2)),
        dim(value.size(3)),
        points(weights.size(4)) {}

  int64_t row() const { return heads * dim; }                // numbers of a cell, all heads
  int64_t samples() const { return levels.count * points; }  // of a token in one head
  int64_t first_sample(int64_t token, int64_t head) const { return (token * heads + head) * samples(); }
  // where the numbers of a head begin in a tensor shaped as value
  int64_t first_cell(int64_t batch, int64_t head) const { return batch * cells * row() + head * dim; }
};

constexpr int64_t kChannels = 32;  // summed in registers at a time

// Channels `first` to `first + width` of one head of the output. A width that is a constant makes fast code.
template <class T>
PCT_INLINE void attend(const Deformable<T>& p, int64_t token, int64_t head, int64_t first, int64_t width, T* out) {
  T sum[kChannels] = {};
  const T* cells = p.value + p.first_cell(token / p.queries, head) + first;
  int64_t sample = p.first_sample(token, head);
  for (int64_t l = 0; l < p.levels.count; ++l)
    for (int64_t point = 0; point < p.points; ++point, ++sample) {
      const T x = p.locations[2 * sample], y = p.locations[2 * sample + 1], weight = p.weights[sample];
      Corners<T> at;
      if (!find_corners(p.levels.level[l], x, y, at)) {
        for (int64_t c = 0; c < width; ++c) sum[c] += weight * value_outside(x, y);
        continue;
      }
      const T *v0 = cells + at.row[0] * p.row(), *v1 = cells + at.row[1] * p.row();
      const T *v2 = cells + at.row[2] * p.row(), *v3 = cells + at.row[3] * p.row();
      const T w0 = weight * at.share[0], w1 = weight * at.share[1], w2 = weight * at.share[2], w3 = weight * at.share[3];
      for (int64_t c = 0; c < width; ++c) sum[c] += (w0 * v0[c] + w1 * v1[c]) + (w2 * v2[c] + w3 * v3[c]);
    }
  for (int64_t c = 0; c < width; ++c) out[c] = sum[c];
}

template <class T>
PCT_CLONES void attend_tokens(const Deformable<T>& p, T* out, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token)
    for (int64_t head = 0; head < p.heads; ++head)
      for (int64_t first = 0; first < p.dim; first += kChannels) {
        T* target = out + (token * p.heads + head) * p.dim + first;
        const int64_t width = p.dim - first;
        if (width >= kChannels)
          attend(p, token, head, first, kChannels, target);
        else if (width == 16)
          attend(p, token, head, first, 16, target);
        else
          attend(p, token, head, first, width, target);
      }
}

Tensor deformable_attention_cpu(const Tensor& value, const std::vector<int64_t>& level_shapes, const Tensor& locations,
                                const Tensor& weights) {
  const Levels levels = check_deformable_attention(value, level_shapes, locations, weights);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Deformable<T> p(value, levels, locations, weights);
    Tensor output = empty({p.batches, p.queries, p.row()}, value.dtype(), value);
    T* out = output.mutable_data<T>();
    const int64_t grain = 1 + (1 << 14) / (1 + p.row() * p.samples());
    parallel_for(0, p.batches * p.queries, grain, [&](int64_t from, int64_t to) { attend_tokens(p, out, from, to); });
    return output;
  };
  return value.dtype() == float32() ? run(float()) : run(double());
}

// In 16 lanes and then by halves, so that every processor adds in the same order.
template <class T>
PCT_INLINE T dot(const T* a, const T* b, int64_t n) {
  constexpr int kLanes = 16;
  T sum[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += a[i + lane] * b[i + lane];
  for (int lane = 0; i + lane < n; ++lane) sum[lane] += a[i + lane] * b[i + lane];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
  return sum[0];
}

template <class T>
struct Gradients {
  const T* output;
  T *value, *locations, *weights;
};

// All gradients of one head of one batch element: no other call adds to the same cells.
template <class T>
PCT_INLINE void backward_of(const Deformable<T>& p, const Gradients<T>& grad, int64_t batch, int64_t head, int64_t dim) {
  const T* cells = p.value + p.first_cell(batch, head);
  T* grad_cells = grad.value + p.first_cell(batch, head);
  for (int64_t token = batch * p.queries; token < (batch + 1) * p.queries; ++token) {
    const T* grad_output = grad.output + (token * p.heads + head) * dim;
    int64_t sample = p.first_sample(token, head);
    for (int64_t l = 0; l < p.levels.count; ++l)
      for (int64_t point = 0; point < p.points; ++point, ++sample) {
        const Level& level = p.levels.level[l];
        const T x = p.locations[2 * sample], y = p.locations[2 * sample + 1], weight = p.weights[sample];
        Corners<T> at;
        if (!find_corners(level, x, y, at)) {
          grad.locations[2 * sample] = grad.locations[2 * sample + 1] = grad.weights[sample] = value_outside(x, y);
          continue;
        }
        T dots[4];
        for (int k = 0; k < 4; ++k) dots[k] = at.valid[k] ? dot(grad_output, cells + at.row[k] * p.row(), dim) : T(0);
        grad.weights[sample] = (at.share[0] * dots[0] + at.share[1] * dots[1]) +
                               (at.share[2] * dots[2] + at.share[3] * dots[3]);
        const Slope<T> slope = find_slope(level, at, dots);
        grad.locations[2 * sample] = weight * slope.x;
        grad.locations[2 * sample + 1] = weight * slope.y;
        for (int k = 0; k < 4; ++k) {
          if (!at.valid[k]) continue;
          const T share = weight * at.share[k];
          T* target = grad_cells + at.row[k] * p.row();
          for (int64_t c = 0; c < dim; ++c) target[c] += share * grad_output[c];
        }
      }
  }
}

template <class T>
PCT_CLONES void backward_of_heads(const Deformable<T>& p, const Gradients<T>& grad, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (p.dim == 32)
      backward_of(p, grad, i / p.heads, i % p.heads, 32);
    else if (p.dim == 16)
      backward_of(p, grad, i / p.heads, i % p.heads, 16);
    else
      backward_of(p, grad, i / p.heads, i % p.heads, p.dim);
  }
}

std::tuple<Tensor, Tensor, Tensor> deformable_attention_backward_cpu(
    const Tensor& grad_output, const Tensor& value, const std::vector<int64_t>& level_shapes, const Tensor& locations,
    const Tensor& weights) {
  const Levels levels = check_deformable_attention_backward(grad_output, value, level_shapes, locations, weights);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Deformable<T> p(value, levels, locations, weights);
    const int32_t dtype = value.dtype();
    Tensor grad_value = zeros({p.batches, p.cells, p.heads, p.dim}, dtype, value);
    Tensor grad_locations = empty({p.batches, p.queries, p.heads, p.levels.count, p.points, 2}, dtype, value);
    Tensor grad_weights = empty({p.batches, p.queries, p.heads, p.levels.count, p.points}, dtype, value);
    const Gradients<T> grad{grad_output.data<T>(), grad_value.mutable_data<T>(), grad_locations.mutable_data<T>(),
                            grad_weights.mutable_data<T>()};
    // A head of a batch element is a task: its cells are added to in the order of the queries, on any number of threads.
    parallel_for(0, p.batches * p.heads, 1, [&](int64_t from, int64_t to) { backward_of_heads(p, grad, from, to); });
    return std::make_tuple(std::move(grad_value), std::move(grad_locations), std::move(grad_weights));
  };
  return value.dtype() == float32() ? run(float()) : run(double());
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&deformable_attention_cpu>("deformable_attention");
  library.implement<&deformable_attention_backward_cpu>("deformable_attention_backward");
});

}  // namespace
}  // namespace pct
