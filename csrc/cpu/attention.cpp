#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "checks.h"
#include "common/attention.h"
#include "cpu/values.h"

namespace pct {
namespace {

// What both passes read, and where the sequences lie in it.
template <class T>
struct Problem {
  const T *query, *key, *value, *table;
  const int64_t *query_rows, *key_rows;
  std::vector<int32_t> query_position, key_position;  // in the table of one head
  int64_t sequences, heads, dim, value_dim;
  BiasWindow window;
  T scale;
  bool causal;

  Problem(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_offsets,
          const Tensor& key_offsets, const std::optional<Tensor>& bias_table,
          const std::optional<Tensor>& query_coordinates, const std::optional<Tensor>& key_coordinates, double scale,
          bool causal)
      : query(query.data<T>()),
        key(key.data<T>()),
        value(value.data<T>()),
        table(bias_table ? bias_table->data<T>() : nullptr),
        query_rows(query_offsets.data<int64_t>()),
        key_rows(key_offsets.data<int64_t>()),
        sequences(query_offsets.size(0) - 1),
        heads(query.size(1)),
        dim(query.size(2)),
        value_dim(value.size(2)),
        window{1, 1, 1},
        scale(static_cast<T>(scale)),
        causal(causal) {
    const char* op = "ragged_attention";
    check_offset_values(query_rows, sequences, query.size(0), op, "query_offsets");
    check_offset_values(key_rows, sequences, key.size(0), op, "key_offsets");
    if (!bias_table) return;
    const auto places = [&](int64_t axis) { return static_cast<int32_t>(bias_table->size(axis) / 2 + 1); };
    window = {places(1), places(2), places(3)};
    query_position = positions(*query_coordinates, "query_coordinates");
    key_position = positions(*key_coordinates, "key_coordinates");
  }

  std::vector<int32_t> positions(const Tensor& coordinates, const char* name) const {
    const int32_t* c = coordinates.data<int32_t>();
    std::vector<int32_t> position(coordinates.size(0));
    for (size_t i = 0; i < position.size(); ++i, c += 3) {
      PCT_VALUE_CHECK(c[0] >= 0 && c[0] < window.w0 && c[1] >= 0 && c[1] < window.w1 && c[2] >= 0 && c[2] < window.w2,
                      "ragged_attention: ", name, "[", i, "] = (", c[0], ", ", c[1], ", ", c[2],
                      ") lies outside the window (", window.w0, ", ", window.w1, ", ", window.w2,
                      ") that bias_table is made for");
      position[i] = window.position(c);
    }
    return position;
  }

  const T* biases(int64_t h) const { return table + h * window.size() + window.centre(); }
  int64_t seen(int64_t b, int64_t i) const {
    const int64_t keys = key_rows[b + 1] - key_rows[b];
    return causal ? std::min(keys, i - query_rows[b] + 1) : keys;
  }
  T score(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const T *q = query + (i * heads + h) * dim, *k = key + (j * heads + h) * dim;
    T sum = 0;
    for (int64_t d = 0; d < dim; ++d) sum += q[d] * k[d];
    sum *= scale;
    return table ? sum + biases(h)[query_position[i] - key_position[j]] : sum;
    (void)b;
  }
};

template <class T>
std::tuple<Tensor, Tensor> forward(const Problem<T>& p, const Tensor& query) {
  Tensor output = zeros({query.size(0), p.heads, p.value_dim}, query.dtype(), query);
  Tensor logsumexp = empty({query.size(0), p.heads}, query.dtype(), query);
  T *out = output.template mutable_data<T>(), *lse = logsumexp.template mutable_data<T>();
  parallel_for(0, p.sequences * p.heads, 1, [&](int64_t from, int64_t to) {
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t b = unit / p.heads, h = unit % p.heads, first = p.key_rows[b];
      for (int64_t i = p.query_rows[b]; i < p.query_rows[b + 1]; ++i) {
        std::vector<T> s(p.seen(b, i));
        T most = -std::numeric_limits<T>::infinity(), sum = 0;
        for (size_t j = 0; j < s.size(); ++j) most = std::max(most, s[j] = p.score(b, h, i, first + j));
        const T shift = most == -std::numeric_limits<T>::infinity() ? T(0) : most;
        for (T& x : s) sum += x = std::exp(x - shift);
        lse[i * p.heads + h] = shift + std::log(sum);
        if (sum == 0) continue;
        T* o = out + (i * p.heads + h) * p.value_dim;
        for (size_t j = 0; j < s.size(); ++j)
          for (int64_t d = 0; d < p.value_dim; ++d)
            o[d] += s[j] / sum * p.value[((first + j) * p.heads + h) * p.value_dim + d];
      }
    }
  });
  return {std::move(output), std::move(logsumexp)};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Problem<T>& p, const Tensor& grad_output, const Tensor& query,
                                                    const Tensor& key, const Tensor& value, const Tensor& output,
                                                    const Tensor& logsumexp, const std::optional<Tensor>& bias_table) {
  const int32_t dtype = query.dtype();
  Tensor grad_query = zeros({query.size(0), p.heads, p.dim}, dtype, query);
  Tensor grad_key = zeros({key.size(0), p.heads, p.dim}, dtype, query);
  Tensor grad_value = zeros({value.size(0), p.heads, p.value_dim}, dtype, query);
  Tensor grad_table = bias_table ? zeros({p.heads, bias_table->size(1), bias_table->size(2), bias_table->size(3)}, dtype, query)
                                 : zeros({0}, dtype, query);
  const T *go = grad_output.data<T>(), *out = output.data<T>(), *lse = logsumexp.data<T>();
  T *gq = grad_query.mutable_data<T>(), *gk = grad_key.mutable_data<T>(), *gv = grad_value.mutable_data<T>();
  T* gt = grad_table.mutable_data<T>();
  parallel_for(0, p.heads, 1, [&](int64_t from, int64_t to) {
    for (int64_t h = from; h < to; ++h)
      for (int64_t b = 0; b < p.sequences; ++b)
        for (int64_t i = p.query_rows[b]; i < p.query_rows[b + 1]; ++i) {
          const int64_t qi = i * p.heads + h;
          if (lse[qi] == -std::numeric_limits<T>::infinity()) continue;
          T mean = 0;
          for (int64_t d = 0; d < p.value_dim; ++d) mean += go[qi * p.value_dim + d] * out[qi * p.value_dim + d];
          for (int64_t j = p.key_rows[b]; j < p.key_rows[b] + p.seen(b, i); ++j) {
            const int64_t kj = j * p.heads + h;
            const T weight = std::exp(p.score(b, h, i, j) - lse[qi]);
            T grad = -mean;
            for (int64_t d = 0; d < p.value_dim; ++d) {
              grad += go[qi * p.value_dim + d] * p.value[kj * p.value_dim + d];
              gv[kj * p.value_dim + d] += weight * go[qi * p.value_dim + d];
            }
            grad *= weight;
            for (int64_t d = 0; d < p.dim; ++d) {
              gq[qi * p.dim + d] += grad * p.scale * p.key[kj * p.dim + d];
              gk[kj * p.dim + d] += grad * p.scale * p.query[qi * p.dim + d];
            }
            if (p.table) gt[h * p.window.size() + p.window.centre() + p.query_position[i] - p.key_position[j]] += grad;
          }
        }
  });
  return {std::move(grad_query), std::move(grad_key), std::move(grad_value), std::move(grad_table)};
}

std::tuple<Tensor, Tensor> ragged_attention_cpu(const Tensor& query, const Tensor& key, const Tensor& value,
                                                const Tensor& query_offsets, const Tensor& key_offsets,
                                                const std::optional<Tensor>& bias_table,
                                                const std::optional<Tensor>& query_coordinates,
                                                const std::optional<Tensor>& key_coordinates, double scale,
                                                bool causal) {
  check_ragged_attention(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates);
  const auto run = [&](auto zero) {
    return forward(Problem<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates,
                                           key_coordinates, scale, causal),
                   query);
  };
  return query.dtype() == float32() ? run(float()) : run(double());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ragged_attention_backward_cpu(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output,
    const Tensor& logsumexp, const Tensor& query_offsets, const Tensor& key_offsets,
    const std::optional<Tensor>& bias_table, const std::optional<Tensor>& query_coordinates,
    const std::optional<Tensor>& key_coordinates, double scale, bool causal) {
  check_ragged_attention_backward(grad_output, query, key, value, output, logsumexp, query_offsets, key_offsets,
                                  bias_table, query_coordinates, key_coordinates);
  const auto run = [&](auto zero) {
    return backward(Problem<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table,
                                            query_coordinates, key_coordinates, scale, causal),
                    grad_output, query, key, value, output, logsumexp, bias_table);
  };
  return query.dtype() == float32() ? run(float()) : run(double());
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&ragged_attention_cpu>("ragged_attention");
  library.implement<&ragged_attention_backward_cpu>("ragged_attention_backward");
});

}  // namespace
}  // namespace pct
