"""A plain transformer on a map seen from above. Li, Mao, Girshick, He, Exploring Plain Vision Transformer Backbones for
Object Detection (ViTDet), 2022, arXiv:2203.16527.

One size of map from the first layer to the last. Most layers attend in windows that never move; what the windows know
spreads at four evenly placed layers, which either attend to the whole map or are followed by convolutions.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.grid_view.mixer_pyramid import patch_grid, patches
from pctransformer.layers.grid_mixers import create_grid_block
from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst
from pctransformer.layers.position import sinusoidal_code
from pctransformer.layers.recording import RecordedLayer
from pctransformer.voxels import BevMap, Grid

Propagation = Literal["attention", "convolution"]

PROPAGATIONS = 4


class PropagationConvolution(nn.Module):
    """x + LN(1x1(GELU(LN(3x3(GELU(LN(1x1(x))))))), with half of the channels in between.

    The authors begin it as the identity, in order not to disturb pretrained layers; here nothing is pretrained, and it
    does not.

    Args:
        dim: channels, even.

    Source: ViTDet, section 3, convolutional propagation; bottleneck after He et al., Deep residual learning, 2016.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.layers = nn.Sequential(
            nn.Linear(dim, half, bias=False),
            nn.LayerNorm(half),
            nn.GELU(),
            ChannelsFirst(nn.Conv2d(half, half, 3, padding=1, bias=False)),
            nn.LayerNorm(half),
            nn.GELU(),
            nn.Linear(half, dim, bias=False),
            nn.LayerNorm(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y: Tensor = self.layers(x)
        return x + y


class PlainTransformer(RecordedLayer):
    """Patches of a map as tokens, fixed sines and cosines of where they are, layers of one width, LayerNorm.

    Windows do not move, and know where their cells are by Swin's bias; a layer with the whole map in view knows by the
    code alone. Sides that windows do not fill are filled up with cells that nobody sees.

    Args:
        in_channels: of the map.
        patch: cells along each side of a token.
        dim: channels of tokens, a multiple of 4.
        depth: layers, a multiple of 4.
        num_heads: of each layer.
        window: tokens along each side of a window.
        propagation: what spreads beyond windows at the end of each quarter of the layers: "attention" to all tokens in
            place of windows, or "convolution", `PropagationConvolution` behind windows.
        mlp_ratio: channels between the layers of perceptrons, over dim.
        drop_path: share of maps that the last layer leaves as they are, in training; the first leaves none.

    Attributes:
        out_channels: dim.

    Raises:
        ValueError: dim or depth is not a multiple of 4, or there is no such propagation.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        patch: int,
        dim: int,
        depth: int,
        num_heads: int,
        window: int,
        propagation: Propagation = "attention",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or depth % PROPAGATIONS:
            raise ValueError(
                f"depth must be a multiple of {PROPAGATIONS}, of whose parts the last one spreads: {depth}"
            )
        if dim % 4:
            raise ValueError(f"dim must be a multiple of 4, a sine and a cosine for rows and for columns, got {dim}")
        if propagation not in ("attention", "convolution"):
            raise ValueError(f'propagation must be "attention" or "convolution", got {propagation!r}')
        self.patch, self.out_channels = patch, dim
        self.embedding = patches(in_channels, dim, patch, bias=True)
        quarter = depth // PROPAGATIONS
        layers: list[nn.Module] = []
        for i in range(depth):
            layer = partial(
                create_grid_block,
                dim=dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path * i / (depth - 1),
            )
            spreads = i % quarter == quarter - 1
            if spreads and propagation == "attention":
                layers.append(layer("global_attention"))
                continue
            layers.append(layer("window_attention", window=window))
            if spreads:
                layers.append(PropagationConvolution(dim))
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)

    def forward(self, bev: BevMap) -> BevMap:
        """(B, dim, ny / patch, nx / patch) from (B, C, ny, nx), with its grid.

        Raises:
            ValueError: the sides of the map are no multiples of `patch` cells.
        """
        grid = self.out_grid(bev.grid)
        if self.is_recorded:
            self.record_cells_of_map((len(bev), *bev.grid.shape[1:]), self.patch, self.patch)
        x = self.embedding(bev.features.permute(0, 2, 3, 1))  # (B, H, W, C)
        x = x + map_code(x.shape[1], x.shape[2], x.shape[3], x.device).type_as(x)
        for block in self.blocks:
            x = block(x)
        return BevMap(self.norm(x).permute(0, 3, 1, 2), grid)

    def out_grid(self, grid: Grid) -> Grid:
        """The grid of tokens.

        Raises:
            ValueError: the sides of the map are no multiples of `patch` cells.
        """
        return patch_grid(grid, self.patch, multiple=self.patch)


def map_code(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(height, width, dim) sines and cosines of the row in the first half of the channels, of the column in the other.

    Source: `sinusoidal_code` along each axis, as Carion et al., DETR, 2020, appendix A.4.
    """
    rows, columns = (sinusoidal_code(torch.arange(side, device=device), dim // 2) for side in (height, width))
    return torch.cat([rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)], 2)
