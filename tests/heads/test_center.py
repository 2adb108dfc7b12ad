"""The centre head: what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import torch

from pctransformer.heads.center import CenterHead
from pctransformer.voxels import BevMap
from tests.heads.boxes import FEW, FEW_GRID, assert_found, fit


def test_a_free_map_learns_a_handful_of_boxes():
    torch.manual_seed(0)
    head = CenterHead(8, num_classes=3, channels=16)
    features = fit(head, 8, steps=120, lr=0.02)
    assert_found(head.predict(head(BevMap(features, FEW_GRID)), score_threshold=0.5), FEW)
