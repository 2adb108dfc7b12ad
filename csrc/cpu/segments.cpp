// Sums, maxima and softmax over groups of rows. A group is a run of rows, or of an order of rows. Work is divided into
// (segment, block of columns) pairs that no two threads share, and within a pair terms meet in the order of positions: the
// results do not depend on the number of threads.
#include "cpu/segments.h"

#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "checks.h"
#include "cpu/values.h"

namespace pct {

void sort_index(const int64_t* index, int64_t rows, int64_t size, int64_t* order, int64_t* offsets) {
  // A counting sort in place: entry g + 1 counts group g, then is where its next row goes, and so ends as its end. Entry 0
  // serves the rows left out.
  std::fill(offsets, offsets + size + 1, 0);
  for (int64_t i = 0; i < rows; ++i) ++offsets[index[i] + 1];
  int64_t next = 0;
  for (int64_t g = 1; g <= size; ++g) next += std::exchange(offsets[g], next);
  offsets[0] = next;
  for (int64_t i = 0; i < rows; ++i) order[offsets[index[i] + 1]++] = i;
  offsets[0] = 0;
}

namespace {

// The rows of all segments. A position is a place in the order of rows.
struct Segments {
  const int64_t* offsets;
  const int64_t* order;  // may be null: position i is row i
  int64_t count, columns, positions;

  int64_t row(int64_t i) const { return order ? order[i] : i; }

  template <class T>
  PCT_INLINE void fetch_ahead(const T* values, int64_t i, int64_t column, int64_t width) const {
    if (!order || i + kFetchAhead >= positions) return;
    const T* next = values + order[i + kFetchAhead] * columns + column;
    for (int64_t c = 0; c < width; c += 64 / sizeof(T)) __builtin_prefetch(next + c);
  }
};

// Calls block(segment, column, width) for pairs [from, to); widths that are constants make fast code.
template <class Block>
PCT_INLINE void each_block(const Segments& at, int64_t from, int64_t to, const Block& block) {
  const int64_t blocks = (at.columns + kColumnBlock - 1) / kColumnBlock;
  for (int64_t item = from; item < to; ++item) {
    const int64_t segment = item / blocks, column = item % blocks * kColumnBlock;
    const int64_t width = std::min(kColumnBlock, at.columns - column);
    if (width == kColumnBlock)
      block(segment, column, kColumnBlock);
    else if (width == 16)
      block(segment, column, 16);
    else
      block(segment, column, width);
  }
}

template <class T>
PCT_INLINE void sum_block(const SegmentSum<T>& s, const Segments& at, int64_t segment, int64_t column, int64_t width) {
  using A = accumulator<T>;
  A sum[kColumnBlock] = {};
  const int64_t begin = s.offsets[segment], end = s.offsets[segment + 1];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t p = at.row(i);
    const T* row = s.values + (s.per_row == 1 ? p : p / s.per_row) * s.columns + column;
    const A weight = s.weight ? s.weight[p] : A(1);
    if (s.per_row == 1) at.fetch_ahead(s.values, i, column, width);
    for (int64_t c = 0; c < width; ++c) sum[c] += weight * A(row[c]);
  }
  const A terms = s.mean ? A(std::max<int64_t>(1, end - begin)) : A(1);
  T* out = s.out + segment * s.columns + column;
  for (int64_t c = 0; c < width; ++c) out[c] = T(sum[c] / terms);
}

template <class T>
PCT_CLONES void sum_pairs(const SegmentSum<T>& s, const Segments& at, int64_t from, int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) __attribute__((always_inline)) {
    sum_block(s, at, segment, column, width);
  });
}

// The largest value of each column and the first row that holds it. NaN counts as larger than everything.
template <class T>
PCT_INLINE void max_block(const Segments& at, const T* values, T* out, int64_t* argrow, int64_t segment, int64_t column,
                          int64_t width) {
  using A = accumulator<T>;
  using Step = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;  // as wide as a value: one vector register each
  constexpr int64_t kSlab = 1 << 20;                                  // rows between which a Step counts
  const int64_t begin = at.offsets[segment], end = at.offsets[segment + 1];
  out += segment * at.columns + column;
  argrow += segment * at.columns + column;
  A best[kColumnBlock];
  Step where[kColumnBlock];
  for (int64_t c = 0; c < width; ++c) {
    argrow[c] = begin < end ? at.row(begin) : -1;
    best[c] = begin < end ? A(values[argrow[c] * at.columns + column + c]) : A(0);
  }
  for (int64_t slab = begin; slab < end; slab += kSlab) {
    const Step steps = static_cast<Step>(std::min(kSlab, end - slab));
    for (int64_t c = 0; c < width; ++c) where[c] = -1;
    for (Step step = 0; step < steps; ++step) {
      const T* row = values + at.row(slab + step) * at.columns + column;
      at.fetch_ahead(values, slab + step, column, width);
      for (int64_t c = 0; c < width; ++c) {
        const A value = A(row[c]);
        const bool larger = !(value <= best[c]) & (best[c] == best[c]);
        best[c] = larger ? value : best[c];
        where[c] = larger ? step : where[c];
      }
    }
    for (int64_t c = 0; c < width; ++c)
      if (where[c] >= 0) argrow[c] = at.row(slab + where[c]);
  }
  for (int64_t c = 0; c < width; ++c) out[c] = T(best[c]);
}

template <class T>
PCT_CLONES void max_pairs(const Segments& at, const T* values, T* out, int64_t* argrow, int64_t from, int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) __attribute__((always_inline)) {
    max_block(at, values, out, argrow, segment, column, width);
  });
}

// The exponential of anything less is 0.
template <class A>
constexpr A kLowestExponent = sizeof(A) == 4 ? A(-104) : A(-746);

PCT_INLINE double exponential(double x) { return std::exp(x); }

// exp(x) for x in [kLowestExponent, 0] within 2 units in the last place; NaN stays NaN. Written out, without branches, so
// that loops around it vectorise. x = n ln 2 + r; polynomial of r after Cephes (Moshier 1989).
PCT_INLINE float exponential(float x) {
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to a whole number
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  // 2^n in two factors, for results below the smallest normal number
  const int32_t power = static_cast<int32_t>(float_to_bits(shifted) - float_to_bits(12582912.0f)), half = power >> 1;
  const float factor = bits_to_float(static_cast<uint32_t>(half + 127) << 23);
  const float rest = bits_to_float(static_cast<uint32_t>(power - half + 127) << 23);
  return ((p * r) * r + r + 1.0f) * factor * rest;
}

template <class T>
PCT_INLINE void softmax_block(const Segments& at, const T* values, T* out, int64_t segment, int64_t column,
                              int64_t width) {
  using A = accumulator<T>;
  constexpr int64_t kKeptRows = 128;  // exponentials of so many rows are kept, those of further rows taken twice
  A kept[(kKeptRows + 1) * kColumnBlock];
  A largest[kColumnBlock], sum[kColumnBlock] = {};
  const int64_t begin = at.offsets[segment], end = at.offsets[segment + 1];
  for (int64_t c = 0; c < width; ++c) largest[c] = -std::numeric_limits<A>::infinity();
  for (int64_t i = begin; i < end; ++i) {
    const T* row = values + at.row(i) * at.columns + column;
    at.fetch_ahead(values, i, column, width);
    for (int64_t c = 0; c < width; ++c) largest[c] = A(row[c]) > largest[c] ? A(row[c]) : largest[c];
  }
  // Two loops: bounded in the same loop, exponential() would be compiled with a branch for the bound.
  const auto powers = [&](int64_t i) __attribute__((always_inline)) {
    const T* row = values + at.row(i) * at.columns + column;
    A* power = kept + std::min(i - begin, kKeptRows) * width;
    for (int64_t c = 0; c < width; ++c) {
      const A below = A(row[c]) - largest[c];
      power[c] = below < kLowestExponent<A> ? kLowestExponent<A> : below;
    }
    for (int64_t c = 0; c < width; ++c) power[c] = exponential(power[c]);
    return power;
  };
  for (int64_t i = begin; i < end; ++i) {
    const A* power = powers(i);
    for (int64_t c = 0; c < width; ++c) sum[c] += power[c];
  }
  for (int64_t c = 0; c < width; ++c) sum[c] = 1 / sum[c];
  for (int64_t i = begin; i < end; ++i) {
    T* target = out + at.row(i) * at.columns + column;
    const A* power = i - begin < kKeptRows ? kept + (i - begin) * width : powers(i);
    for (int64_t c = 0; c < width; ++c) target[c] = T(power[c] * sum[c]);
  }
}

template <class T>
PCT_CLONES void softmax_pairs(const Segments& at, const T* values, T* out, int64_t from, int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) __attribute__((always_inline)) {
    softmax_block(at, values, out, segment, column, width);
  });
}

// y (g - sum of y g over the segment)
template <class T>
PCT_INLINE void softmax_backward_block(const Segments& at, const T* grad, const T* softmax, T* out, int64_t segment,
                                       int64_t column, int64_t width) {
  using A = accumulator<T>;
  A sum[kColumnBlock] = {};
  for (int64_t i = at.offsets[segment]; i < at.offsets[segment + 1]; ++i) {
    const int64_t place = at.row(i) * at.columns + column;
    at.fetch_ahead(grad, i, column, width);
    at.fetch_ahead(softmax, i, column, width);
    for (int64_t c = 0; c < width; ++c) sum[c] += A(softmax[place + c]) * A(grad[place + c]);
  }
  for (int64_t i = at.offsets[segment]; i < at.offsets[segment + 1]; ++i) {
    const int64_t place = at.row(i) * at.columns + column;
    for (int64_t c = 0; c < width; ++c)
      out[place + c] = T(A(softmax[place + c]) * (A(grad[place + c]) - sum[c]));
  }
}

template <class T>
PCT_CLONES void softmax_backward_pairs(const Segments& at, const T* grad, const T* softmax, T* out, int64_t from,
                                       int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) __attribute__((always_inline)) {
    softmax_backward_block(at, grad, softmax, out, segment, column, width);
  });
}

template <class T>
PCT_INLINE void spread_block(const Segments& at, const T* values, bool mean, T* out, int64_t segment, int64_t column,
                             int64_t width) {
  using A = accumulator<T>;
  const int64_t begin = at.offsets[segment], end = at.offsets[segment + 1];
  const A terms = mean ? A(std::max<int64_t>(1, end - begin)) : A(1);
  T share[kColumnBlock];
  for (int64_t c = 0; c < width; ++c) share[c] = T(A(values[segment * at.columns + column + c]) / terms);
  for (int64_t i = begin; i < end; ++i) {
    T* row = out + at.row(i) * at.columns + column;
    for (int64_t c = 0; c < width; ++c) row[c] = share[c];
  }
}

template <class T>
PCT_CLONES void spread_pairs(const Segments& at, const T* values, bool mean, T* out, int64_t from, int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) __attribute__((always_inline)) {
    spread_block(at, values, mean, out, segment, column, width);
  });
}

template <class T>
void max_backward_pairs(const Segments& at, const T* grad, const int64_t* argrow, T* out, int64_t from, int64_t to) {
  each_block(at, from, to, [&](int64_t segment, int64_t column, int64_t width) {
    for (int64_t i = at.offsets[segment]; i < at.offsets[segment + 1]; ++i)
      std::fill_n(out + at.row(i) * at.columns + column, width, T(0.0f));
    const int64_t first = segment * at.columns + column;
    for (int64_t c = 0; c < width; ++c)
      if (argrow[first + c] >= 0) out[argrow[first + c] * at.columns + column + c] = grad[first + c];
  });
}

// Checks what offsets and order hold, and names them. Without an order the segments cover all rows.
Segments segments_of(const Tensor& offsets, const std::optional<Tensor>& order, int64_t rows, int64_t columns,
                     const char* op) {
  const int64_t count = offsets.size(0) - 1;
  const int64_t* ends = offsets.data<int64_t>();
  const int64_t* rows_in_order = order ? order->data<int64_t>() : nullptr;
  const int64_t covered = order ? std::min(rows, ends[count]) : rows;
  check_offset_values(ends, count, covered, op, "offsets");
  if (order) check_index_values(rows_in_order, rows, 0, rows, op, "order");
  return {ends, rows_in_order, count, columns, covered};
}

// Rows that are in no segment get zeros.
template <class T>
void clear_rest(const Segments& at, T* out, int64_t rows) {
  for (int64_t i = at.positions; i < rows; ++i) std::fill_n(out + at.row(i) * at.columns, at.columns, T(0.0f));
}

std::tuple<Tensor, Tensor> sort_index_cpu(const Tensor& index, int64_t size) {
  check_sort_index(index, size);
  const int64_t rows = index.size(0);
  check_index_values(index.data<int64_t>(), rows, -1, size, "sort_index", "index");
  Tensor order = empty({rows}, int64(), index), offsets = empty({size + 1}, int64(), index);
  sort_index(index.data<int64_t>(), rows, size, order.mutable_data<int64_t>(), offsets.mutable_data<int64_t>());
  return {std::move(order), std::move(offsets)};
}

Tensor segment_sum_cpu(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order, bool mean) {
  check_segments("segment_sum", values, offsets, order);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1), "segment_sum");
  Tensor out = empty({at.count, at.columns}, values.dtype(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    SegmentSum<T>{values.data<T>(), at.columns, at.order, nullptr, 1, at.offsets, at.count, mean, out.mutable_data<T>()}
        .run();
  });
  return out;
}

Tensor segment_spread_cpu(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order, int64_t rows,
                          bool mean) {
  check_segment_spread(values, offsets, order, rows);
  const Segments at = segments_of(offsets, order, rows, values.size(1), "segment_spread");
  Tensor out = empty({rows, at.columns}, values.dtype(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = values.data<T>();
    T* to_rows = out.mutable_data<T>();
    clear_rest(at, to_rows, rows);
    for_segments(at.count, at.positions, at.columns,
                 [&](int64_t from, int64_t to) { spread_pairs(at, in, mean, to_rows, from, to); });
  });
  return out;
}

std::tuple<Tensor, Tensor> segment_max_cpu(const Tensor& values, const Tensor& offsets,
                                           const std::optional<Tensor>& order) {
  check_segments("segment_max", values, offsets, order);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1), "segment_max");
  Tensor out = empty({at.count, at.columns}, values.dtype(), values);
  Tensor argrow = empty({at.count, at.columns}, int64(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = values.data<T>();
    T* largest = out.mutable_data<T>();
    int64_t* rows = argrow.mutable_data<int64_t>();
    for_segments(at.count, at.positions, at.columns,
                 [&](int64_t from, int64_t to) { max_pairs(at, in, largest, rows, from, to); });
  });
  return {std::move(out), std::move(argrow)};
}

Tensor segment_max_backward_cpu(const Tensor& grad, const Tensor& argrow, const Tensor& offsets,
                                const std::optional<Tensor>& order, int64_t rows) {
  check_segment_max_backward(grad, argrow, offsets, order, rows);
  const Segments at = segments_of(offsets, order, rows, grad.size(1), "segment_max_backward");
  check_index_values(argrow.data<int64_t>(), argrow.numel(), -1, rows, "segment_max_backward", "argrow");
  Tensor out = empty({rows, at.columns}, grad.dtype(), grad);
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* to_rows = out.mutable_data<T>();
    clear_rest(at, to_rows, rows);
    for_segments(at.count, at.positions, at.columns, [&](int64_t from, int64_t to) {
      max_backward_pairs(at, grad.data<T>(), argrow.data<int64_t>(), to_rows, from, to);
    });
  });
  return out;
}

Tensor segment_softmax_cpu(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order) {
  check_segments("segment_softmax", values, offsets, order);
  const Segments at = segments_of(offsets, order, values.size(0), values.size(1), "segment_softmax");
  Tensor out = empty({values.size(0), at.columns}, values.dtype(), values);
  with_floating(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = values.data<T>();
    T* softmax = out.mutable_data<T>();
    clear_rest(at, softmax, values.size(0));
    for_segments(at.count, at.positions, at.columns,
                 [&](int64_t from, int64_t to) { softmax_pairs(at, in, softmax, from, to); });
  });
  return out;
}

Tensor segment_softmax_backward_cpu(const Tensor& grad, const Tensor& softmax, const Tensor& offsets,
                                    const std::optional<Tensor>& order) {
  check_segment_softmax_backward(grad, softmax, offsets, order);
  const Segments at = segments_of(offsets, order, grad.size(0), grad.size(1), "segment_softmax_backward");
  Tensor out = empty({grad.size(0), at.columns}, grad.dtype(), grad);
  with_floating(grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* in = out.mutable_data<T>();
    clear_rest(at, in, grad.size(0));
    for_segments(at.count, at.positions, at.columns, [&](int64_t from, int64_t to) {
      softmax_backward_pairs(at, grad.data<T>(), softmax.data<T>(), in, from, to);
    });
  });
  return out;
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&sort_index_cpu>("sort_index")
      .implement<&segment_sum_cpu>("segment_sum")
      .implement<&segment_spread_cpu>("segment_spread")
      .implement<&segment_max_cpu>("segment_max")
      .implement<&segment_max_backward_cpu>("segment_max_backward")
      .implement<&segment_softmax_cpu>("segment_softmax")
      .implement<&segment_softmax_backward_cpu>("segment_softmax_backward");
});

}  // namespace

template <class T>
void SegmentSum<T>::run() const {
  const Segments at{offsets, order, segments, columns, offsets[segments]};
  for_segments(segments, offsets[segments], columns, [&](int64_t from, int64_t to) { sum_pairs(*this, at, from, to); });
}

template struct SegmentSum<float>;
template struct SegmentSum<double>;
template struct SegmentSum<BFloat16>;
template struct SegmentSum<Half>;

}  // namespace pct
