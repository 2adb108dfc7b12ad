"""Names of weights that all detectors of OpenPCDet share (github.com/open-mmlab/OpenPCDet)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor


def renamed_bev_and_head(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """All weights, those of the network on the map and of the head by their names here, without the count of steps."""
    for name, value in weights.items():
        if name == "global_step":
            continue
        # their blocks begin with a layer of padding, which here is the convolution's own
        name = re.sub(r"^backbone_2d\.blocks\.(\d+)\.(\d+)\.", _behind_padding, name)
        name = re.sub(r"^backbone_2d\.deblocks\.", "backbone.ups.", name)
        name = re.sub(r"^dense_head\.", "head.", name)
        yield name, value


def _behind_padding(found: re.Match[str]) -> str:
    return f"backbone.blocks.{found[1]}.{int(found[2]) - 1}."
