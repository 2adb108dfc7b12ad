// Attention over packed sequences: cuts the work into pieces for the kernels of the processor's instruction set.
#include "cpu/attention.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <tuple>

namespace pct {
namespace {

// Fused multiply-adds are welcome here, unlike elsewhere in the library: no index depends on these sums.
// With PCT_PORTABLE, or PCT_NO_AVX512, tests look at what other machines run.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(PCT_PORTABLE)
#ifndef PCT_NO_AVX512
#define PCT_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma")
#define PCT_VECTOR_BYTES 64
#define PCT_ROWS 8
namespace avx512 {
#include "cpu/attention_kernels.h"
}
#undef PCT_VECTOR_BYTES
#undef PCT_ROWS
#pragma GCC pop_options
#endif

#define PCT_AVX2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define PCT_VECTOR_BYTES 32
#define PCT_ROWS 4
namespace avx2 {
#include "cpu/attention_kernels.h"
}
#undef PCT_VECTOR_BYTES
#undef PCT_ROWS
#pragma GCC pop_options
#endif

#define PCT_VECTOR_BYTES 16
#define PCT_ROWS 4
namespace portable {
#include "cpu/attention_kernels.h"
}

template <class T>
const AttentionKernels<T>& attention_kernels() {
  static const AttentionKernels<T> kernels = [] {
#ifdef PCT_AVX512
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return avx512::attention_kernels<T>();
#endif
#ifdef PCT_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::attention_kernels<T>();
#endif
    return portable::attention_kernels<T>();
  }();
  return kernels;
}

// body(task, first head, last head, workspace) for all tasks. Each thread takes the next one when it is done with its
// last: all heads of a task, whose numbers stand side by side, or single heads where tasks are few.
template <class T, class Body>
void run_tasks(int64_t tasks, int64_t heads, int64_t workspace, const Body& body) {
  constexpr int64_t kFew = 16;
  const int64_t parts = tasks < kFew ? heads : 1, each = heads / parts;
  std::atomic<int64_t> next{0};
  parallel_for(0, std::min(tasks * parts, num_threads()), 1, [&](int64_t, int64_t) {
    Workspace<T> space(workspace);
    for (int64_t i; (i = next++) < tasks * parts;) body(i / parts, i % parts * each, (i % parts + 1) * each, space);
  });
}

// Brings rows nearer in the order in which they lie in memory: the kernels take them head by head.
template <class T>
void prefetch(const T* rows, int64_t count, int64_t row_size) {
  const char* bytes = reinterpret_cast<const char*>(rows);
  const int64_t size = std::min(count, kQueryChunk) * row_size * sizeof(T);
  for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

template <class T>
std::tuple<Tensor, Tensor> forward(const Attention<T>& p, const Tensor& query) {
  Tensor output = empty({query.size(0), p.heads, p.value_dim}, query.dtype(), query);
  Tensor logsumexp = empty({query.size(0), p.heads}, query.dtype(), query);
  T *out = output.template mutable_data<T>(), *lse = logsumexp.template mutable_data<T>();
  std::vector<Piece> pieces;
  for (int64_t b = 0; b < p.sequences; ++b)
    for (int64_t q = 0; q < p.queries(b); q += kQueryChunk) {
      const int64_t last = std::min(q + kQueryChunk, p.queries(b));
      pieces.push_back({b, q, last, 0, p.causal ? std::min(last, p.keys(b)) : p.keys(b)});
    }
  const auto& kernels = attention_kernels<T>();
  run_tasks<T>(pieces.size(), p.heads, kernels.forward_workspace(p),
               [&](int64_t i, int64_t head, int64_t last_head, Workspace<T>& space) {
                 const Piece& piece = pieces[i];
                 const int64_t q = p.query_rows[piece.b] + piece.first_query, k = p.key_rows[piece.b];
                 if (head + 1 < last_head) {
                   prefetch(p.query + q * p.row(), piece.last_query - piece.first_query, p.row());
                   prefetch(p.key + k * p.row(), piece.last_key, p.row());
                   prefetch(p.value + k * p.value_row(), piece.last_key, p.value_row());
                 }
                 for (; head < last_head; ++head) kernels.forward(p, piece, head, space, out, lse);
               });
  return {std::move(output), std::move(logsumexp)};
}

// The backward pass of one head is done in shares of about equal work, each by one thread from its first piece to its
// last. How it is cut depends on the lengths alone, and what several shares add to (a table, a query whose keys are in
// several pieces) is summed afterwards in their order: so the number of threads changes no bit of the result.
struct Shares {
  struct Part {
    Piece piece;
    int64_t spare;  // row of the spare rows that take its gradient of queries; -1: the gradient itself
  };
  std::vector<std::vector<Part>> parts;
  int64_t spare_rows = 0;

  template <class T>
  explicit Shares(const Attention<T>& p) {
    constexpr int64_t kShares = 32, kCutsOfAllHeads = 16;
    // Every share has a table of its own, which is cleared and summed: that must stay little beside its work.
    constexpr double kWorkPerBias = 256;
    const double least_work = std::max<double>(1 << 16, p.table ? kWorkPerBias * p.window.size() : 0);
    const auto work = [&](int64_t b) { return double(p.queries(b)) * p.keys(b) * (p.dim + p.value_dim); };
    double total = 0;
    for (int64_t b = 0; b < p.sequences; ++b) total += work(b);
    const double each = std::max(total / kShares, least_work);
    parts.resize(kShares);
    double before = 0;
    for (int64_t b = 0; b < p.sequences; ++b) {
      int64_t cuts = std::min<int64_t>(std::max<int64_t>(1, kCutsOfAllHeads / p.heads), 1 + work(b) / each);
      const int64_t keys = round_up(p.keys(b) / cuts + 1, kKeyTile);
      for (int64_t k = 0; k == 0 || k < p.keys(b); k += keys) {
        const Piece piece{b, 0, p.queries(b), k, std::min(k + keys, p.keys(b))};
        parts[std::min<int64_t>(kShares - 1, before / each)].push_back({piece, k ? spare_rows : -1});
        if (k) spare_rows += p.queries(b);
        before += work(b) * (piece.last_key - k) / std::max<int64_t>(1, p.keys(b));
      }
    }
    while (parts.size() > 1 && parts.back().empty()) parts.pop_back();
  }
};

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Attention<T>& p, const Tensor& grad_output,
                                                    const Tensor& query, const Tensor& key, const Tensor& value,
                                                    const Tensor& output, const Tensor& logsumexp,
                                                    const std::optional<Tensor>& table) {
  const int32_t dtype = query.dtype();
  Tensor grad_query = empty({query.size(0), p.heads, p.dim}, dtype, query);
  Tensor grad_key = empty({key.size(0), p.heads, p.dim}, dtype, query);
  Tensor grad_value = empty({value.size(0), p.heads, p.value_dim}, dtype, query);
  Tensor grad_table = table ? empty({p.heads, table->size(1), table->size(2), table->size(3)}, dtype, query)
                            : empty({0}, dtype, query);
  const Gradients<T> g{output.data<T>(), logsumexp.data<T>(), grad_output.data<T>(), grad_key.mutable_data<T>(),
                       grad_value.mutable_data<T>()};
  T *of_query = grad_query.mutable_data<T>(), *of_table = grad_table.mutable_data<T>();
  const Shares shares(p);
  const int64_t biases = p.table ? p.window.size() : 0, count = shares.parts.size();
  std::vector<T> spare(shares.spare_rows * p.row()), tables(count * p.heads * biases);
  const auto& kernels = attention_kernels<T>();
  run_tasks<T>(count, p.heads, kernels.backward_workspace(p),
               [&](int64_t i, int64_t first_head, int64_t last_head, Workspace<T>& space) {
                 for (const auto& [piece, spare_row] : shares.parts[i]) {
                   T* rows = spare_row < 0 ? of_query + p.query_rows[piece.b] * p.row() : &spare[spare_row * p.row()];
                   for (int64_t head = first_head; head < last_head; ++head)
                     kernels.backward(p, g, piece, head, space, rows, tables.data() + (i * p.heads + head) * biases);
                 }
               });
  for (const auto& share : shares.parts)
    for (const auto& [piece, spare_row] : share) {
      if (spare_row < 0) continue;
      T* rows = of_query + p.query_rows[piece.b] * p.row();
      for (int64_t i = 0; i < piece.last_query * p.row(); ++i) rows[i] += spare[spare_row * p.row() + i];
    }
  parallel_for(0, p.heads * biases, 1 << 12, [&](int64_t begin, int64_t end) {
    std::fill(of_table + begin, of_table + end, T(0));
    for (int64_t s = 0; s < count; ++s) {
      const T* of_share = tables.data() + s * p.heads * biases;
      for (int64_t i = begin; i < end; ++i) of_table[i] += of_share[i];
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
    return forward(Attention<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table,
                                             query_coordinates, key_coordinates, scale, causal),
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
    return backward(Attention<decltype(zero)>(query, key, value, query_offsets, key_offsets, bias_table,
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
