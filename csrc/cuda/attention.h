// What both passes of attention on CUDA are made of: where a block finds its rows, and products of tiles in shared memory.
//
// A block owns a tile of rows of one sequence and one head, queries or keys, and streams the tiles of the other side through
// shared memory. Which tile that is, it finds by itself from the offsets: the host never learns a length. Eight neighbouring
// threads share a row, so that sums over a row stay in a warp.
#pragma once
#include <type_traits>

#include "checks.h"
#include "common/attention.h"
#include "cuda/launch.h"

namespace pct {

constexpr int kRowThreads = 8;  // that share a row

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }  // no index depends on it
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// Tiles of kOwn rows against kOther rows by 8 kGroups threads. Head dimensions are filled up with zeros to kDim.
template <int kOwnRows, int kOtherRows, int kRowGroups, int kDim>
struct Tiles {
  static constexpr int kOwn = kOwnRows, kOther = kOtherRows, kGroups = kRowGroups, kThreads = kRowThreads * kGroups;
  static constexpr int kRows = kOwn / kGroups;           // rows of a thread: group, group + kGroups, ...
  static constexpr int kColumns = kOther / kRowThreads;  // columns of a thread: lane, lane + 8, ...
  static constexpr int kStride = kDim + 4;               // of a row in shared memory: no two of eight rows in one bank
  static constexpr int kWeightStride = kOther + 4;
  static constexpr int kPack = kDim / kRowThreads < 4 ? kDim / kRowThreads : 4;  // neighbouring dimensions of a thread
  static constexpr int kPacks = kDim / kRowThreads / kPack;
};

template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Pack {
  T values[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T, kCount>*>(address);
}

// Queries, or keys: features (rows, H, ...) with their offsets and coordinates.
struct Side {
  const int64_t* offsets;
  const int32_t* coordinates;
  int64_t rows;
};

template <class T>
struct Problem {
  const T *query, *key, *value, *table;
  Side queries, keys;
  int64_t sequences;
  int heads, dim, value_dim;
  BiasWindow window;
  T scale;
  bool causal;

  __device__ const T* biases(int head) const { return table + head * window.size() + window.centre(); }
};

// The rows of a block: `first` up to own_rows of a sequence that begins at row own_begin; and the whole other side.
struct Place {
  int head;
  int64_t first, own_begin, own_rows, other_begin, other_rows;
};

__device__ __forceinline__ int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x < high ? x : high; }

// Sequence b has the tiles offsets[b] / size + b up to offsets[b + 1] / size + b + 1: enough for its rows, and at most one more
// than it needs, which is known without a sum over all sequences before it.
inline int64_t number_of_tiles(int64_t rows, int64_t sequences, int64_t size) { return rows / size + sequences; }

__device__ inline Place find_place(const Side& own, const Side& other, int64_t sequences, int heads, int size) {
  const int64_t tile = blockIdx.x / heads;
  int64_t b = 0, end = sequences;
  while (end - b > 1) {
    const int64_t middle = (b + end) / 2;
    if (own.offsets[middle] / size + middle <= tile) b = middle;
    else end = middle;
  }
  Place place;
  place.head = static_cast<int>(blockIdx.x % heads);
  place.first = clamped((tile - own.offsets[b] / size - b) * size, 0, own.rows);  // negative only after a first offset > 0
  place.own_begin = clamped(own.offsets[b], 0, own.rows);
  place.own_rows = clamped(own.offsets[b + 1], place.own_begin, own.rows) - place.own_begin;
  place.other_begin = clamped(other.offsets[b], 0, other.rows);
  place.other_rows = clamped(other.offsets[b + 1], place.other_begin, other.rows) - place.other_begin;
  return place;
}

// kCount rows of one head to shared memory; what lies past `rows` and past `dim` becomes zero.
template <class Tiles, int kCount, class T>
__device__ __forceinline__ void load_rows(T* shared, const T* features, int64_t row, int64_t rows, int head, int heads,
                                          int dim) {
  constexpr int kDim = Tiles::kStride - 4;
  const T* source = features + (row * heads + head) * dim;
  const int64_t step = int64_t(heads) * dim;
  for (int i = threadIdx.x; i < kCount * kDim; i += Tiles::kThreads) {
    const int r = i / kDim, d = i % kDim;
    shared[r * Tiles::kStride + d] = r < rows && d < dim ? source[r * step + d] : T(0);
  }
}

template <class Tiles, int kCount>
__device__ __forceinline__ void load_positions(int32_t* shared, const Side& side, const BiasWindow& window, int64_t row,
                                               int64_t rows) {
  for (int i = threadIdx.x; i < kCount; i += Tiles::kThreads)
    shared[i] = i < rows ? window.position(side.coordinates + 3 * (row + i)) : 0;
}

// Inner products of this thread's rows and columns.
template <class Tiles, class T>
__device__ __forceinline__ void multiply(const T* own, const T* other, T (&products)[Tiles::kRows][Tiles::kColumns]) {
  const int group = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
#pragma unroll
  for (int r = 0; r < Tiles::kRows; ++r)
#pragma unroll
    for (int c = 0; c < Tiles::kColumns; ++c) products[r][c] = 0;
#pragma unroll 4
  for (int d = 0; d < Tiles::kStride - 4; d += 4) {
    Pack<T, 4> a[Tiles::kRows];
#pragma unroll
    for (int r = 0; r < Tiles::kRows; ++r) a[r] = load_pack<4>(own + (group + r * Tiles::kGroups) * Tiles::kStride + d);
#pragma unroll
    for (int c = 0; c < Tiles::kColumns; ++c) {
      const Pack<T, 4> b = load_pack<4>(other + (lane + c * kRowThreads) * Tiles::kStride + d);
#pragma unroll
      for (int r = 0; r < Tiles::kRows; ++r)
#pragma unroll
        for (int i = 0; i < 4; ++i) products[r][c] = multiply_add(a[r].values[i], b.values[i], products[r][c]);
    }
  }
}

// sums[row] += weights[row] . other, for this thread's rows and dimensions
template <class Tiles, class T>
__device__ __forceinline__ void accumulate(const T* weights, const T* other,
                                           T (&sums)[Tiles::kRows][Tiles::kPacks * Tiles::kPack]) {
  const int group = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
#pragma unroll 2
  for (int j = 0; j < Tiles::kOther; j += 4) {
    Pack<T, 4> w[Tiles::kRows];
#pragma unroll
    for (int r = 0; r < Tiles::kRows; ++r)
      w[r] = load_pack<4>(weights + (group + r * Tiles::kGroups) * Tiles::kWeightStride + j);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int p = 0; p < Tiles::kPacks; ++p) {
        const auto v = load_pack<Tiles::kPack>(other + (j + i) * Tiles::kStride + (p * kRowThreads + lane) * Tiles::kPack);
#pragma unroll
        for (int r = 0; r < Tiles::kRows; ++r)
#pragma unroll
          for (int d = 0; d < Tiles::kPack; ++d)
            sums[r][p * Tiles::kPack + d] = multiply_add(w[r].values[i], v.values[d], sums[r][p * Tiles::kPack + d]);
      }
  }
}

template <class Tiles, class T>
__device__ __forceinline__ void store_row(T* row, const T (&values)[Tiles::kPacks * Tiles::kPack], T factor, int dim) {
#pragma unroll
  for (int p = 0; p < Tiles::kPacks; ++p)
#pragma unroll
    for (int i = 0; i < Tiles::kPack; ++i) {
      const int d = (p * kRowThreads + static_cast<int>(threadIdx.x) % kRowThreads) * Tiles::kPack + i;
      if (d < dim) row[d] = values[p * Tiles::kPack + i] * factor;
    }
}

template <class T>
Problem<T> problem_of(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_offsets,
                      const Tensor& key_offsets, const std::optional<Tensor>& bias_table,
                      const std::optional<Tensor>& query_coordinates, const std::optional<Tensor>& key_coordinates,
                      double scale, bool causal) {
  const auto places = [&](int64_t axis) { return bias_table ? static_cast<int32_t>(bias_table->size(axis) / 2 + 1) : 1; };
  const auto side = [](const Tensor& features, const Tensor& offsets, const std::optional<Tensor>& coordinates) {
    return Side{offsets.data<int64_t>(), coordinates ? coordinates->data<int32_t>() : nullptr, features.size(0)};
  };
  return {query.data<T>(), key.data<T>(), value.data<T>(), bias_table ? bias_table->data<T>() : nullptr,
          side(query, query_offsets, query_coordinates), side(key, key_offsets, key_coordinates),
          query_offsets.size(0) - 1, static_cast<int>(query.size(1)), static_cast<int>(query.size(2)),
          static_cast<int>(value.size(2)), BiasWindow{places(1), places(2), places(3)}, static_cast<T>(scale), causal};
}

// body(std::integral_constant<int, kDim>) with the least kDim that holds both head dimensions
template <class Body>
void with_dim(int64_t dim, const Body& body) {
  if (dim <= 16) body(std::integral_constant<int, 16>());
  else if (dim <= 32) body(std::integral_constant<int, 32>());
  else if (dim <= 64) body(std::integral_constant<int, 64>());
  else if (dim <= 128) body(std::integral_constant<int, 128>());
  else body(std::integral_constant<int, kMaxHeadDim>());
}

}  // namespace pct
