"""The anchor head: what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import torch

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor import AnchorHead
from pctransformer.ops import box_iou
from pctransformer.voxels import BevMap, Grid

RANGE = (0.0, -8.0, -3.0, 16.0, 8.0, 1.0)
GRID = Grid.from_range(RANGE, (0.5, 0.5, 4.0))
FEW = BoxBatch.from_list(
    [
        torch.tensor(
            [
                [4.0, 3, -1, 3.9, 1.6, 1.5, 0.3],
                [10.3, -4.2, -0.9, 4.2, 1.7, 1.6, -2.0],
                [12, 5, 0.3, 0.8, 0.6, 1.7, 3.0],
            ]
        ),
        torch.zeros(0, 7),
        torch.tensor([[3.1, -1, 0.2, 1.7, 0.6, 1.8, 1.5]]),
    ],
    [torch.tensor([0, 0, 1]), torch.zeros(0).long(), torch.tensor([2])],
)


def test_a_free_map_learns_a_handful_of_boxes():
    torch.manual_seed(0)
    head = AnchorHead(24, range=RANGE)
    features = torch.randn(3, 24, 32, 32, requires_grad=True)
    optimizer = torch.optim.Adam([features, *head.parameters()], lr=0.05)
    for _ in range(120):
        loss = head.loss(head(BevMap(features, GRID)), FEW)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = head.predict(head(BevMap(features, GRID)), score_threshold=0.5)
    assert found.lengths.tolist() == [3, 0, 1]
    for cloud, true in zip(found.split(), FEW.split()):
        overlap, index = box_iou(true.boxes, cloud.boxes).max(1) if len(true.boxes) else (torch.ones(0), [])
        assert (overlap > 0.9).all()
        assert cloud.labels[index].tolist() == true.labels.tolist()
        turned = cloud.boxes[index, 6] - true.boxes[:, 6]
        assert (turned.cos() > 0.99).all()
