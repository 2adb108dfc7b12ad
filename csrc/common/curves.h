// Space-filling curves in three dimensions, bit by bit, for host and device alike.
#pragma once
#include <cstdint>

#include "common/geometry.h"

namespace pct {

// A code is an int64 with three bits per level: 3 * 21 = 63 leaves the sign alone.
constexpr int64_t kMaxCurveBits = 21;

// The 21 low bits of v, two zeros between neighbours: each step halves the groups that are still together.
PCT_BOTH uint64_t spread_bits(uint64_t v) {
  v = (v | v << 32) & 0x001f00000000ffffull;
  v = (v | v << 16) & 0x001f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  v = (v | v << 2) & 0x1249249249249249ull;
  return v;
}

// x is the most significant bit of each triple
PCT_BOTH uint64_t interleave_bits(uint32_t x, uint32_t y, uint32_t z) {
  return spread_bits(x) << 2 | spread_bits(y) << 1 | spread_bits(z);
}

// One level of Skilling's transform (2004, "inverse undo excess work"), from the highest bit to the lowest: undoes, in
// all lower bits, how the curve is turned inside the octant that this bit has chosen.
PCT_BOTH void undo_turn(uint32_t& x, uint32_t& y, uint32_t& z, int bit) {
  const uint32_t set = 1u << bit, lower = set - 1;
  // per axis: a set bit inverts the lower bits of x; a clear one exchanges them with that axis (x with itself: nothing)
  x ^= x & set ? lower : 0;
  const uint32_t exchange_y = y & set ? 0 : (x ^ y) & lower;
  x ^= y & set ? lower : exchange_y;
  y ^= exchange_y;
  const uint32_t exchange_z = z & set ? 0 : (x ^ z) & lower;
  x ^= z & set ? lower : exchange_z;
  z ^= exchange_z;
}

// The number whose Gray code this is: every bit becomes the parity of itself and all bits above.
PCT_BOTH uint64_t gray_to_binary(uint64_t gray) {
  gray ^= gray >> 1;
  gray ^= gray >> 2;
  gray ^= gray >> 4;
  gray ^= gray >> 8;
  gray ^= gray >> 16;
  return gray ^ gray >> 32;
}

}  // namespace pct
