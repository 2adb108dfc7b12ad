// Sampling of maps at places between cells: which four cells, how much of each. Shared by CPU and CUDA, so that a place on
// the border between cells is in the same cell everywhere.
#pragma once
#include <cstdint>

#include "common/geometry.h"

namespace pct {

constexpr int64_t kMaxLevels = 16;                  // maps of different resolution
constexpr int64_t kMaxLevelSide = (1ll << 31) - 1;  // cells along an axis of one

// One map among the packed ones: its cells, row by row, begin at `start`.
struct Level {
  int64_t height, width, start;
};

// All of them; handed to kernels by value.
struct Levels {
  Level level[kMaxLevels];
  int64_t count;
};

// The cells around a place, in the order (y0, x0), (y0, x1), (y1, x0), (y1, x1). A cell beyond the border is not valid: its
// share is 0, and its row is that of the valid neighbour, so that it can be read without asking.
template <class T>
struct Corners {
  int64_t row[4];
  bool valid[4];
  T share[4];
  T x, y;  // how far the place is from the cells with index 0 to those with index 1
};

PCT_BOTH float round_down(float x) { return floorf(x); }
PCT_BOTH double round_down(double x) { return floor(x); }

// False where all four cells are outside, for NaN too. Cell i has its centre at (i + 0.5) / size of the map.
template <class T>
PCT_BOTH bool find_corners(const Level& level, T x, T y, Corners<T>& at) {
  const T column = x * T(level.width) - T(0.5), line = y * T(level.height) - T(0.5);
  if (!(column >= T(-1) && column < T(level.width) && line >= T(-1) && line < T(level.height))) return false;
  const T left = round_down(column), top = round_down(line);
  const int64_t x0 = static_cast<int64_t>(left), y0 = static_cast<int64_t>(top);
  const bool inside_x[2] = {x0 >= 0, x0 + 1 < level.width}, inside_y[2] = {y0 >= 0, y0 + 1 < level.height};
  const int64_t xs[2] = {inside_x[0] ? x0 : 0, inside_x[1] ? x0 + 1 : level.width - 1};
  const int64_t ys[2] = {inside_y[0] ? y0 : 0, inside_y[1] ? y0 + 1 : level.height - 1};
  at.x = column - left, at.y = line - top;
  const T of_x[2] = {T(1) - at.x, at.x}, of_y[2] = {T(1) - at.y, at.y};
  for (int i = 0; i < 4; ++i) {
    at.row[i] = level.start + ys[i / 2] * level.width + xs[i % 2];
    at.valid[i] = inside_y[i / 2] && inside_x[i % 2];
    at.share[i] = at.valid[i] ? of_y[i / 2] * of_x[i % 2] : T(0);
  }
  return true;
}

// What stands for the value of a place that find_corners is false for: nothing, or NaN where the place itself is NaN.
template <class T>
PCT_BOTH T value_outside(T x, T y) {
  return x == x && y == y ? T(0) : T(NAN);
}

// How the value at a place changes with its x and y, from the values (or products with them) of its cells.
template <class T>
struct Slope {
  T x, y;
};

template <class T>
PCT_BOTH Slope<T> find_slope(const Level& level, const Corners<T>& at, const T (&cell)[4]) {
  return {T(level.width) * ((T(1) - at.y) * (cell[1] - cell[0]) + at.y * (cell[3] - cell[2])),
          T(level.height) * ((T(1) - at.x) * (cell[2] - cell[0]) + at.x * (cell[3] - cell[1]))};
}

}  // namespace pct
