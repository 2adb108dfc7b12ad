// Rows of features by index, with or without relative coordinates or weights, and the gradients of that.
#include <memory>
#include <optional>

#include "checks.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/stream.h"
#include "cpu/values.h"

namespace pct {
namespace {

// Rows per task of parallel_for, such that a task moves some 128 KB.
int64_t rows_per_task(int64_t row_bytes) { return 1 + (1 << 17) / (row_bytes + 1); }

// Rows of `bytes` each; `bytes` that are a constant make fast code.
PCT_INLINE void copy_rows(const char* features, const int64_t* index, int64_t bytes, char* out, int64_t begin,
                          int64_t end) {
  for (int64_t i = begin; i < end; ++i, out += bytes) {
    if (index[i] >= 0)
      std::memcpy(out, features + index[i] * bytes, bytes);
    else
      std::memset(out, 0, bytes);
  }
}

PCT_CLONES void copy_rows_of(const char* features, const int64_t* index, int64_t bytes, char* out, int64_t begin,
                             int64_t end) {
  switch (bytes) {
    case 0: return;  // no columns: there may be no memory to copy from or to
    case 64: return copy_rows(features, index, 64, out, begin, end);
    case 128: return copy_rows(features, index, 128, out, begin, end);
    case 256: return copy_rows(features, index, 256, out, begin, end);
    default: return copy_rows(features, index, bytes, out, begin, end);
  }
}

// The same for rows of whole cache lines, straight past the cache.
void stream_rows(const char* features, const int64_t* index, int64_t bytes, char* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (index[i] >= 0)
      copy_past_cache(out + i * bytes, features + index[i] * bytes, bytes);
    else
      std::memset(out + i * bytes, 0, bytes);
  }
  end_of_stream();
}

Tensor gather_cpu(const Tensor& features, const Tensor& index) {
  check_gather(features, index);
  const int64_t rows = index.size(0), columns = features.size(1), bytes = columns * features.element_size();
  const int64_t* from_row = index.data<int64_t>();
  check_index_values(from_row, rows, -1, features.size(0), "gather", "index");
  Tensor out = empty({rows, columns}, features.dtype(), features);
  const char* in = features.data<char>();
  char* target = out.mutable_data<char>();
  const bool stream = rows * bytes >= kStreamBytes;
  parallel_for(0, rows, rows_per_task(bytes), [&](int64_t from, int64_t to) {
    if (stream && bytes % 64 == 0) return stream_rows(in, from_row, bytes, target, from, to);
    write_rows(target, from, to, bytes, stream, [&](char* at, int64_t begin, int64_t end) {
      copy_rows_of(in, from_row, bytes, at, begin, end);
    });
  });
  return out;
}

template <class T>
struct Group {
  const float *xyz, *query_xyz;
  const int64_t* index;
  int64_t neighbors, columns;
  const T* features;
  float radius;

  PCT_INLINE void rows(T* out, int64_t begin, int64_t end, int64_t width) const {
    int64_t query = begin / neighbors, neighbor = begin % neighbors;
    for (int64_t i = begin; i < end; ++i, out += 3 + width) {
      const int64_t row = index[i];
      if (row >= 0) {
        for (int axis = 0; axis < 3; ++axis)
          out[axis] = T((xyz[3 * row + axis] - query_xyz[3 * query + axis]) / radius);
        const T* in = features + row * width;
        for (int64_t c = 0; c < width; ++c) out[3 + c] = in[c];
      } else {
        for (int64_t c = 0; c < 3 + width; ++c) out[c] = T(0.0f);
      }
      if (++neighbor == neighbors) ++query, neighbor = 0;
    }
  }
};

template <class T>
PCT_CLONES void group_rows(const Group<T>& group, T* out, int64_t begin, int64_t end) {
  if (group.columns == 64)
    group.rows(out, begin, end, 64);
  else
    group.rows(out, begin, end, group.columns);
}

Tensor group_cpu(const Tensor& xyz, const Tensor& query_xyz, const Tensor& index, const std::optional<Tensor>& features,
                 double radius) {
  check_group(xyz, query_xyz, index, features, radius);
  const int64_t queries = index.size(0), neighbors = index.size(1), columns = features ? features->size(1) : 0;
  check_index_values(index.data<int64_t>(), index.numel(), -1, xyz.size(0), "group", "index");
  Tensor out = empty({queries, neighbors, 3 + columns}, features ? features->dtype() : float32(), xyz);
  with_floating(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Group<T> group{xyz.data<float>(), query_xyz.data<float>(), index.data<int64_t>(), neighbors, columns,
                         features ? features->data<T>() : nullptr, static_cast<float>(radius)};
    const int64_t rows = queries * neighbors, bytes = (3 + columns) * sizeof(T);
    char* target = out.mutable_data<char>();
    parallel_for(0, rows, rows_per_task(bytes), [&](int64_t from, int64_t to) {
      write_rows(target, from, to, bytes, rows * bytes >= kStreamBytes, [&](char* at, int64_t begin, int64_t end) {
        group_rows(group, reinterpret_cast<T*>(at), begin, end);
      });
    });
  });
  return out;
}

// weight[0] * rows[0] + weight[1] * rows[1] + ...
template <int kTerms, class T>
PCT_INLINE void weighted_sum(const T* const* rows, const accumulator<T>* weight, T* __restrict out, int64_t columns) {
  using A = accumulator<T>;
  const T* row[kTerms];
  A factor[kTerms];
  for (int t = 0; t < kTerms; ++t) row[t] = rows[t], factor[t] = weight[t];
  for (int64_t c = 0; c < columns; ++c) {
    A sum = factor[0] * A(row[0][c]);
    for (int t = 1; t < kTerms; ++t) sum += factor[t] * A(row[t][c]);
    out[c] = T(sum);
  }
}

// The same for any number of rows, by blocks of columns so narrow that their sums stay in a register.
template <class T>
PCT_INLINE void weighted_sum(const T* features, int64_t columns, const int64_t* index, const accumulator<T>* weight,
                             int64_t neighbors, T* out) {
  using A = accumulator<T>;
  constexpr int64_t kLanes = 16;
  for (int64_t column = 0; column < columns; column += kLanes) {
    const int64_t width = std::min(kLanes, columns - column);
    A sum[kLanes] = {};
    for (int64_t j = 0; j < neighbors; ++j) {
      if (index[j] < 0) continue;
      const T* row = features + index[j] * columns + column;
      for (int64_t c = 0; c < width; ++c) sum[c] += weight[j] * A(row[c]);
    }
    for (int64_t c = 0; c < width; ++c) out[column + c] = T(sum[c]);
  }
}

// out[m] = sum_j weight[m, j] * features[index[m, j]]
template <class T>
PCT_CLONES void weighted_rows(const T* features, int64_t columns, const int64_t* index, const accumulator<T>* weight,
                              int64_t neighbors, T* out, int64_t begin, int64_t end) {
  constexpr int64_t kFew = 4;
  index += begin * neighbors;
  weight += begin * neighbors;
  for (int64_t m = begin; m < end; ++m, index += neighbors, weight += neighbors, out += columns) {
    if (neighbors > kFew) {
      weighted_sum(features, columns, index, weight, neighbors, out);
      continue;
    }
    const T* rows[kFew];
    accumulator<T> factors[kFew];
    int terms = 0;
    for (int64_t j = 0; j < neighbors; ++j)
      if (index[j] >= 0) rows[terms] = features + index[j] * columns, factors[terms++] = weight[j];
    switch (terms) {
      case 1: weighted_sum<1>(rows, factors, out, columns); break;
      case 2: weighted_sum<2>(rows, factors, out, columns); break;
      case 3: weighted_sum<3>(rows, factors, out, columns); break;
      case 4: weighted_sum<4>(rows, factors, out, columns); break;
      default: std::fill_n(out, columns, T(0.0f));
    }
  }
}

Tensor weighted_gather_cpu(const Tensor& features, const Tensor& index, const Tensor& weight) {
  check_weighted_gather(features, index, weight);
  const int64_t queries = index.size(0), neighbors = index.size(1), columns = features.size(1);
  check_index_values(index.data<int64_t>(), index.numel(), -1, features.size(0), "weighted_gather", "index");
  Tensor out = empty({queries, columns}, features.dtype(), features);
  with_floating(features.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t bytes = columns * sizeof(T);
    char* target = out.mutable_data<char>();
    parallel_for(0, queries, rows_per_task(bytes * (1 + neighbors)), [&](int64_t from, int64_t to) {
      write_rows(target, from, to, bytes, queries * bytes >= kStreamBytes, [&](char* at, int64_t begin, int64_t end) {
        weighted_rows(features.data<T>(), columns, index.data<int64_t>(), weight.data<accumulator<T>>(), neighbors,
                      reinterpret_cast<T*>(at), begin, end);
      });
    });
  });
  return out;
}

Tensor gather_backward_cpu(const Tensor& grad, const Tensor& index, const std::optional<Tensor>& weight, int64_t rows) {
  check_gather_backward(grad, index, weight, rows);
  check_index_values(index.data<int64_t>(), index.numel(), -1, rows, "gather_backward", "index");
  Tensor out = empty({rows, grad.size(1)}, grad.dtype(), grad);
  const std::unique_ptr<int64_t[]> order(new int64_t[index.numel()]), offsets(new int64_t[rows + 1]);
  sort_index(index.data<int64_t>(), index.numel(), rows, order.get(), offsets.get());
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    SegmentSum<T>{grad.data<T>(), grad.size(1), order.get(), weight ? weight->data<accumulator<T>>() : nullptr,
                  index.size(1), offsets.get(), rows, false, out.mutable_data<T>()}
        .run();
  });
  return out;
}

// In 16 lanes and then by halves, so that every processor adds in the same order.
template <class T>
PCT_INLINE accumulator<T> dot(const T* a, const T* b, int64_t n) {
  using A = accumulator<T>;
  constexpr int kLanes = 16;
  A sum[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += A(a[c + lane]) * A(b[c + lane]);
  for (int lane = 0; c + lane < n; ++lane) sum[lane] += A(a[c + lane]) * A(b[c + lane]);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
  return sum[0];
}

template <class T>
PCT_CLONES void dot_rows(const T* grad, const T* features, const int64_t* index, int64_t columns, int64_t neighbors,
                         accumulator<T>* out, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; ++m)
    for (int64_t j = m * neighbors; j < (m + 1) * neighbors; ++j)
      out[j] = index[j] < 0 ? 0 : dot(grad + m * columns, features + index[j] * columns, columns);
}

Tensor gather_dot_cpu(const Tensor& grad, const Tensor& features, const Tensor& index) {
  check_gather_dot(grad, features, index);
  const int64_t queries = index.size(0), neighbors = index.size(1), columns = grad.size(1);
  check_index_values(index.data<int64_t>(), index.numel(), -1, features.size(0), "gather_dot", "index");
  Tensor out = empty({queries, neighbors}, grad.dtype() == float64() ? float64() : float32(), grad);
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    accumulator<T>* target = out.mutable_data<accumulator<T>>();
    parallel_for(0, queries, rows_per_task(columns * neighbors * sizeof(T)), [&](int64_t from, int64_t to) {
      dot_rows(grad.data<T>(), features.data<T>(), index.data<int64_t>(), columns, neighbors, target, from, to);
    });
  });
  return out;
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&gather_cpu>("gather")
      .implement<&gather_backward_cpu>("gather_backward")
      .implement<&gather_dot_cpu>("gather_dot")
      .implement<&group_cpu>("group")
      .implement<&weighted_gather_cpu>("weighted_gather");
});

}  // namespace
}  // namespace pct
