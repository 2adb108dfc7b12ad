"""Operators on packed point clouds, in C++ and CUDA: tensors in, tensors out.

Clouds are packed: rows of all clouds one after another, with `offsets (B + 1,)` int64, so that cloud b is rows
`offsets[b]:offsets[b + 1]`. Arguments run: data, its offsets, queries, their offsets, scalars. An index is a row of the
packed data; -1 means "none". Empty clouds and clouds of one point are ordinary.
"""

from pctransformer.ops.attention import ragged_attention
from pctransformer.ops.ball_query import ball_query
from pctransformer.ops.curves import hilbert_code, morton_code
from pctransformer.ops.deformable import deformable_attention
from pctransformer.ops.grouping import gather, group, interpolate
from pctransformer.ops.knn import knn
from pctransformer.ops.overlap import box_iou, box_nms, points_in_boxes
from pctransformer.ops.sampling import farthest_point_sample
from pctransformer.ops.segments import scatter, scatter_softmax, segment, segment_softmax
from pctransformer.ops.voxels import voxelize

__all__ = [
    "ball_query",
    "box_iou",
    "box_nms",
    "deformable_attention",
    "farthest_point_sample",
    "gather",
    "group",
    "hilbert_code",
    "interpolate",
    "knn",
    "morton_code",
    "points_in_boxes",
    "ragged_attention",
    "scatter",
    "scatter_softmax",
    "segment",
    "segment_softmax",
    "voxelize",
]
