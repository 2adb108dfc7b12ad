// Shape, dtype, device and layout checks, one function per operator, called by its CPU and its CUDA kernel alike.
//
// Users meet the friendlier checks of pctransformer/ops/_checks.py first; these protect memory from whoever calls
// torch.ops.pctransformer directly. What tensors hold (NaN, offsets that decrease) is checked by the CPU kernels only:
// see cpu/values.h. On CUDA reading values would stall the stream, so kernels clamp instead.
#pragma once
#include "common/curves.h"
#include "torch_abi.h"

namespace pct {

inline void check_same_device(const Tensor& a, const Tensor& b, const char* op, const char* name) {
  PCT_CHECK(a.device_type() == b.device_type() && a.device_index() == b.device_index(),
            op, ": ", name, " is on another device than the first argument; move it with .to(device)");
}

inline void check_contiguous(const Tensor& tensor, const char* op, const char* name) {
  PCT_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous; call .contiguous()");
}

// (N, 3) float32 coordinates
inline void check_xyz(const Tensor& xyz, const char* op, const char* name) {
  PCT_CHECK(xyz.dim() == 2 && xyz.size(1) == 3, op, ": ", name, " must be packed (N, 3)");
  PCT_CHECK(xyz.dtype() == float32(), op, ": ", name, " must be float32");
  check_contiguous(xyz, op, name);
}

// (B + 1,) int64 row offsets
inline void check_offsets(const Tensor& offsets, const Tensor& like, const char* op, const char* name) {
  PCT_CHECK(offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.dtype() == int64(),
            op, ": ", name, " must be (B + 1,) int64 with a leading 0");
  check_contiguous(offsets, op, name);
  check_same_device(like, offsets, op, name);
}

inline void check_index(const Tensor& index, int64_t dims, const Tensor& like, const char* op, const char* name) {
  PCT_CHECK(index.dim() == dims && index.dtype() == int64(), op, ": ", name, " must be int64 with ", dims, " dimensions");
  check_contiguous(index, op, name);
  check_same_device(like, index, op, name);
}

// clouds, and queries into the same number of clouds
inline void check_search(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz, const Tensor& query_offsets,
                         const char* op) {
  check_xyz(xyz, op, "xyz");
  check_offsets(offsets, xyz, op, "offsets");
  check_xyz(query_xyz, op, "query_xyz");
  check_same_device(xyz, query_xyz, op, "query_xyz");
  check_offsets(query_offsets, xyz, op, "query_offsets");
  PCT_CHECK(offsets.size(0) == query_offsets.size(0), op, ": offsets describe ", offsets.size(0) - 1,
            " clouds, query_offsets ", query_offsets.size(0) - 1);
}

inline void check_farthest_point_sample(const Tensor& xyz, const Tensor& offsets, const Tensor& sample_offsets,
                                        const Tensor& start, int64_t total) {
  const char* op = "farthest_point_sample";
  check_xyz(xyz, op, "xyz");
  check_offsets(offsets, xyz, op, "offsets");
  check_offsets(sample_offsets, xyz, op, "sample_offsets");
  check_index(start, 1, xyz, op, "start");
  PCT_CHECK(sample_offsets.size(0) == offsets.size(0), op, ": offsets describe ", offsets.size(0) - 1,
            " clouds, sample_offsets ", sample_offsets.size(0) - 1);
  PCT_CHECK(start.size(0) == offsets.size(0) - 1, op, ": start must hold one index per cloud");
  PCT_CHECK(total >= 0, op, ": the number of samples is negative");
}

inline void check_curve(const Tensor& coordinates, int64_t bits, const char* op) {
  PCT_CHECK(coordinates.dim() == 2 && coordinates.size(1) == 3, op, ": coordinates must be (N, 3)");
  PCT_CHECK(coordinates.dtype() == int32() || coordinates.dtype() == int64(),
            op, ": coordinates must be int32 or int64");
  check_contiguous(coordinates, op, "coordinates");
  PCT_CHECK(bits >= 1 && bits <= kMaxCurveBits, op, ": bits must be between 1 and ", kMaxCurveBits, ", got ", bits);
}

inline void check_morton_code(const Tensor& coordinates, int64_t bits) { check_curve(coordinates, bits, "morton_code"); }

inline void check_hilbert_code(const Tensor& coordinates, int64_t bits) { check_curve(coordinates, bits, "hilbert_code"); }

}  // namespace pct
