from pctransformer import datasets as datasets
from pctransformer import ops as ops
from pctransformer import predict as predict
from pctransformer.boxes import BoxBatch as BoxBatch
from pctransformer.layers.grid_mixers import create_grid_mixer as create_grid_mixer
from pctransformer.layers.grid_mixers import list_grid_mixers as list_grid_mixers
from pctransformer.layers.mixers import create_mixer as create_mixer
from pctransformer.layers.mixers import list_mixers as list_mixers
from pctransformer.layers.recording import record_attention as record_attention
from pctransformer.models import create_model as create_model
from pctransformer.models import list_models as list_models
from pctransformer.points import PointBatch as PointBatch
from pctransformer.predict import load as load
from pctransformer.voxels import BevMap as BevMap
from pctransformer.voxels import Grid as Grid
from pctransformer.voxels import VoxelBatch as VoxelBatch

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

__version__: str
