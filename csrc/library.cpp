// All operators of the package and their schemas: the table of contents of csrc/.
//
// A schema's arguments run: data, its offsets, queries, their offsets, scalars. Clouds are packed: cloud b is rows
// offsets[b] to offsets[b + 1]. An index is a row of the packed data; -1 is "none". The public functions, with their
// contracts, are in pctransformer/ops/; the same functions in plain torch in pctransformer/ops/reference/.
#include "torch_abi.h"

static const pct::Registration schemas([](pct::Library& library) {
  // sampling
  library.define(
      "farthest_point_sample(Tensor xyz, Tensor offsets, Tensor sample_offsets, Tensor start, SymInt total, "
      "bool skip_near_origin) -> Tensor");

  // neighbours
  library.define("knn(Tensor xyz, Tensor offsets, Tensor query_xyz, Tensor query_offsets, SymInt k) -> (Tensor, Tensor)");
  library.define(
      "ball_query(Tensor xyz, Tensor offsets, Tensor query_xyz, Tensor query_offsets, float radius, SymInt k, "
      "bool closed, bool pad_first) -> Tensor");

  // grouping
  library.define("gather(Tensor features, Tensor index) -> Tensor");
  library.define("gather_backward(Tensor grad, Tensor index, Tensor? weight, SymInt rows) -> Tensor");
  library.define("gather_dot(Tensor grad, Tensor features, Tensor index) -> Tensor");
  library.define("group(Tensor xyz, Tensor query_xyz, Tensor index, Tensor? features, float radius) -> Tensor");
  library.define("weighted_gather(Tensor features, Tensor index, Tensor weight) -> Tensor");

  // curves
  library.define("morton_code(Tensor coordinates, SymInt bits) -> Tensor");
  library.define("hilbert_code(Tensor coordinates, SymInt bits) -> Tensor");

  // boxes
  library.define("points_in_boxes(Tensor xyz, Tensor offsets, Tensor boxes, Tensor box_offsets) -> Tensor");
  library.define("box_iou(Tensor boxes, Tensor other_boxes, bool aligned, bool bird_eye) -> Tensor");
  library.define(
      "box_nms(Tensor boxes, Tensor offsets, Tensor scores, Tensor? labels, float threshold, SymInt max_outputs, "
      "bool bird_eye) -> (Tensor, Tensor)");

  // voxels
  library.define(
      "voxelize(Tensor xyz, Tensor offsets, float low_x, float low_y, float low_z, float size_x, float size_y, "
      "float size_z, SymInt nx, SymInt ny, SymInt nz, SymInt max_points, SymInt max_voxels) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  // segments
  library.define("sort_index(Tensor index, SymInt size) -> (Tensor, Tensor)");
  library.define("segment_sum(Tensor values, Tensor offsets, Tensor? order, bool mean) -> Tensor");
  library.define("segment_spread(Tensor values, Tensor offsets, Tensor? order, SymInt rows, bool mean) -> Tensor");
  library.define("segment_max(Tensor values, Tensor offsets, Tensor? order) -> (Tensor, Tensor)");
  library.define(
      "segment_max_backward(Tensor grad, Tensor argrow, Tensor offsets, Tensor? order, SymInt rows) -> Tensor");
  library.define("segment_softmax(Tensor values, Tensor offsets, Tensor? order) -> Tensor");
  library.define(
      "segment_softmax_backward(Tensor grad, Tensor softmax, Tensor offsets, Tensor? order) -> Tensor");

  // attention
  library.define(
      "ragged_attention(Tensor query, Tensor key, Tensor value, Tensor query_offsets, Tensor key_offsets, "
      "Tensor? bias_table, Tensor? query_coordinates, Tensor? key_coordinates, float scale, bool causal) "
      "-> (Tensor, Tensor)");
  library.define(
      "ragged_attention_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor output, "
      "Tensor logsumexp, Tensor query_offsets, Tensor key_offsets, Tensor? bias_table, Tensor? query_coordinates, "
      "Tensor? key_coordinates, float scale, bool causal) -> (Tensor, Tensor, Tensor, Tensor)");

  // deformable attention
  library.define(
      "deformable_attention(Tensor value, SymInt[] level_shapes, Tensor locations, Tensor weights) -> Tensor");
  library.define(
      "deformable_attention_backward(Tensor grad_output, Tensor value, SymInt[] level_shapes, Tensor locations, "
      "Tensor weights) -> (Tensor, Tensor, Tensor)");
});
