// Shape, dtype, device and layout checks, one function per operator, called by its CPU and its CUDA kernel alike.
//
// Users meet the friendlier checks of pctransformer/ops/_checks.py first; these protect memory from whoever calls
// torch.ops.pctransformer directly. What tensors hold (NaN, offsets that decrease) is checked by the CPU kernels only:
// see cpu/values.h. On CUDA reading values would stall the stream, so kernels clamp instead.
#pragma once
#include "common/attention.h"
#include "common/curves.h"
#include "common/deformable.h"
#include "torch_abi.h"

namespace pct {

inline void check_same_device(const Tensor& a, const Tensor& b, const char* op, const char* name) {
  PCT_CHECK(a.device_type() == b.device_type() && a.device_index() == b.device_index(),
            op, ": ", name, " is on another device than the first argument; move it with .to(device)");
}

inline void check_contiguous(const Tensor& tensor, const char* op, const char* name) {
  PCT_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous; call .contiguous()");
}

// (N, 3) float32 coordinates; few operators take float64 too
inline void check_xyz(const Tensor& xyz, const char* op, const char* name, bool float64_too = false) {
  PCT_CHECK(xyz.dim() == 2 && xyz.size(1) == 3, op, ": ", name, " must be packed (N, 3)");
  PCT_CHECK(xyz.dtype() == float32() || (float64_too && xyz.dtype() == float64()), op, ": ", name, " must be float32",
            float64_too ? " or float64" : "");
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
                         const char* op, bool float64_too = false) {
  check_xyz(xyz, op, "xyz", float64_too);
  check_offsets(offsets, xyz, op, "offsets");
  check_xyz(query_xyz, op, "query_xyz", float64_too);
  PCT_CHECK(xyz.dtype() == query_xyz.dtype(), op, ": xyz and query_xyz must have the same dtype");
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

constexpr int64_t kMaxNeighbors = 256;  // also in pctransformer/ops/knn.py

inline void check_knn(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz, const Tensor& query_offsets,
                      int64_t k) {
  check_search(xyz, offsets, query_xyz, query_offsets, "knn", true);
  PCT_CHECK(k >= 1 && k <= kMaxNeighbors, "knn: k must be between 1 and ", kMaxNeighbors, ", got ", k);
}

// Rows are 32-bit numbers inside the kernels of ball_query.
constexpr int64_t kMaxBallQueryPoints = (int64_t(1) << 31) - 1;

inline void check_ball_query(const Tensor& xyz, const Tensor& offsets, const Tensor& query_xyz,
                             const Tensor& query_offsets, double radius, int64_t k) {
  const char* op = "ball_query";
  check_search(xyz, offsets, query_xyz, query_offsets, op);
  PCT_CHECK(xyz.size(0) <= kMaxBallQueryPoints, op, ": at most ", kMaxBallQueryPoints, " points, got ", xyz.size(0));
  PCT_CHECK(radius > 0 && radius - radius == 0, op, ": radius must be above 0 and finite, got ", radius);
  PCT_CHECK(k >= 1, op, ": k must be at least 1, got ", k);
}

// (N, C) values of a floating type
inline void check_rows(const Tensor& values, const char* op, const char* name) {
  PCT_CHECK(values.dim() == 2, op, ": ", name, " must be packed (N, C)");
  const int32_t dtype = values.dtype();
  PCT_CHECK(dtype == float32() || dtype == float64() || dtype == bfloat16() || dtype == float16(),
            op, ": ", name, " must be float32, float64, bfloat16 or float16");
  check_contiguous(values, op, name);
}

inline void check_like(const Tensor& tensor, const Tensor& like, const char* op, const char* name) {
  PCT_CHECK(tensor.dtype() == like.dtype(), op, ": ", name, " has another dtype than the first argument");
  check_same_device(like, tensor, op, name);
}

inline void check_gather(const Tensor& features, const Tensor& index) {
  const char* op = "gather";
  PCT_CHECK(features.dim() == 2, op, ": features must be packed (N, C)");
  check_contiguous(features, op, "features");
  check_index(index, 1, features, op, "index");
}

// weight of each of k neighbours, in the type that sums of features are kept in
inline void check_weight(const Tensor& weight, const Tensor& features, const Tensor& index, const char* op) {
  PCT_CHECK(weight.dim() == 2 && weight.size(0) == index.size(0) && weight.size(1) == index.size(1),
            op, ": weight must have the shape of index");
  PCT_CHECK(weight.dtype() == (features.dtype() == float64() ? float64() : float32()),
            op, ": weight must be float32, or float64 for float64 features");
  check_contiguous(weight, op, "weight");
  check_same_device(features, weight, op, "weight");
}

inline void check_gather_backward(const Tensor& grad, const Tensor& index, const std::optional<Tensor>& weight,
                                  int64_t rows) {
  const char* op = "gather_backward";
  check_rows(grad, op, "grad");
  check_index(index, 2, grad, op, "index");
  PCT_CHECK(index.size(0) == grad.size(0), op, ": index must have one row for each row of grad");
  if (weight) check_weight(*weight, grad, index, op);
  PCT_CHECK(rows >= 0, op, ": the number of rows is negative");
}

inline void check_group(const Tensor& xyz, const Tensor& query_xyz, const Tensor& index,
                        const std::optional<Tensor>& features, double radius) {
  const char* op = "group";
  check_xyz(xyz, op, "xyz");
  check_xyz(query_xyz, op, "query_xyz");
  check_same_device(xyz, query_xyz, op, "query_xyz");
  check_index(index, 2, xyz, op, "index");
  PCT_CHECK(index.size(0) == query_xyz.size(0), op, ": index must have one row for each query");
  if (features) {
    check_rows(*features, op, "features");
    check_same_device(xyz, *features, op, "features");
    PCT_CHECK(features->size(0) == xyz.size(0), op, ": features must have one row for each point");
  }
  PCT_CHECK(radius > 0, op, ": radius must be positive");
}

inline void check_weighted_gather(const Tensor& features, const Tensor& index, const Tensor& weight) {
  const char* op = "weighted_gather";
  check_rows(features, op, "features");
  check_index(index, 2, features, op, "index");
  check_weight(weight, features, index, op);
}

inline void check_gather_dot(const Tensor& grad, const Tensor& features, const Tensor& index) {
  const char* op = "gather_dot";
  check_rows(grad, op, "grad");
  check_rows(features, op, "features");
  check_like(features, grad, op, "features");
  PCT_CHECK(features.size(1) == grad.size(1), op, ": grad and features must have as many columns");
  check_index(index, 2, grad, op, "index");
  PCT_CHECK(index.size(0) == grad.size(0), op, ": index must have one row for each row of grad");
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

// Boxes are 32-bit numbers inside kernels.
constexpr int64_t kMaxBoxes = (int64_t(1) << 31) - 1;

// (M, 7) float32 boxes
inline void check_boxes(const Tensor& boxes, const char* op, const char* name) {
  PCT_CHECK(boxes.dim() == 2 && boxes.size(1) == 7 && boxes.dtype() == float32(),
            op, ": ", name, " must be (M, 7) float32: x, y, z, dx, dy, dz, heading");
  PCT_CHECK(boxes.size(0) <= kMaxBoxes, op, ": at most ", kMaxBoxes, " boxes, got ", boxes.size(0));
  check_contiguous(boxes, op, name);
}

inline void check_points_in_boxes(const Tensor& xyz, const Tensor& offsets, const Tensor& boxes,
                                  const Tensor& box_offsets) {
  const char* op = "points_in_boxes";
  check_xyz(xyz, op, "xyz");
  check_offsets(offsets, xyz, op, "offsets");
  check_boxes(boxes, op, "boxes");
  check_same_device(xyz, boxes, op, "boxes");
  check_offsets(box_offsets, xyz, op, "box_offsets");
  PCT_CHECK(offsets.size(0) == box_offsets.size(0), op, ": offsets describe ", offsets.size(0) - 1,
            " clouds, box_offsets ", box_offsets.size(0) - 1);
}

inline void check_box_iou(const Tensor& boxes, const Tensor& other_boxes, bool aligned) {
  const char* op = "box_iou";
  check_boxes(boxes, op, "boxes");
  check_boxes(other_boxes, op, "other_boxes");
  check_same_device(boxes, other_boxes, op, "other_boxes");
  PCT_CHECK(!aligned || boxes.size(0) == other_boxes.size(0), op, ": aligned boxes must be as many, got ",
            boxes.size(0), " and ", other_boxes.size(0));
}

inline void check_box_nms(const Tensor& boxes, const Tensor& offsets, const Tensor& scores,
                          const std::optional<Tensor>& labels, double threshold, int64_t max_outputs) {
  const char* op = "box_nms";
  check_boxes(boxes, op, "boxes");
  check_offsets(offsets, boxes, op, "offsets");
  PCT_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0) && scores.dtype() == float32(),
            op, ": scores must be (M,) float32, one for each box");
  check_contiguous(scores, op, "scores");
  check_same_device(boxes, scores, op, "scores");
  if (labels) {
    check_index(*labels, 1, boxes, op, "labels");
    PCT_CHECK(labels->size(0) == boxes.size(0), op, ": labels must be (M,), one for each box");
  }
  PCT_CHECK(threshold >= 0 && threshold <= 1, op, ": threshold must be between 0 and 1, got ", threshold);
  PCT_CHECK(max_outputs >= 1, op, ": max_outputs must be at least 1, got ", max_outputs);
}

// Points are 32-bit numbers inside the kernels of voxelize; grids may have as many cells as 63 bits can number.
constexpr int64_t kMaxVoxelizePoints = (int64_t(1) << 31) - 1;
constexpr int64_t kMaxCellsAlongAxis = (int64_t(1) << 31) - 1;

inline void check_voxelize(const Tensor& xyz, const Tensor& offsets, const double (&low)[3], const double (&size)[3],
                           const int64_t (&shape)[3], int64_t max_points, int64_t max_voxels) {
  const char* op = "voxelize";
  check_xyz(xyz, op, "xyz");
  check_offsets(offsets, xyz, op, "offsets");
  PCT_CHECK(xyz.size(0) <= kMaxVoxelizePoints, op, ": at most ", kMaxVoxelizePoints, " points, got ", xyz.size(0));
  int64_t cells_left = ((int64_t(1) << 62)) / (offsets.size(0) > 1 ? offsets.size(0) - 1 : 1);
  for (int axis = 0; axis < 3; ++axis) {
    PCT_CHECK(low[axis] - low[axis] == 0, op, ": the lower corner of the range must be finite");
    PCT_CHECK(size[axis] > 0 && size[axis] - size[axis] == 0, op, ": the size of a voxel must be above 0 and finite");
    PCT_CHECK(shape[axis] >= 1 && shape[axis] <= kMaxCellsAlongAxis, op, ": a grid has 1 to ", kMaxCellsAlongAxis,
              " voxels along an axis, got ", shape[axis]);
    cells_left /= shape[axis];
  }
  PCT_CHECK(cells_left >= 1, op, ": a batch of ", offsets.size(0) - 1, " grids of ", shape[0], " x ", shape[1], " x ",
            shape[2], " voxels has more than 2^62 of them; use larger voxels");
  PCT_CHECK(max_points >= 1, op, ": max_points must be at least 1, got ", max_points);
  PCT_CHECK(max_voxels >= 1, op, ": max_voxels must be at least 1, got ", max_voxels);
}

inline void check_sort_index(const Tensor& index, int64_t size) {
  check_index(index, 1, index, "sort_index", "index");
  PCT_CHECK(size >= 0, "sort_index: size is negative");
}

// runs of `rows` rows, or of an order of these rows
inline void check_runs(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order, int64_t rows,
                       const char* op) {
  check_offsets(offsets, values, op, "offsets");
  PCT_CHECK(rows >= 0, op, ": the number of rows is negative");
  if (!order) return;
  check_index(*order, 1, values, op, "order");
  PCT_CHECK(order->size(0) == rows, op, ": order must hold every row once");
}

inline void check_segments(const char* op, const Tensor& values, const Tensor& offsets,
                           const std::optional<Tensor>& order) {
  check_rows(values, op, "values");
  check_runs(values, offsets, order, values.size(0), op);
}

inline void check_segment_spread(const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& order,
                                 int64_t rows) {
  const char* op = "segment_spread";
  check_rows(values, op, "values");
  check_runs(values, offsets, order, rows, op);
  PCT_CHECK(values.size(0) == offsets.size(0) - 1, op, ": values must have one row for each segment");
}

inline void check_segment_max_backward(const Tensor& grad, const Tensor& argrow, const Tensor& offsets,
                                       const std::optional<Tensor>& order, int64_t rows) {
  const char* op = "segment_max_backward";
  check_rows(grad, op, "grad");
  check_runs(grad, offsets, order, rows, op);
  check_index(argrow, 2, grad, op, "argrow");
  PCT_CHECK(grad.size(0) == offsets.size(0) - 1 && argrow.size(0) == grad.size(0) && argrow.size(1) == grad.size(1),
            op, ": grad and argrow must have one row for each segment");
}

inline void check_segment_softmax_backward(const Tensor& grad, const Tensor& softmax, const Tensor& offsets,
                                           const std::optional<Tensor>& order) {
  const char* op = "segment_softmax_backward";
  check_segments(op, grad, offsets, order);
  check_rows(softmax, op, "softmax");
  check_like(softmax, grad, op, "softmax");
  PCT_CHECK(softmax.size(0) == grad.size(0) && softmax.size(1) == grad.size(1), op, ": softmax must be shaped as grad");
}

// a table of relative position biases with the coordinates of queries and keys, or none of the three
inline void check_bias(const Tensor& query, const Tensor& key, const std::optional<Tensor>& bias_table,
                       const std::optional<Tensor>& query_coordinates, const std::optional<Tensor>& key_coordinates) {
  const char* op = "ragged_attention";
  PCT_CHECK(bias_table.has_value() == query_coordinates.has_value() &&
                bias_table.has_value() == key_coordinates.has_value(),
            op, ": bias_table, query_coordinates and key_coordinates come together or not at all");
  if (!bias_table) return;
  PCT_CHECK(bias_table->dim() == 4 && bias_table->size(0) == query.size(1) && bias_table->dtype() == query.dtype(), op,
            ": bias_table must be (H, 2 w0 - 1, 2 w1 - 1, 2 w2 - 1) with the heads and the dtype of query");
  for (int64_t axis = 1; axis < 4; ++axis)
    PCT_CHECK(bias_table->size(axis) % 2 == 1, op, ": axis ", axis, " of bias_table must be odd, it is ",
              bias_table->size(axis));
  PCT_CHECK(bias_table->numel() <= kMaxBiases, op, ": bias_table holds more than ", kMaxBiases, " numbers");
  check_contiguous(*bias_table, op, "bias_table");
  check_same_device(query, *bias_table, op, "bias_table");
  const auto check_coordinates = [&](const Tensor& coordinates, const Tensor& rows, const char* name) {
    PCT_CHECK(coordinates.dim() == 2 && coordinates.size(0) == rows.size(0) && coordinates.size(1) == 3 &&
                  coordinates.dtype() == int32(),
              op, ": ", name, " must be (N, 3) int32, one row per token");
    check_contiguous(coordinates, op, name);
    check_same_device(query, coordinates, op, name);
  };
  check_coordinates(*query_coordinates, query, "query_coordinates");
  check_coordinates(*key_coordinates, key, "key_coordinates");
}

inline void check_ragged_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const Tensor& query_offsets, const Tensor& key_offsets,
                                   const std::optional<Tensor>& bias_table,
                                   const std::optional<Tensor>& query_coordinates,
                                   const std::optional<Tensor>& key_coordinates) {
  const char* op = "ragged_attention";
  PCT_CHECK(query.dtype() == float32() || query.dtype() == float64(), op, ": query must be float32 or float64");
  const auto check_heads = [&](const Tensor& tensor, const char* name) {
    PCT_CHECK(tensor.dim() == 3 && tensor.size(1) >= 1 && tensor.size(2) >= 1 && tensor.size(2) <= kMaxHeadDim, op, ": ",
              name, " must be packed (N, H, D) with H >= 1 and 1 <= D <= ", kMaxHeadDim);
    PCT_CHECK(tensor.dtype() == query.dtype(), op, ": ", name, " must have the dtype of query");
    check_contiguous(tensor, op, name);
    check_same_device(query, tensor, op, name);
  };
  check_heads(query, "query");
  check_heads(key, "key");
  check_heads(value, "value");
  PCT_CHECK(key.size(1) == query.size(1) && value.size(1) == query.size(1) && key.size(2) == query.size(2) &&
                value.size(0) == key.size(0),
            op, ": query (Nq, H, D), key (Nk, H, D) and value (Nk, H, Dv) do not fit together");
  check_offsets(query_offsets, query, op, "query_offsets");
  check_offsets(key_offsets, query, op, "key_offsets");
  PCT_CHECK(query_offsets.size(0) == key_offsets.size(0), op, ": query_offsets describe ", query_offsets.size(0) - 1,
            " sequences, key_offsets ", key_offsets.size(0) - 1);
  check_bias(query, key, bias_table, query_coordinates, key_coordinates);
}

inline void check_ragged_attention_backward(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output,
    const Tensor& logsumexp, const Tensor& query_offsets, const Tensor& key_offsets,
    const std::optional<Tensor>& bias_table, const std::optional<Tensor>& query_coordinates,
    const std::optional<Tensor>& key_coordinates) {
  const char* op = "ragged_attention_backward";
  check_ragged_attention(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates);
  const auto check_result = [&](const Tensor& tensor, int64_t dims, const char* name) {
    PCT_CHECK(tensor.dim() == dims && tensor.size(0) == query.size(0) && tensor.size(1) == query.size(1) &&
                  (dims == 2 || tensor.size(2) == value.size(2)) && tensor.dtype() == query.dtype(),
              op, ": ", name, " must have the shape and dtype that ragged_attention gives it");
    check_contiguous(tensor, op, name);
    check_same_device(query, tensor, op, name);
  };
  check_result(grad_output, 3, "grad_output");
  check_result(output, 3, "output");
  check_result(logsumexp, 2, "logsumexp");
}

// (height, width) of every level, and where each begins in the packed cells
inline Levels check_levels(const std::vector<int64_t>& level_shapes, int64_t cells) {
  const char* op = "deformable_attention";
  Levels levels{};
  levels.count = static_cast<int64_t>(level_shapes.size()) / 2;
  PCT_CHECK(level_shapes.size() % 2 == 0 && levels.count >= 1 && levels.count <= kMaxLevels, op,
            ": level_shapes must be the height and width of 1 to ", kMaxLevels, " levels, got ", level_shapes.size(),
            " numbers");
  int64_t start = 0;
  for (int64_t l = 0; l < levels.count; ++l) {
    const int64_t height = level_shapes[2 * l], width = level_shapes[2 * l + 1];
    PCT_CHECK(height >= 1 && height <= kMaxLevelSide && width >= 1 && width <= kMaxLevelSide, op, ": level ", l, " is ",
              height, " x ", width, " cells; sides must be between 1 and ", kMaxLevelSide);
    levels.level[l] = {height, width, start};
    PCT_CHECK(height * width <= cells - start, op, ": level_shapes have more cells than value has rows, ", cells);
    start += height * width;
  }
  PCT_CHECK(start == cells, op, ": level_shapes have ", start, " cells, value ", cells, " rows");
  return levels;
}

inline Levels check_deformable_attention(const Tensor& value, const std::vector<int64_t>& level_shapes,
                                         const Tensor& locations, const Tensor& weights) {
  const char* op = "deformable_attention";
  PCT_CHECK(value.dim() == 4 && value.size(2) >= 1 && value.size(3) >= 1, op,
            ": value must be (B, S, H, D) with H >= 1 and D >= 1");
  PCT_CHECK(value.dtype() == float32() || value.dtype() == float64(), op, ": value must be float32 or float64");
  check_contiguous(value, op, "value");
  const Levels levels = check_levels(level_shapes, value.size(1));
  PCT_CHECK(weights.dim() == 5 && weights.size(0) == value.size(0) && weights.size(2) == value.size(2) &&
                weights.size(3) == levels.count,
            op, ": weights must be (B, Q, H, L, P) with the batch and heads of value and ", levels.count, " levels");
  PCT_CHECK(locations.dim() == 6 && locations.size(5) == 2, op, ": locations must be (B, Q, H, L, P, 2)");
  for (int64_t axis = 0; axis < 5; ++axis)
    PCT_CHECK(locations.size(axis) == weights.size(axis), op, ": axis ", axis, " of locations is ",
              locations.size(axis), ", of weights ", weights.size(axis));
  check_like(locations, value, op, "locations");
  check_like(weights, value, op, "weights");
  check_contiguous(locations, op, "locations");
  check_contiguous(weights, op, "weights");
  return levels;
}

inline Levels check_deformable_attention_backward(const Tensor& grad_output, const Tensor& value,
                                                  const std::vector<int64_t>& level_shapes, const Tensor& locations,
                                                  const Tensor& weights) {
  const Levels levels = check_deformable_attention(value, level_shapes, locations, weights);
  const char* op = "deformable_attention_backward";
  PCT_CHECK(grad_output.dim() == 3 && grad_output.size(0) == value.size(0) && grad_output.size(1) == weights.size(1) &&
                grad_output.size(2) == value.size(2) * value.size(3),
            op, ": grad_output must have the shape of the output, (B, Q, H * D)");
  check_like(grad_output, value, op, "grad_output");
  check_contiguous(grad_output, op, "grad_output");
  return levels;
}

}  // namespace pct
