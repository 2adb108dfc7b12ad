"""A depth-wise convolution: the least that a map can be mixed with, and what others put in front of themselves."""

from __future__ import annotations

from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst, GridMixer


class DepthwiseConvolution(GridMixer):
    """Every cell receives a weighted sum of the 3 x 3 cells around it, each channel by itself; zeros beyond the map.

    The local part of Chollet, Xception, 2017, arXiv:1610.02357, as token mixer: a baseline for all that looks further.

    Args:
        dim: channels.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)
        self.convolution = ChannelsFirst(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def mix(self, x: Tensor) -> Tensor:
        return self.convolution(x)
