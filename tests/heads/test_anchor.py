"""The anchor head: what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import torch

from pctransformer.heads.anchor import AnchorHead
from pctransformer.voxels import BevMap
from tests.heads.boxes import FEW, FEW_GRID, FEW_RANGE, assert_found, fit


def test_a_free_map_learns_a_handful_of_boxes():
    torch.manual_seed(0)
    head = AnchorHead(24, range=FEW_RANGE)
    features = fit(head, 24, steps=120, lr=0.05)
    assert_found(head.predict(head(BevMap(features, FEW_GRID)), score_threshold=0.5), FEW)
