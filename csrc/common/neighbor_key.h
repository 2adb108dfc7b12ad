// A neighbour as one number: its squared distance above, its row below. Squared distances are not negative, so their
// bits order as they do, and one comparison puts the nearer first and of equally far ones the lower row.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/geometry.h"

namespace pct {

constexpr uint32_t kNoRow = 0xffffffffu;
constexpr uint64_t kNoNeighbor = ~uint64_t(0);

// a NaN distance makes no neighbour
PCT_BOTH uint64_t neighbor_key(float squared_distance, uint32_t row) {
  uint32_t bits;
  memcpy(&bits, &squared_distance, sizeof(bits));
  return squared_distance == squared_distance ? static_cast<uint64_t>(bits) << 32 | row : kNoNeighbor;
}

PCT_BOTH int64_t neighbor_row(uint64_t key) { return key == kNoNeighbor ? -1 : static_cast<int64_t>(key & kNoRow); }

// +inf where there is no neighbour
PCT_BOTH float neighbor_distance(uint64_t key) {
  const uint32_t bits = key == kNoNeighbor ? 0x7f800000u : static_cast<uint32_t>(key >> 32);
  float squared_distance;
  memcpy(&squared_distance, &bits, sizeof(bits));
  return squared_distance;
}

}  // namespace pct
