"""Transformers for point clouds.

Names are loaded when they are first used: `import pctransformer` itself imports nothing, not even torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "BoxBatch": "pctransformer.boxes",
    "BevMap": "pctransformer.voxels",
    "Grid": "pctransformer.voxels",
    "PointBatch": "pctransformer.points",
    "VoxelBatch": "pctransformer.voxels",
    "datasets": "pctransformer.datasets",
    "create_grid_mixer": "pctransformer.layers.grid_mixers",
    "create_mixer": "pctransformer.layers.mixers",
    "create_model": "pctransformer.models",
    "list_grid_mixers": "pctransformer.layers.grid_mixers",
    "list_mixers": "pctransformer.layers.mixers",
    "list_models": "pctransformer.models",
    "load": "pctransformer.predict",
    "ops": "pctransformer.ops",
    "predict": "pctransformer.predict",
    "record_attention": "pctransformer.layers.recording",
}

__all__ = [
    "BevMap",
    "BoxBatch",
    "Grid",
    "PointBatch",
    "VoxelBatch",
    "__version__",
    "create_grid_mixer",
    "create_mixer",
    "create_model",
    "datasets",
    "list_grid_mixers",
    "list_mixers",
    "list_models",
    "load",
    "ops",
    "predict",
    "record_attention",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pctransformer' has no attribute {name!r}")
    module = importlib.import_module(_MODULE_OF[name])
    value = module if module.__name__ == f"pctransformer.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
