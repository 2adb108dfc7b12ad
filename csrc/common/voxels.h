// Which cell of a grid a coordinate is in, along one axis: one formula for CPU and CUDA, in float32 as published detectors
// compute it, so that points next to a border fall on the same side everywhere.
#pragma once
#include <cstdint>

#include "common/geometry.h"

namespace pct {

struct GridAxis {
  float low, size;  // metres
  int32_t cells;
};

struct VoxelGrid {
  GridAxis x, y, z;

  static GridAxis axis(double low, double size, int64_t cells) {
    return {static_cast<float>(low), static_cast<float>(size), static_cast<int32_t>(cells)};
  }
  PCT_BOTH uint64_t cells() const {
    return static_cast<uint64_t>(z.cells) * static_cast<uint64_t>(y.cells) * static_cast<uint64_t>(x.cells);
  }
};

// -1 outside of [low, low + cells * size), and for NaN.
PCT_BOTH int32_t cell_of(float x, const GridAxis& axis) {
  const float place = (x - axis.low) / axis.size;
  const bool fits = (place >= 0.0f) & (place < 2147483648.0f);
  const int32_t cell = static_cast<int32_t>(fits ? place : 0.0f);
  return fits & (cell < axis.cells) ? cell : -1;
}

}  // namespace pct
