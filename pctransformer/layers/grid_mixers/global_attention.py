"""Every cell attends to every other: the mixer that the others are measured against."""

from __future__ import annotations

from torch import Tensor

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.grid_mixers.grid_mixer import GridMixer


class GlobalAttention(GridMixer):
    """`MultiHeadAttention` of all cells of a map to each other.

    It knows nothing of where cells are: that is for a position code, added in front. torch's fused kernels compute it,
    so memory grows with the number of cells; time grows with its square.

    Args:
        dim: channels.
        num_heads: divides dim; None: one for each 64 channels, as in ViT, but one at least.
    """

    def __init__(self, *, dim: int, num_heads: int | None = None) -> None:
        super().__init__(dim)
        self.attention = MultiHeadAttention(dim, num_heads or max(1, dim // 64))

    def mix(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x.flatten(1, 2))
        return attended.view(x.shape)
