from pctransformer import ops as ops
from pctransformer.points import PointBatch as PointBatch

__all__ = ["PointBatch", "__version__", "ops"]

__version__: str
