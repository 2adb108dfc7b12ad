// Attention over packed sequences: its limits, and where the bias of a pair stands in a table of relative positions.
#pragma once
#include <cstdint>

#include "common/geometry.h"

namespace pct {

constexpr int64_t kMaxHeadDim = 256;           // of queries and keys, and of values
constexpr int64_t kMaxBiases = (1ll << 31) - 1;  // in a bias table: positions in it are int32

// A table (2 w0 - 1, 2 w1 - 1, 2 w2 - 1) of biases by query coordinate minus key coordinate. Row-major positions are
// linear in the coordinates, so the bias of a pair is at centre() + position(query) - position(key).
struct BiasWindow {
  int32_t w0, w1, w2;

  PCT_BOTH int32_t centre() const { return position(w0 - 1, w1 - 1, w2 - 1); }
  PCT_BOTH int64_t size() const { return int64_t(2 * w0 - 1) * (2 * w1 - 1) * (2 * w2 - 1); }
  PCT_BOTH int32_t position(int32_t x, int32_t y, int32_t z) const { return (x * (2 * w1 - 1) + y) * (2 * w2 - 1) + z; }
  // Coordinates outside the window are moved to its border, so that no position leaves the table.
  PCT_BOTH int32_t position(const int32_t* c) const {
    return position(inside(c[0], w0), inside(c[1], w1), inside(c[2], w2));
  }
  PCT_BOTH static int32_t inside(int32_t c, int32_t w) { return c < 0 ? 0 : c < w ? c : w - 1; }
};

}  // namespace pct
