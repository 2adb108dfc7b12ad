"""Which query should find which object: the matching that costs least, one to one.

A head that predicts a set has nothing by which an object belongs to one query rather than another. So each object gets
the query that, all objects considered, suits it best as things are, and all other queries should find nothing.

Source: Carion et al., End-to-end object detection with transformers (DETR), 2020, section 3.1; Kuhn, The Hungarian
method for the assignment problem, 1955.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.box_coding import decode_around, encode_around
from pctransformer.heads.losses import full_precision, turned_giou
from pctransformer.heads.selection import diverged

CLASS_WEIGHT, BOX_WEIGHT, OVERLAP_WEIGHT = 1.0, 0.5, 1.0
"""Of the parts of the cost, and of those of the loss that it stands for."""


class Costs(NamedTuple):
    """What it would cost to match boxes with queries of their clouds: three parts, to be added up.

    Attributes:
        class_: (M, L, N) less the more likely query n of layer l finds the class of box m.
        box: (M, L, N) how far their codes are apart.
        overlap: (M, L, N) less the more they overlap.
    """

    class_: Tensor
    box: Tensor
    overlap: Tensor


@torch.no_grad()
def matching_costs(class_logits: Tensor, box_codes: Tensor, references: Tensor, boxes: BoxBatch, real: Tensor) -> Costs:
    """The cost of each box with each query of its cloud, in each layer by itself.

        - p(class)                          p the softmax over classes and "no object"
        0.5 sum |code - code of the box|    centres in metres, logarithms of sizes, the axis; not the direction
        - GIoU                              see `turned_giou`

    The class counts by its probability, not its logarithm: that keeps it as large as the overlap (DETR, section 3.1).
    The overlap is that of boxes turned alike. It is there since half a metre matters more to a pedestrian than to a
    car, which the distance of codes does not know; of headings the codes know enough.

    Args:
        class_logits: (B, L, N, K + 1) of N queries in L layers, the last for "no object".
        box_codes: (B, L, N, 9), see `encode_around`; the last is a logit.
        references: (B, L, N, 3) the points that codes are relative to, metres.
        boxes: of the B clouds, M in all.
        real: (M,) bool, see `real_objects`; what is computed for others means nothing.
    """
    cloud = boxes.batch_index
    label = torch.where(real, boxes.labels, 0)
    rows = torch.where(real[:, None], boxes.boxes, 1)[:, None, None]  # (M, 1, 1, 7)
    _, layers, queries, _ = class_logits.shape
    logits = full_precision(class_logits.index_select(0, cloud))  # (M, L, N, K + 1)
    likely = logits.softmax(-1).gather(3, label[:, None, None, None].expand(-1, layers, queries, 1))[..., 0]
    codes = full_precision(box_codes.index_select(0, cloud))
    points = references.index_select(0, cloud)
    return Costs(
        -CLASS_WEIGHT * likely,
        BOX_WEIGHT * (codes - encode_around(rows, points))[..., :8].abs().sum(-1),
        -OVERLAP_WEIGHT * turned_giou(decode_around(codes, points), rows),
    )


def match(costs: Costs, boxes: BoxBatch, real: Tensor) -> Tensor:
    """Match boxes with queries so that the sum of costs is least, in each cloud and layer by itself.

    Every box gets a query of its own, and no query two boxes. In a cloud with more boxes than queries every query gets
    a box: those that together cost least are found, and the others have no effect. The same costs give the same
    matches. The work is done on the host, so this waits for the device: costs of the whole batch and of all layers go
    there at once.

    Args:
        costs: see `matching_costs`.
        boxes: their boxes.
        real: (M,) bool which of them are to be matched.

    Returns:
        (M, L) int64 query of each box in each layer, a number within its cloud; -1 for none.

    Raises:
        FloatingPointError: a cost is NaN or infinite.
    """
    total = costs.class_ + costs.box + costs.overlap
    count, layers, queries = total.shape
    told = torch.cat([real[:, None], boxes.batch_index[:, None], total.flatten(1)], 1)
    table = told.cpu().numpy()  # (M, 2 + L N): the one transfer
    rows = np.flatnonzero(table[:, 0])
    clouds, cost = table[rows, 1].astype(np.int64), table[rows, 2:].reshape(len(rows), layers, queries)
    if not np.isfinite(cost).all():
        _refuse(costs, clouds, rows, cost)
    found = np.full((count, layers), -1)
    for cloud in np.unique(clouds):
        own = clouds == cloud
        for layer in range(layers):
            box, query = linear_sum_assignment(cost[own, layer])
            found[rows[own][box], layer] = query
    return torch.from_numpy(found).to(boxes.device)


def _refuse(costs: Costs, clouds: np.ndarray, rows: np.ndarray, cost: np.ndarray) -> None:
    """Say which number is none, and what it was made of."""
    place, layer, query = np.argwhere(~np.isfinite(cost))[0]
    row = int(rows[place])
    names = {"class_": "the class logits", "box": "the code of its box", "overlap": "the size of its box"}
    bad = [names[name] for name, part in costs._asdict().items() if not part[row, layer, query].isfinite()]
    raise FloatingPointError(
        diverged(
            f"queries cannot be matched with objects, {int((~np.isfinite(cost)).sum())} of {cost.size} costs are NaN or"
            f" infinite, first that of query {query} of cloud {clouds[place]} in layer {layer} with box {row}, by"
            f" {' and '.join(bad) or 'their sum'}"
        )
    )
