"""Every model in a size for tests, and clouds to put in."""

from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.heads.anchor import AnchorOutput
from pctransformer.heads.column_reconstruction import ColumnReconstruction
from pctransformer.heads.query import QueryOutput
from pctransformer.heads.reconstruction import Reconstruction
from pctransformer.models import create_model, model_info
from pctransformer.models.registry import pretrained_model

_PATCHES = {"dim": 24, "depth": 2, "num_heads": 3, "num_patches": 10, "patch_size": 6, "widths": (8, 16)}
ANCHORS = [(2.0, 1.0, 1.0, -1.0, 0.6, 0.45)] * 5
_RANGE = (0, -4, -3, 8, 4, 1)
_POINTS = {"point_range": _RANGE, "voxel_size": (0.5, 0.5, 0.25), "num_tokens": 64, "num_queries": 12}
_MAP = {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.5, 0.5)}
_SERIALIZED = {"dims": (16, 32, 48), "depths": (1, 2, 1), "patch_size": 16, "cell_size": 0.1}
_WINDOWS = {"anchors": ANCHORS, "point_range": _RANGE, "dim": 16, "num_heads": 2}
_MASKED = {"point_range": _RANGE}

SIZES: dict[str, dict[str, Any]] = {
    "pct": {"dim": 32, "width": 64, "tokens": (32, 16), "k": 8},
    "npct": {"dim": 16, "width": 32},
    "spct": {"dim": 16, "width": 32},
    "patch_mixer": {"dim": 32, "depth": 2, "num_patches": 16, "patch_size": 8, "widths": (8, 16)},
    "point_vit": _PATCHES,
    "point_mae": _PATCHES,
    "point_mae_seg": _PATCHES | {"carried": (16, 12), "hidden": (16, 8)},
    "point_mae_pretraining": _PATCHES | {"decoder_depth": 1},
    "point_gpt": _PATCHES,
    "point_gpt_pretraining": _PATCHES | {"generator_depth": 1},
    "point_transformer_v3": _SERIALIZED,
    "point_transformer_v3_seg": _SERIALIZED | {"up_dims": (16, 32), "up_depths": (1, 2)},
    "point_transformer_v3_small_seg": {"patch_size": 16, "cell_size": 0.1},
    "pointpillars": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.5, 0.5), "width": 8},
    "pointpillars_small": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.5, 0.5)},
    "plain_transformer": _MAP
    | {"dim": 16, "depth": 4, "num_heads": 2, "window": 2, "patch": 2, "drop_path": 0.0, "width": 8},
    "plain_transformer_small": _MAP,
    "smlp_detector": _MAP | {"depths": (1, 1), "width": 8, "drop_path": 0.0},
    "smlp_detector_small": _MAP,
    "second": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.25, 0.25, 0.1)},
    "second_small": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.25, 0.25, 0.2)},
    "voxel_transformer": _WINDOWS | {"voxel_size": (1, 1, 0.125)},
    "voxel_transformer_cls": {"voxel_size": 0.25, "dims": (16, 32), "depths": (2, 1)},
    "voxel_transformer_small": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.5, 0.5, 0.5)},
    "pillar_transformer": _WINDOWS | {"voxel_size": (1, 1)},
    "deformable_detector": {"point_range": _RANGE, "voxel_size": (0.5, 0.5), "width": 8, "dim": 16, "num_heads": 2}
    | {"layers": (1, 1), "depth": 1, "decoder_depth": 2, "num_queries": 12},
    "deformable_detector_small": {"point_range": _RANGE, "voxel_size": (0.5, 0.5)},
    "point_detr": _POINTS | {"widths": (16, 24), "depth": 1, "decoder_depth": 2, "num_heads": 2},
    "point_detr_small": _POINTS,
    "pillar_transformer_small": {"anchors": ANCHORS, "point_range": _RANGE, "voxel_size": (0.5, 0.5)},
    "pillar_transformer_pretraining": _MASKED | {"voxel_size": (0.5, 0.5), "dim": 16, "num_heads": 2},
    "pillar_transformer_small_pretraining": _MASKED | {"voxel_size": (0.5, 0.5)},
    "voxel_transformer_pretraining": _MASKED | {"voxel_size": (0.5, 0.5, 0.125), "dim": 16, "num_heads": 2},
    "voxel_transformer_small_pretraining": _MASKED | {"voxel_size": (0.5, 0.5, 0.5)},
    "pointpillars_pretraining": _MASKED | {"voxel_size": (0.5, 0.5), "width": 8},
    "pointpillars_small_pretraining": _MASKED | {"voxel_size": (0.5, 0.5)},
}
"""Options by which models are smaller than published; the others are quick as they are."""


def small(name: str, num_classes: int = 5, **options: Any) -> Any:
    """A model with few weights, the same each time."""
    torch.manual_seed(0)
    task = model_info(name).task
    channels = 6 if name == "point_transformer" else {"classification": 3}.get(pretrained_model(name).task, 4)
    made = {"in_channels": channels, **SIZES.get(name, {}), **options}
    return create_model(name, num_classes=None if task == "pretraining" else num_classes, **made)


def shapes(model: nn.Module, count: int = 3, points: int = 64) -> Tensor:
    """(count, points, 3 + C) random clouds that a model takes, the same each time."""
    return torch.randn(count, points, model.in_channels, generator=torch.Generator().manual_seed(1))


def output(model: nn.Module, points: Any) -> Tensor:
    """Logits; of a detector all that anchors or queries say; or of pretraining, which hides the same patches each time,
    what is made up of them."""
    torch.manual_seed(0)
    out = model(points)
    if isinstance(out, AnchorOutput):
        return torch.cat([out.class_logits, out.box_codes, out.direction_logits], 2)
    if isinstance(out, ColumnReconstruction):
        return torch.cat([part.flatten() for part in (out.occupied_logits, out.predicted, out.log_counts)])
    if isinstance(out, QueryOutput):
        return torch.cat(out[:3], 3)
    return out.predicted if isinstance(out, Reconstruction) else out
