// bfloat16 and IEEE half precision as storage: read and written here, computed with as float. The conversions are bit
// arithmetic without branches: the same results on CPU and CUDA, and loops around them vectorise.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/geometry.h"
#include "torch_abi.h"

namespace pct {

PCT_BOTH float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

PCT_BOTH uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  PCT_BOTH BFloat16(float value) {  // the upper half of a float, rounded to nearest, ties to even; NaN stays NaN
    const uint32_t x = float_to_bits(value);
    const uint32_t rounded = (x + 0x7fff + ((x >> 16) & 1)) >> 16;
    bits = static_cast<uint16_t>((x & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
  PCT_BOTH operator float() const { return bits_to_float(static_cast<uint32_t>(bits) << 16); }
};

struct Half {
  uint16_t bits;

  Half() = default;
  PCT_BOTH Half(float value) {  // rounded to nearest, ties to even; overflow gives infinity
    const uint32_t x = float_to_bits(value), magnitude = x & 0x7fffffff;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // a float in [0.5, 1) has steps of 2^-24, as small halves have: the sum rounds to one of them
    const uint32_t small = float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f);
    uint32_t half = magnitude < (113u << 23) ? small : normal;
    half = magnitude >= 0x477ff000 ? 0x7c00 : half;  // from 65520 on
    half = magnitude > 0x7f800000 ? 0x7e00 : half;
    bits = static_cast<uint16_t>(half | ((x >> 16) & 0x8000));
  }
  PCT_BOTH operator float() const {
    // exponent and mantissa moved to a float's places are the value times 2^-112, subnormals included
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
    const uint32_t scaled = float_to_bits(bits_to_float(magnitude) * 0x1p112f);
    const uint32_t value = magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000 : scaled;
    return bits_to_float(value | static_cast<uint32_t>(bits & 0x8000) << 16);
  }
};

// What sums of T are kept in.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using accumulator = typename Accumulator<T>::type;

// f(T()) with the T of a floating dtype
template <class F>
void with_floating(int32_t dtype, const F& f) {
  if (dtype == float32()) return f(float());
  if (dtype == float64()) return f(double());
  if (dtype == bfloat16()) return f(BFloat16(0.0f));
  if (dtype == float16()) return f(Half(0.0f));
  fail("values must be float32, float64, bfloat16 or float16");
}

}  // namespace pct
