"""Grid mixers by name. This file imports no torch: names and summaries are there before any mixer is."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
from typing import TYPE_CHECKING, Any, Literal

from pctransformer.errors import did_you_mean

if TYPE_CHECKING:
    from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
    from pctransformer.layers.transformer import EncoderLayer


GridFamily = Literal["attention", "MLP", "convolution", "not learnt"]


@dataclasses.dataclass(frozen=True)
class GridMixerInfo:
    """What is known of a grid mixer without importing it.

    Attributes:
        name: for `create_grid_mixer`.
        module: file in `pctransformer.layers.grid_mixers`.
        layer: its class there.
        family: what tells how much one cell receives from another: attention a comparison of the two, an MLP their rows
            and columns, a convolution the step from one to the other; or nothing that is learnt.
        summary: in a few words.
        source: authors, year.
        fixed: whether weights belong to rows and columns, so that the size of the map must be known.
        shifts: whether every other layer is made with `shifted=True`.
        normed: whether it begins with a norm of its own, so that a block puts none in front.
    """

    name: str
    module: str
    layer: str
    family: GridFamily
    summary: str
    source: str
    fixed: bool = False
    shifts: bool = False
    normed: bool = False


_ATTENTION = "Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762"
_SWIN = "Liu et al., Swin Transformer, 2021, arXiv:2103.14030"
_CSWIN = "Dong et al., CSWin Transformer, 2021, arXiv:2107.00652"
_SMLP = "Tang et al., Sparse MLP for Image Recognition, 2021, arXiv:2109.05422"
_VIP = "Hou et al., Vision Permutator, 2021, arXiv:2106.12368"
_S2 = "Yu et al., S2-MLP: Spatial-Shift MLP Architecture for Vision, 2021, arXiv:2106.07477"
_AS = "Lian et al., AS-MLP: An Axial Shifted MLP Architecture for Vision, 2021, arXiv:2107.08391"
_METAFORMER = "Yu et al., MetaFormer Baselines for Vision, 2022, arXiv:2210.13452"
_DEPTHWISE = "Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2017, arXiv:1610.02357"

_MIXERS = {
    info.name: info
    for info in (
        GridMixerInfo(
            "axial_shift", "spatial_shift", "AxialShift", "not learnt",
            "channels moved along rows, and along columns", _AS,
        ),
        GridMixerInfo(
            "cross_shaped_windows", "window_attention", "CrossShapedWindows", "attention",
            "attention along wide and high stripes", _CSWIN,
        ),
        GridMixerInfo(
            "depthwise_convolution", "convolution", "DepthwiseConvolution", "convolution",
            "3 x 3 cells, each channel by itself", _DEPTHWISE,
        ),
        GridMixerInfo(
            "global_attention", "global_attention", "GlobalAttention", "attention", "all cells to all", _ATTENTION
        ),
        GridMixerInfo("identity", "identity", "Identity", "not learnt", "each cell by itself", _METAFORMER),
        GridMixerInfo(
            "permutator", "permutator", "Permutator", "MLP", "linear layers along rows, columns and channels", _VIP,
            fixed=True,
        ),
        GridMixerInfo(
            "smlp", "sparse_mlp", "SparseMLP", "MLP", "a convolution, then linear layers along rows and columns", _SMLP,
            fixed=True, normed=True,
        ),
        GridMixerInfo(
            "spatial_shift", "spatial_shift", "SpatialShift", "not learnt", "channels moved to the four neighbours",
            _S2,
        ),
        GridMixerInfo(
            "window_attention", "window_attention", "WindowAttention", "attention",
            "attention in windows, every other shifted", _SWIN, shifts=True,
        ),
    )
}  # fmt: skip


def list_grid_mixers(pattern: str = "*") -> list[str]:
    """Names of grid mixers that match a shell pattern, sorted: `list_grid_mixers("*shift*")`."""
    return sorted(fnmatch.filter(_MIXERS, pattern))


def grid_mixer_info(name: str) -> GridMixerInfo:
    """What is known of a grid mixer without importing it.

    Raises:
        ValueError: no such mixer; the message names similar ones.
    """
    if name not in _MIXERS:
        raise ValueError(f"no grid mixer is called {name!r}; {did_you_mean(name, _MIXERS)}")
    return _MIXERS[name]


def create_grid_mixer(
    name: str, *, dim: int, size: tuple[int, int] | None = None, index: int = 0, **options: Any
) -> GridMixer:
    """Make a grid mixer by name: `mixer(x (B, H, W, C)) -> (B, H, W, C)`.

    Args:
        name: one of `list_grid_mixers()`.
        dim: channels C.
        size: (H, W); needed by mixers whose weights belong to rows and columns (`grid_mixer_info(name).fixed`), not
            used by others.
        index: which layer of its stage it is in, counted from 0: windows of odd ones are shifted.
        options: further keyword arguments of the mixer's class, for example `num_heads=4`.

    Raises:
        ValueError: no such mixer, or `size` is needed and missing.
        TypeError: the mixer has no such option.
    """
    info = grid_mixer_info(name)
    if info.fixed:
        if size is None:
            raise ValueError(f"{name} has weights for each row and column of the map: say its size with size=(H, W)")
        options["size"] = size
    if info.shifts:
        options.setdefault("shifted", index % 2 == 1)
    module = importlib.import_module(f"pctransformer.layers.grid_mixers.{info.module}")
    return getattr(module, info.layer)(dim=dim, **options)


def create_grid_block(
    name: str,
    *,
    dim: int,
    size: tuple[int, int] | None = None,
    index: int = 0,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    **options: Any,
) -> EncoderLayer:
    """Make a layer of a network on maps: U = X + mixer(LN(X)), Y = U + MLP(LN(U)).

    A mixer that begins with a norm of its own, as sMLP does, has no LayerNorm in front.

    Args:
        name, dim, size, index, options: see `create_grid_mixer`.
        mlp_ratio: channels between the layers of the perceptron, over dim.
        drop_path: share of maps that each half leaves as they are, in training.

    Raises:
        ValueError, TypeError: as `create_grid_mixer`.
    """
    from torch import nn

    from pctransformer.layers.mlp import MLP
    from pctransformer.layers.residual import Residual
    from pctransformer.layers.transformer import ChannelMixing, EncoderLayer, TokenMixing

    mixer = create_grid_mixer(name, dim=dim, size=size, index=index, **options)
    norm = None if grid_mixer_info(name).normed else nn.LayerNorm(dim)
    return EncoderLayer(
        TokenMixing(mixer, Residual(norm, drop_path=drop_path)),
        ChannelMixing(MLP(dim, round(mlp_ratio * dim)), Residual(nn.LayerNorm(dim), drop_path=drop_path)),
    )
