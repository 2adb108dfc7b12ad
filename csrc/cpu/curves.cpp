#include <algorithm>

#include "checks.h"
#include "common/curves.h"
#include "cpu/simd.h"
#include "cpu/values.h"

namespace pct {
namespace {

constexpr int64_t kBlock = 256;     // points whose coordinates stay in L1 from the first bit to the last
constexpr int64_t kGrain = 1 << 14;  // points worth another thread

// All coordinates in one word: what lies outside of `bits` shows there, a sign too.
template <class T>
PCT_CLONES T union_of(const T* values, int64_t n) {
  T all = 0;
  for (int64_t i = 0; i < n; ++i) all |= values[i];
  return all;
}

template <class T>
void check_range(const T* coordinates, int64_t n, int64_t bits, const char* op) {
  if ((union_of(coordinates, 3 * n) & ~((T(1) << bits) - 1)) == 0) return;
  for (int64_t i = 0; i < 3 * n; ++i)
    PCT_VALUE_CHECK(coordinates[i] >= 0 && coordinates[i] >> bits == 0, op, ": coordinates must be 0 <= c < 2^bits = ",
                    int64_t(1) << bits, ", but row ", i / 3, " holds ", coordinates[i],
                    "; subtract the smallest coordinate, or allow more bits (at most ", kMaxCurveBits, ")");
}

template <bool kHilbert, class T>
PCT_CLONES void curve_block(const T* coordinates, int64_t n, int64_t bits, int64_t* code) {
  uint32_t x[kBlock], y[kBlock], z[kBlock];
  for (int64_t i = 0; i < n; ++i) {
    x[i] = static_cast<uint32_t>(coordinates[3 * i]);
    y[i] = static_cast<uint32_t>(coordinates[3 * i + 1]);
    z[i] = static_cast<uint32_t>(coordinates[3 * i + 2]);
  }
  if (kHilbert)
    for (int bit = static_cast<int>(bits) - 1; bit > 0; --bit)
      for (int64_t i = 0; i < n; ++i) undo_turn(x[i], y[i], z[i], bit);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t morton = interleave_bits(x[i], y[i], z[i]);
    code[i] = static_cast<int64_t>(kHilbert ? gray_to_binary(morton) : morton);
  }
}

template <bool kHilbert, class T>
Tensor curve_code(const Tensor& coordinates, int64_t bits, const char* op) {
  const int64_t n = coordinates.size(0);
  const T* points = coordinates.data<T>();
  check_range(points, n, bits, op);
  Tensor code = empty({n}, int64(), coordinates);
  int64_t* out = code.mutable_data<int64_t>();
  parallel_for(0, n, kGrain, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += kBlock)
      curve_block<kHilbert>(points + 3 * i, std::min(kBlock, to - i), bits, out + i);
  });
  return code;
}

Tensor morton_code_cpu(const Tensor& coordinates, int64_t bits) {
  check_morton_code(coordinates, bits);
  return coordinates.dtype() == int32() ? curve_code<false, int32_t>(coordinates, bits, "morton_code")
                                        : curve_code<false, int64_t>(coordinates, bits, "morton_code");
}

Tensor hilbert_code_cpu(const Tensor& coordinates, int64_t bits) {
  check_hilbert_code(coordinates, bits);
  return coordinates.dtype() == int32() ? curve_code<true, int32_t>(coordinates, bits, "hilbert_code")
                                        : curve_code<true, int64_t>(coordinates, bits, "hilbert_code");
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&morton_code_cpu>("morton_code");
  library.implement<&hilbert_code_cpu>("hilbert_code");
});

}  // namespace
}  // namespace pct
