// Mathematics shared by the CPU and CUDA kernels. One formula, one order of operations: with contraction off on both
// sides, and in the plain-torch reference, a distance has the same 32 bits everywhere, and so every index is the same.
#pragma once

#include <cfloat>
#include <cmath>

#if defined(__CUDACC__)
#define PCT_BOTH __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define PCT_BOTH inline __attribute__((always_inline))
#else
#define PCT_BOTH inline
#endif

namespace pct {

template <class T>
PCT_BOTH T squared_norm(T x, T y, T z) {
  return (x * x + y * y) + z * z;
}

// Farthest point sampling with skip_near_origin: points with |p|^2 <= 1e-3 are never picked. The public kernels compare
// a float with the double 1e-3; no float lies between them, so "< 1e-3f" says the same.
template <class T>
PCT_BOTH bool near_origin(T x, T y, T z) {
  return squared_norm(x, y, z) < T(1e-3f);
}

// Ball query: the largest squared distance inside the ball, so that both kinds of ball are one comparison, d <= limit.
// The square is taken in float. A distance that overflows is in no ball.
inline float ball_limit(double radius, bool closed) {
  const float r = static_cast<float>(radius), squared = r * r;
  const float limit = closed ? squared : std::nextafter(squared, -INFINITY);
  return limit < FLT_MAX ? limit : FLT_MAX;
}

// A bound on how far along one axis a point inside such a ball can lie from its centre, square and difference both rounded.
// Below 1e-22 squares vanish, and a closed ball holds all points around it.
inline float ball_reach(double radius) {
  const float reach = static_cast<float>(radius) * 1.000001f;
  return reach > 1e-22f ? reach : 1e-22f;
}

// From where to where along one axis a ball around x can reach, whatever rounding did (one rounding errs by 2^-24).
PCT_BOTH float ball_low(float x, float reach) { return (x - reach) - (fabsf(x) + reach) * 2.4e-7f; }
PCT_BOTH float ball_high(float x, float reach) { return (x + reach) + (fabsf(x) + reach) * 2.4e-7f; }

}  // namespace pct
