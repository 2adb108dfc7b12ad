// Boxes (x, y, z, dx, dy, dz, heading) turned about the vertical axis: what is inside, and how much two of them share.
//
// All in double, with sines of our own and every operation in a fixed order, so that CPU, CUDA and the plain-torch reference
// agree in every bit: a box is suppressed on all of them or on none.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/geometry.h"

namespace pct {

// Cosine and sine by Taylor series to degree 17 (remainder below 1e-18) of what a quarter turn leaves over. Headings are
// taken modulo the double nearest to 2 pi: a million radians are off by 1e-11.
PCT_BOTH void cosine_and_sine(float heading, double* cosine, double* sine) {
  const double turn = fmod(static_cast<double>(heading), 6.283185307179586);
  const double quarters = rint(turn * 0.6366197723675814);
  const double r = (turn - quarters * 1.5707963267948966) - quarters * 6.123233995736766e-17;
  const double z = r * r;
  double s = 1.0 / 355687428096000.0, c = 1.0 / 20922789888000.0;
  s = s * z - 1.0 / 1307674368000.0;
  s = s * z + 1.0 / 6227020800.0;
  s = s * z - 1.0 / 39916800.0;
  s = s * z + 1.0 / 362880.0;
  s = s * z - 1.0 / 5040.0;
  s = s * z + 1.0 / 120.0;
  s = s * z - 1.0 / 6.0;
  s = (s * z) * r + r;
  c = c * z - 1.0 / 87178291200.0;
  c = c * z + 1.0 / 479001600.0;
  c = c * z - 1.0 / 3628800.0;
  c = c * z + 1.0 / 40320.0;
  c = c * z - 1.0 / 720.0;
  c = c * z + 1.0 / 24.0;
  c = c * z - 0.5;
  c = c * z + 1.0;
  const int quarter = static_cast<int>(quarters) & 3;
  const double along = quarter & 1 ? s : c, across = quarter & 1 ? c : s;
  *cosine = quarter == 1 || quarter == 2 ? -along : along;
  *sine = quarter >= 2 ? -across : across;
}

struct Box {
  double x, y, z;                 // centre
  double half_x, half_y, half_z;  // half of its sizes
  double cosine, sine;            // of its heading
  double radius;                  // of the circle around it, seen from above; NaN for a box that is none
};

// A box with a number that is not finite, or a negative size, is none: it holds no point and shares nothing. The CPU kernels
// refuse it.
PCT_BOTH Box make_box(const float* values) {
  Box box;
  box.x = values[0], box.y = values[1], box.z = values[2];
  box.half_x = 0.5 * values[3], box.half_y = 0.5 * values[4], box.half_z = 0.5 * values[5];
  float zero = 0;  // NaN if any value is not finite
  for (int i = 0; i < 7; ++i) zero += values[i] * 0.0f;
  const bool real = zero == 0 && values[3] >= 0 && values[4] >= 0 && values[5] >= 0;
  cosine_and_sine(real ? values[6] : 0.0f, &box.cosine, &box.sine);
  box.radius = sqrt(box.half_x * box.half_x + box.half_y * box.half_y);
  if (!real) box.radius = NAN;
  return box;
}

PCT_BOTH double base_of(const Box& box) { return (2 * box.half_x) * (2 * box.half_y); }
PCT_BOTH double volume_of(const Box& box) { return base_of(box) * (2 * box.half_z); }

// Faces belong to a box. NaN is in no box.
PCT_BOTH bool holds(const Box& box, double px, double py, double pz) {
  const double x = px - box.x, y = py - box.y;
  return fabs(pz - box.z) <= box.half_z && fabs(x * box.cosine + y * box.sine) <= box.half_x &&
         fabs(y * box.cosine - x * box.sine) <= box.half_y && box.radius == box.radius;
}

PCT_BOTH double clamp_to(double value, double limit) {
  return value < -limit ? -limit : value > limit ? limit : value;
}

// The integral of clamp(y, -limit_y, limit_y) dx along the edge from p to q, where -limit_x <= x <= limit_x.
PCT_BOTH double area_under_edge(double px, double py, double qx, double qy, double limit_x, double limit_y) {
  const double along_x = qx - px, slope_of_t = along_x != 0 ? 1 / along_x : 0.0;
  const double from_x = clamp_to(px, limit_x), to_x = clamp_to(qx, limit_x);
  const double from_y = py + ((from_x - px) * slope_of_t) * (qy - py);
  const double to_y = py + ((to_x - px) * slope_of_t) * (qy - py);
  const double from = clamp_to(from_y, limit_y), to = clamp_to(to_y, limit_y);
  const double rise = to_y - from_y;
  // Level at `from`, then rising, then level at `to`: the means of its bounds, weighted by their lengths.
  const double before = 0.5 * ((from - from_y) + (to - from_y)) / (rise != 0 ? rise : 1.0);
  return (to_x - from_x) * (from + (to - from) * (1 - before));
}

// The area that two boxes share, seen from above. In the frame of the smaller box it is the integral, over the width of
// that box, of how far the other one reaches above its lower side, at most to its upper one; summed edge by edge, without
// a list of corners, so that nothing jumps where edges touch, coincide or vanish.
PCT_BOTH double shared_area(const Box& one, const Box& two) {
  const double dx = two.x - one.x, dy = two.y - one.y, reach = one.radius + two.radius;
  const bool near = dx * dx + dy * dy <= reach * reach;
  const double base_one = base_of(one), base_two = base_of(two);
  const bool swap = base_two < base_one;
  const double sign = swap ? -1.0 : 1.0, least = swap ? base_two : base_one;
  const double cosine = swap ? two.cosine : one.cosine, sine = swap ? two.sine : one.sine;
  const double other_cosine = swap ? one.cosine : two.cosine, other_sine = swap ? one.sine : two.sine;
  const double limit_x = swap ? two.half_x : one.half_x, limit_y = swap ? two.half_y : one.half_y;
  const double half_x = swap ? one.half_x : two.half_x, half_y = swap ? one.half_y : two.half_y;
  const double x = sign * (dx * cosine + dy * sine), y = sign * (dy * cosine - dx * sine);
  const double c = cosine * other_cosine + sine * other_sine, s = cosine * other_sine - sine * other_cosine;
  const double ux = half_x * c, uy = half_x * s, vx = -half_y * s, vy = half_y * c;
  const double x0 = (x + ux) + vx, y0 = (y + uy) + vy, x1 = (x - ux) + vx, y1 = (y - uy) + vy;
  const double x2 = (x - ux) - vx, y2 = (y - uy) - vy, x3 = (x + ux) - vx, y3 = (y + uy) - vy;
  const double upper = area_under_edge(x1, y1, x0, y0, limit_x, limit_y) + area_under_edge(x2, y2, x1, y1, limit_x, limit_y);
  const double lower = area_under_edge(x2, y2, x3, y3, limit_x, limit_y) + area_under_edge(x3, y3, x0, y0, limit_x, limit_y);
  const double area = upper - lower;
  // What rounding leaves of boxes that only touch is nothing.
  return near & (area > 1e-13 * least) ? (area < least ? area : least) : 0.0;
}

// Intersection over union, seen from above or in space. Boxes of no size share nothing, not even with themselves.
PCT_BOTH float intersection_over_union(const Box& one, const Box& two, bool bird_eye) {
  double shared = shared_area(one, two), sum = base_of(one) + base_of(two);
  if (!bird_eye) {
    const double dz = two.z - one.z, top = dz + two.half_z, bottom = dz - two.half_z;
    const double height =
        (top < one.half_z ? top : one.half_z) - (bottom > -one.half_z ? bottom : -one.half_z);
    shared = shared * (height > 0 ? height : 0.0);
    sum = volume_of(one) + volume_of(two);
  }
  return static_cast<float>(shared > 0 ? shared / (sum - shared) : 0.0);
}

}  // namespace pct
