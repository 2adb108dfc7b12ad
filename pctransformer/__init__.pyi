from pctransformer import datasets as datasets
from pctransformer import ops as ops
from pctransformer.points import PointBatch as PointBatch

__all__ = ["PointBatch", "__version__", "datasets", "ops"]

__version__: str
