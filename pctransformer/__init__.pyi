from pctransformer import datasets as datasets
from pctransformer import ops as ops
from pctransformer.models import create_model as create_model
from pctransformer.models import list_models as list_models
from pctransformer.points import PointBatch as PointBatch

__all__ = ["PointBatch", "__version__", "create_model", "datasets", "list_models", "ops"]

__version__: str
