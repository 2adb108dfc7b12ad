// The kernels of attention, included once for each instruction set by attention.cpp, which defines PCT_VECTOR_BYTES and
// PCT_ROWS: the width of a vector, and how many rows of a product are summed in registers.
//
// Queries are the lanes of vectors. A tile of scores is kept transposed, (keys, queries), so that the softmax of every
// query runs down a lane without horizontal sums, and one routine, `multiply`, makes all seven products of the forward
// and the backward pass: A is read number by number, B and C vector by vector.

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(PCT_VECTOR_BYTES), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
constexpr int64_t kLanes = PCT_VECTOR_BYTES / sizeof(T);

template <class T>
inline Vector<T>& at(T* p) {
  return *reinterpret_cast<Vector<T>*>(p);
}
template <class T>
inline const Vector<T>& at(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

// 2^x for x <= 127, relative error 2e-7; 0 below 2^-126; NaN stays NaN.
inline Vector<float> exp2_of(Vector<float> x) {
  typedef int32_t Bits __attribute__((vector_size(PCT_VECTOR_BYTES), may_alias));
  const Vector<float> lowest = Vector<float>{} - 127.0f;
  x = x < lowest ? lowest : x;
  const Vector<float> shifted = x + 12583039.0f;  // 1.5 * 2^23 + 127: its last bits are the exponent of 2^round(x)
  const Vector<float> scale = (Vector<float>)((Bits)shifted << 23);
  x -= shifted - 12583039.0f;
  Vector<float> y = x * 1.326473e-3f + 9.671513e-3f;
  y = y * x + 5.5507336e-2f;
  y = y * x + 2.4022242e-1f;
  y = y * x + 6.93147e-1f;
  y = y * x + 1.0f;
  return y * scale;
}
inline Vector<double> exp2_of(Vector<double> x) {
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp2(x[lane]);
  return x;
}

// ---- products -------------------------------------------------------------------------------------------------------
// M rows and N vectors of C: C[m][n] (+)= sum over k of A(m, k) B[k][n], with A(m, k) = a[m * a_row + k * a_step].
template <int M, int N, class T>
inline void multiply_block(int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, T* c,
                           int64_t c_row, bool add) {
  Vector<T> sum[M][N] = {};
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_row)
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] += a[m * a_row] * at(b + n * kLanes<T>);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m, c += c_row)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      Vector<T>& to = at(c + n * kLanes<T>);
      to = add ? to + sum[m][n] : sum[m][n];
    }
}

constexpr int64_t kNext = 1;  // a_row or a_step of numbers that stand side by side

// As above for any number of rows and columns, rounded up to PCT_ROWS and to whole vectors.
template <class T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b,
              int64_t b_row, T* c, int64_t c_row, bool add) {
  for (int64_t n = 0; n < columns; n += 2 * kLanes<T>) {
    const auto block = columns - n > kLanes<T> ? multiply_block<PCT_ROWS, 2, T> : multiply_block<PCT_ROWS, 1, T>;
    for (int64_t m = 0; m < rows; m += PCT_ROWS)
      block(depth, a + m * a_row, a_row, a_step, b + n, b_row, c + m * c_row + n, c_row, add);
  }
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
// rows of one head, one after another, each filled up with zeros to `width`
template <class T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t dim, int64_t width, T factor, T* to) {
  typedef T Unaligned __attribute__((vector_size(PCT_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  for (int64_t i = 0; i < rows; ++i, from += stride, to += width) {
    int64_t d = 0;
    for (; d + kLanes<T> <= dim; d += kLanes<T>)
      *reinterpret_cast<Unaligned*>(to + d) = factor * *reinterpret_cast<const Unaligned*>(from + d);
    for (; d < dim; ++d) to[d] = factor * from[d];
    for (; d < width; ++d) to[d] = 0;
  }
}

#ifdef __clang__
#define PCT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PCT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype(a < b){__VA_ARGS__})
#endif

// to[j][i] = factor * from[i][j], four by four
template <class T>
inline void transpose(int64_t rows, int64_t columns, const T* from, int64_t from_row, T factor, T* to, int64_t to_row) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    const T *row0 = from + i * from_row, *row1 = row0 + from_row, *row2 = row1 + from_row, *row3 = row2 + from_row;
    T* target = to + i;
    for (int64_t j = 0; j < whole_columns; j += 4, target += 4 * to_row) {
      const Four a = factor * *reinterpret_cast<const Four*>(row0 + j);
      const Four b = factor * *reinterpret_cast<const Four*>(row1 + j);
      const Four c = factor * *reinterpret_cast<const Four*>(row2 + j);
      const Four d = factor * *reinterpret_cast<const Four*>(row3 + j);
      const Four ab = PCT_SHUFFLE(a, b, 0, 4, 1, 5), cd = PCT_SHUFFLE(c, d, 0, 4, 1, 5);
      const Four ba = PCT_SHUFFLE(a, b, 2, 6, 3, 7), dc = PCT_SHUFFLE(c, d, 2, 6, 3, 7);
      *reinterpret_cast<Four*>(target) = PCT_SHUFFLE(ab, cd, 0, 1, 4, 5);
      *reinterpret_cast<Four*>(target + to_row) = PCT_SHUFFLE(ab, cd, 2, 3, 6, 7);
      *reinterpret_cast<Four*>(target + 2 * to_row) = PCT_SHUFFLE(ba, dc, 0, 1, 4, 5);
      *reinterpret_cast<Four*>(target + 3 * to_row) = PCT_SHUFFLE(ba, dc, 2, 3, 6, 7);
    }
  }
  for (int64_t i = 0; i < rows; ++i)  // what is left on the right and below
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
      to[j * to_row + i] = factor * from[i * from_row + j];
}

// rows of one head as tiles of kQueryTile columns
template <class T>
void copy_columns(const T* from, int64_t stride, int64_t rows, int64_t dim, T factor, T* to) {
  for (int64_t i = 0; i < rows; i += kQueryTile)
    transpose(std::min(kQueryTile, rows - i), dim, from + i * stride, stride, factor, to + i * dim, kQueryTile);
}

// back from rows of `width`, replacing or adding to what is there
template <class T>
void put_rows(const T* from, int64_t width, int64_t rows, int64_t dim, bool add, T* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i, from += width, to += stride)
    for (int64_t d = 0; d < dim; ++d) to[d] = add ? to[d] + from[d] : from[d];
}

// A tile of queries against a tile of keys.
struct Tile {
  int64_t b, head, query, queries, key, keys;  // the first ones, counted from the start of the sequence, and how many
};

constexpr double kLog2e = 1.4426950408889634;

// scores[j][i] = log2(e) * (scaled product + bias) of key j and query i; -inf where the query must not see the key
template <class T>
void compare(const Attention<T>& p, const Tile& tile, const T* query_columns, const T* key_rows, int64_t key_row,
             T* scores) {
  multiply(tile.keys, tile.queries, p.dim, key_rows, key_row, kNext, query_columns, kQueryTile, scores, kQueryTile,
           false);
  if (p.table) {
    const T* biases = p.table + tile.head * p.window.size() + p.window.centre();
    const int32_t* query_position = p.query_position.data() + p.query_rows[tile.b] + tile.query;
    const int32_t* key_position = p.key_position.data() + p.key_rows[tile.b] + tile.key;
    for (int64_t j = 0; j < tile.keys; ++j)
      for (int64_t i = 0; i < tile.queries; ++i)
        scores[j * kQueryTile + i] += T(kLog2e) * biases[query_position[i] - key_position[j]];
  }
  if (p.causal)
    for (int64_t j = std::max<int64_t>(0, tile.query + 1 - tile.key); j < tile.keys; ++j) {
      const int64_t earlier = std::min(tile.queries, tile.key + j - tile.query);
      std::fill_n(scores + j * kQueryTile, earlier, -std::numeric_limits<T>::infinity());
    }
}

template <class T>
void collect_biases(const Attention<T>& p, const Tile& tile, const T* grads, T* grad_table) {
  const int32_t* query_position = p.query_position.data() + p.query_rows[tile.b] + tile.query;
  const int32_t* key_position = p.key_position.data() + p.key_rows[tile.b] + tile.key;
  for (int64_t j = 0; j < tile.keys; ++j)
    for (int64_t i = 0; i < tile.queries; ++i)
      grad_table[p.window.centre() + query_position[i] - key_position[j]] += grads[j * kQueryTile + i];
}

// Turns scores into weights relative to the largest score so far, N vectors of queries at a time, and returns by how
// much what was summed before shrinks.
template <int N, class T>
inline void soften(int64_t keys, T* scores, T* most, T* total, T* shrink) {
  Vector<T> high[N], sum[N], shift[N];
  for (int n = 0; n < N; ++n) high[n] = at(most + n * kLanes<T>);
  for (int64_t j = 0; j < keys; ++j)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Vector<T> s = at(scores + j * kQueryTile + n * kLanes<T>);
      high[n] = s > high[n] ? s : high[n];
    }
  for (int n = 0; n < N; ++n) {
    const Vector<T> nothing = Vector<T>{} - std::numeric_limits<T>::infinity();
    shift[n] = high[n] == nothing ? Vector<T>{} : high[n];
    const Vector<T> factor = exp2_of(at(most + n * kLanes<T>) - shift[n]);
    sum[n] = at(total + n * kLanes<T>) * factor;
    at(shrink + n * kLanes<T>) = factor;
    at(most + n * kLanes<T>) = high[n];
  }
  for (int64_t j = 0; j < keys; ++j)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      Vector<T>& s = at(scores + j * kQueryTile + n * kLanes<T>);
      s = exp2_of(s - shift[n]);
      sum[n] += s;
    }
  for (int n = 0; n < N; ++n) at(total + n * kLanes<T>) = sum[n];
}

// ---- forward --------------------------------------------------------------------------------------------------------
template <class T>
int64_t forward_workspace(const Attention<T>& p) {
  const int64_t value_rows = round_up(p.value_dim, PCT_ROWS);
  return kQueryChunk * (p.dim + value_rows + 2) + kQueryTile + kKeyTile * (p.dim + value_rows + kQueryTile);
}

template <class T>
void forward(const Attention<T>& p, const Piece& piece, int64_t head, Workspace<T>& space, T* output, T* logsumexp) {
  space.reset();
  const int64_t value_rows = round_up(p.value_dim, PCT_ROWS), queries = piece.last_query - piece.first_query;
  const int64_t query_row = p.query_rows[piece.b] + piece.first_query;
  T *query_columns = space.take(kQueryChunk * p.dim), *output_columns = space.take(kQueryChunk * value_rows);
  T *most = space.take(kQueryChunk), *total = space.take(kQueryChunk), *shrink = space.take(kQueryTile);
  T *keys = space.take(kKeyTile * p.dim), *values = space.take(kKeyTile * value_rows);
  T* scores = space.take(kKeyTile * kQueryTile);
  copy_columns(p.query + query_row * p.row() + head * p.dim, p.row(), queries, p.dim, T(p.scale * kLog2e),
               query_columns);
  std::fill_n(output_columns, round_up(queries, kQueryTile) * value_rows, T(0));
  std::fill_n(most, queries, -std::numeric_limits<T>::infinity());
  std::fill_n(total, queries, T(0));
  for (int64_t k = piece.first_key; k < piece.last_key; k += kKeyTile) {
    const int64_t n = std::min(kKeyTile, piece.last_key - k), key_row = p.key_rows[piece.b] + k;
    copy_rows(p.key + key_row * p.row() + head * p.dim, p.row(), n, p.dim, p.dim, T(1), keys);
    copy_rows(p.value + key_row * p.value_row() + head * p.value_dim, p.value_row(), n, p.value_dim, value_rows, T(1),
              values);
    for (int64_t q = 0; q < queries; q += kQueryTile) {
      const Tile tile{piece.b, head, piece.first_query + q, std::min(kQueryTile, queries - q), k, n};
      if (p.causal && tile.key >= tile.query + tile.queries) continue;
      compare(p, tile, query_columns + q * p.dim, keys, p.dim, scores);
      for (int64_t i = 0; i < tile.queries; i += 2 * kLanes<T>) {
        const auto some = tile.queries - i > kLanes<T> ? soften<2, T> : soften<1, T>;
        some(n, scores + i, most + q + i, total + q + i, shrink + i);
      }
      T* sums = output_columns + q * value_rows;
      if (k > piece.first_key)
        for (int64_t d = 0; d < value_rows; ++d)
          for (int64_t i = 0; i < tile.queries; i += kLanes<T>) at(sums + d * kQueryTile + i) *= at(shrink + i);
      multiply(value_rows, tile.queries, n, values, kNext, value_rows, scores, kQueryTile, sums, kQueryTile, true);
    }
  }
  for (int64_t q = 0; q < queries; q += kQueryTile) {
    const int64_t lanes = std::min(kQueryTile, queries - q);
    T* sums = output_columns + q * value_rows;
    for (int64_t i = 0; i < lanes; i += kLanes<T>) {
      const Vector<T> sum = at(total + q + i), none{};
      const Vector<T> factor = sum == none ? none : T(1) / sum;
      for (int64_t d = 0; d < p.value_dim; ++d) at(sums + d * kQueryTile + i) *= factor;
    }
    transpose(p.value_dim, lanes, sums, kQueryTile, T(1), output + (query_row + q) * p.value_row() + head * p.value_dim,
              p.value_row());
  }
  for (int64_t i = 0; i < queries; ++i)
    logsumexp[(query_row + i) * p.heads + head] = most[i] * T(1 / kLog2e) + std::log(total[i]);
}

// ---- backward -------------------------------------------------------------------------------------------------------
// scores become weights, gradients of weights those of scores: p (dp - sum of p dp), N vectors of queries at a time
template <int N, class T>
inline void differentiate(int64_t keys, T* scores, T* grads, const T* logsumexp, const T* mean) {
  for (int64_t j = 0; j < keys; ++j)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const int64_t at_n = n * kLanes<T>;
      Vector<T>&p = at(scores + j * kQueryTile + at_n), &grad = at(grads + j * kQueryTile + at_n);
      p = exp2_of(p - at(logsumexp + at_n));
      grad = p * (grad - at(mean + at_n));
    }
}

template <class T>
int64_t backward_workspace(const Attention<T>& p) {
  const int64_t dim_rows = round_up(p.dim, PCT_ROWS), dim_lanes = round_up(p.dim, kLanes<T>),
                value_lanes = round_up(p.value_dim, kLanes<T>);
  return kQueryChunk * (p.dim + dim_lanes + p.value_dim + value_lanes + dim_rows + 2) +
         kKeyTile * (dim_rows + p.value_dim + dim_lanes + value_lanes + 2 * kQueryTile);
}

template <class T>
void backward(const Attention<T>& p, const Gradients<T>& g, const Piece& piece, int64_t head, Workspace<T>& space,
              T* grad_query, T* grad_table) {
  space.reset();
  const int64_t dim_rows = round_up(p.dim, PCT_ROWS), dim_lanes = round_up(p.dim, kLanes<T>),
                value_lanes = round_up(p.value_dim, kLanes<T>);
  T *query_columns = space.take(kQueryChunk * p.dim), *query_rows = space.take(kQueryChunk * dim_lanes);
  T *output_columns = space.take(kQueryChunk * p.value_dim), *output_rows = space.take(kQueryChunk * value_lanes);
  T* grad_query_columns = space.take(kQueryChunk * dim_rows);
  T *logsumexp = space.take(kQueryChunk), *mean = space.take(kQueryChunk);
  T *keys = space.take(kKeyTile * dim_rows), *values = space.take(kKeyTile * p.value_dim);
  T *grad_keys = space.take(kKeyTile * dim_lanes), *grad_values = space.take(kKeyTile * value_lanes);
  T *scores = space.take(kKeyTile * kQueryTile), *grads = space.take(kKeyTile * kQueryTile);
  int64_t chunk = piece.first_query;
  do {  // at least once: keys without queries get gradients of zero
    const int64_t queries = std::min(kQueryChunk, piece.last_query - chunk), row = p.query_rows[piece.b] + chunk;
    const bool later = chunk > piece.first_query;
    const T* query = p.query + row * p.row() + head * p.dim;
    const T* output = g.output + row * p.value_row() + head * p.value_dim;
    const T* of_output = g.of_output + row * p.value_row() + head * p.value_dim;
    copy_columns(query, p.row(), queries, p.dim, T(p.scale * kLog2e), query_columns);
    copy_rows(query, p.row(), queries, p.dim, dim_lanes, p.scale, query_rows);
    copy_columns(of_output, p.value_row(), queries, p.value_dim, T(1), output_columns);
    copy_rows(of_output, p.value_row(), queries, p.value_dim, value_lanes, T(1), output_rows);
    for (int64_t i = 0; i < queries; ++i, output += p.value_row(), of_output += p.value_row()) {
      const T lse = g.logsumexp[(row + i) * p.heads + head];
      logsumexp[i] = lse == -std::numeric_limits<T>::infinity() ? -lse : lse * T(kLog2e);  // sees nothing: weights 0
      mean[i] = 0;
      for (int64_t d = 0; d < p.value_dim; ++d) mean[i] += output[d] * of_output[d];
    }
    std::fill_n(grad_query_columns, round_up(queries, kQueryTile) * dim_rows, T(0));
    for (int64_t k = piece.first_key; k < piece.last_key; k += kKeyTile) {
      const int64_t n = std::min(kKeyTile, piece.last_key - k), key_row = p.key_rows[piece.b] + k;
      const int64_t key = key_row * p.row() + head * p.dim, value = key_row * p.value_row() + head * p.value_dim;
      copy_rows(p.key + key, p.row(), n, p.dim, dim_rows, T(1), keys);
      copy_rows(p.value + value, p.value_row(), n, p.value_dim, p.value_dim, T(1), values);
      std::fill_n(grad_keys, kKeyTile * dim_lanes, T(0));
      std::fill_n(grad_values, kKeyTile * value_lanes, T(0));
      for (int64_t q = 0; q < queries; q += kQueryTile) {
        const Tile tile{piece.b, head, chunk + q, std::min(kQueryTile, queries - q), k, n};
        if (p.causal && tile.key >= tile.query + tile.queries) continue;
        compare(p, tile, query_columns + q * p.dim, keys, dim_rows, scores);
        multiply(n, tile.queries, p.value_dim, values, p.value_dim, kNext, output_columns + q * p.value_dim, kQueryTile,
                 grads, kQueryTile, false);
        for (int64_t i = 0; i < tile.queries; i += 2 * kLanes<T>) {
          const auto some = tile.queries - i > kLanes<T> ? differentiate<2, T> : differentiate<1, T>;
          some(n, scores + i, grads + i, logsumexp + q + i, mean + q + i);
        }
        multiply(n, p.value_dim, tile.queries, scores, kQueryTile, kNext, output_rows + q * value_lanes, value_lanes,
                 grad_values, value_lanes, true);
        multiply(n, p.dim, tile.queries, grads, kQueryTile, kNext, query_rows + q * dim_lanes, dim_lanes, grad_keys,
                 dim_lanes, true);
        multiply(p.dim, tile.queries, n, keys, kNext, dim_rows, grads, kQueryTile, grad_query_columns + q * dim_rows,
                 kQueryTile, true);
        if (p.table) collect_biases(p, tile, grads, grad_table);
      }
      put_rows(grad_keys, dim_lanes, n, p.dim, later, g.of_key + key, p.row());
      put_rows(grad_values, value_lanes, n, p.value_dim, later, g.of_value + value, p.value_row());
    }
    for (int64_t q = 0; q < queries; q += kQueryTile)
      transpose(p.dim, std::min(kQueryTile, queries - q), grad_query_columns + q * dim_rows, kQueryTile, p.scale,
                grad_query + (chunk + q) * p.row() + head * p.dim, p.row());
    chunk += kQueryChunk;
  } while (chunk < piece.last_query);
}

template <class T>
AttentionKernels<T> attention_kernels() {
  return {&forward_workspace<T>, &forward<T>, &backward_workspace<T>, &backward<T>};
}
