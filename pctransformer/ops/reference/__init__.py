"""Every operator again in plain torch: slow and obvious.

Tests compare the compiled operators with these, readers learn from them what an operator does, and they take over where
nothing was compiled. Their signatures are the schemas of `csrc/library.cpp`. One formula for distances, without fused
multiply-adds, so that CPU, CUDA and reference pick the same points.
"""

from collections.abc import Callable
from typing import Any

from pctransformer.ops.reference.attention import ragged_attention, ragged_attention_backward
from pctransformer.ops.reference.ball_query import ball_query
from pctransformer.ops.reference.curves import hilbert_code, morton_code
from pctransformer.ops.reference.deformable import deformable_attention, deformable_attention_backward
from pctransformer.ops.reference.grouping import gather, gather_backward, gather_dot, group, weighted_gather
from pctransformer.ops.reference.knn import knn
from pctransformer.ops.reference.overlap import box_iou, box_nms, points_in_boxes
from pctransformer.ops.reference.sampling import farthest_point_sample
from pctransformer.ops.reference.segments import (
    segment_max,
    segment_max_backward,
    segment_softmax,
    segment_softmax_backward,
    segment_spread,
    segment_sum,
    sort_index,
)
from pctransformer.ops.reference.voxels import voxelize

OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        farthest_point_sample,
        knn,
        ball_query,
        gather,
        gather_backward,
        gather_dot,
        group,
        weighted_gather,
        morton_code,
        hilbert_code,
        points_in_boxes,
        box_iou,
        box_nms,
        voxelize,
        sort_index,
        segment_sum,
        segment_spread,
        segment_max,
        segment_max_backward,
        segment_softmax,
        segment_softmax_backward,
        ragged_attention,
        ragged_attention_backward,
        deformable_attention,
        deformable_attention_backward,
    )
}
