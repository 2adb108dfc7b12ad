// What the kernels of attention read: the packed sequences of one call, and the pieces that the work is cut into.
#pragma once
#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "checks.h"
#include "common/attention.h"
#include "cpu/values.h"

namespace pct {

constexpr int64_t kQueryTile = 32;    // lanes of a tile of scores
constexpr int64_t kKeyTile = 64;      // its rows
constexpr int64_t kQueryChunk = 256;  // queries that share a copied tile of keys

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
struct Attention {
  const T *query, *key, *value, *table;  // no table: null
  const int64_t *query_rows, *key_rows;
  std::vector<int32_t> query_position, key_position;  // in the table of one head
  int64_t sequences, heads, dim, value_dim;
  BiasWindow window{1, 1, 1};
  T scale;
  bool causal;

  Attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_offsets,
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

  int64_t row() const { return heads * dim; }  // numbers of one query or key, all heads
  int64_t value_row() const { return heads * value_dim; }
  int64_t queries(int64_t b) const { return query_rows[b + 1] - query_rows[b]; }
  int64_t keys(int64_t b) const { return key_rows[b + 1] - key_rows[b]; }

 private:
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
};

// Some queries of sequence b against some of its keys; both counted from the start of the sequence.
struct Piece {
  int64_t b, first_query, last_query, first_key, last_key;
};

// What the backward pass reads and writes beyond that.
template <class T>
struct Gradients {
  const T *output, *logsumexp, *of_output;
  T *of_key, *of_value;
};

// Aligned memory that a thread carves its tiles from, again for every piece.
template <class T>
class Workspace {
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
  T* next_;

 public:
  explicit Workspace(int64_t size)
      : data_(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))), next_(data_.get()) {
    std::fill_n(next_, size, T(0));
  }
  void reset() { next_ = data_.get(); }
  T* take(int64_t size) { return std::exchange(next_, next_ + size); }
};

// One instruction set's kernels.
template <class T>
struct AttentionKernels {
  int64_t (*forward_workspace)(const Attention<T>&);
  void (*forward)(const Attention<T>&, const Piece&, int64_t head, Workspace<T>&, T* output, T* logsumexp);
  int64_t (*backward_workspace)(const Attention<T>&);
  // grad_query is that of the piece's sequence, grad_table that of the head; both are added to by later pieces.
  void (*backward)(const Attention<T>&, const Gradients<T>&, const Piece&, int64_t head, Workspace<T>&, T* grad_query,
                   T* grad_table);
};

}  // namespace pct
