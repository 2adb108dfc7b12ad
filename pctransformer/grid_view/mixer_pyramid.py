"""Pyramids of grid mixers: stages on ever coarser maps, as in Swin and sMLPNet, and a neck that brings them back.

    map -> patches -> (mixer, perceptron) x depth -> merge 2 x 2 -> (mixer, perceptron) x depth -> ... -> neck -> map

Any mixer of `layers.grid_mixers` stands in any stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from pctransformer.grid_view.neck import Neck, record_joined_maps
from pctransformer.layers.grid_mixers import create_grid_block
from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst
from pctransformer.layers.recording import RecordedLayer
from pctransformer.voxels import BevMap, Grid


class PatchMerging(nn.Module):
    """2 x 2 cells become one: side by side, LayerNorm, and a linear layer without bias.

    They come column after column, as in public weights.

    Args:
        dim: channels in.
        out_dim: channels out; twice as many are published.

    Source: Liu et al., Swin Transformer, 2021, section 3.1.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H / 2, W / 2, C') from (B, H, W, C) with even sides."""
        cells = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        return self.reduction(self.norm(cells.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def patches(in_channels: int, out_channels: int, side: int, *, bias: bool) -> ChannelsFirst:
    """side x side cells become one, by a convolution whose stride is its kernel: (B, H, W, C) -> (B, H', W', C')."""
    return ChannelsFirst(nn.Conv2d(in_channels, out_channels, side, stride=side, bias=bias))


class MixerStages(RecordedLayer):
    """Stages of layers, each on a map half as fine as that of the one before.

    Args:
        stem: from the input to the map of the first stage.
        stages: layers of each stage, (B, H, W, C) -> (B, H, W, C).
        merges: from each stage to the next.

    Source: Liu et al., Swin Transformer, 2021, figure 3; Tang et al., Sparse MLP, 2021, figure 2.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[Iterable[nn.Module]], merges: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(merges) != len(stages) - 1:
            raise ValueError(f"{len(stages)} stages have {len(stages) - 1} merges between them, got {len(merges)}")
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        self.merges = nn.ModuleList(merges)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map of each stage, (B, H_i, W_i, C_i), from (B, H, W, C)."""
        maps: list[Tensor] = []
        for join, stage in zip([self.stem, *self.merges], self.stages):
            x = maps[-1] if maps else x
            joined = join(x)
            if self.is_recorded:
                side = x.shape[1] // joined.shape[1]
                self.record_cells_of_map(x.shape[:3], side, side)
            maps.append(stage(joined))
        return maps


class MixerPyramid(RecordedLayer):
    """`MixerStages` on a map seen from above, and a neck that makes one map of theirs, of the first stage's size.

    Args:
        stages: on the map.
        dims: channels of their maps.
        patch: cells of the input along each side of a cell of the first stage.
        width: channels that the neck makes of each stage's.

    Attributes:
        out_channels: of the map that comes out.
    """

    def __init__(self, stages: MixerStages, *, dims: Sequence[int], patch: int, width: int) -> None:
        super().__init__()
        self.stages, self.patch, self.coarsest = stages, patch, patch * 2 ** (len(dims) - 1)
        self.neck = Neck(dims, [2**i for i in range(len(dims))], width)
        self.out_channels = self.neck.out_channels

    def forward(self, bev: BevMap) -> BevMap:
        """(B, out_channels, ny / patch, nx / patch) from (B, C, ny, nx), with its grid."""
        grid = self.out_grid(bev.grid)
        maps = self.stages(bev.features.permute(0, 2, 3, 1))
        if self.is_recorded:
            record_joined_maps(self, [(x.shape[0], x.shape[1], x.shape[2]) for x in maps])
        return BevMap(self.neck(maps), grid)

    def out_grid(self, grid: Grid) -> Grid:
        """The grid of the map that comes out: that of the patches.

        Raises:
            ValueError: the map's sides are no multiples of the cells of the last stage.
        """
        return patch_grid(grid, self.patch, multiple=self.coarsest)


def patch_grid(grid: Grid, patch: int, *, multiple: int) -> Grid:
    """The grid of squares of patch x patch cells of a map, whose sides must be multiples of so many cells.

    Raises:
        ValueError: they are not.
    """
    if any(side % multiple for side in grid.shape[1:]):
        raise ValueError(
            f"the sides of the map must be multiples of {multiple} cells, got {grid.shape[1:]}; change the range or the"
            " size of voxels"
        )
    return grid.convolved((1, patch, patch), (1, patch, patch), (0, 0, 0))


# ---- sizes -----------------------------------------------------------------------------------------------------------
def mixer_stages(
    in_channels: int,
    size: tuple[int, int],
    *,
    patch: int,
    dims: Sequence[int],
    depths: Sequence[int],
    mixer: str = "smlp",
    mlp_ratio: float = 3.0,
    drop_path: float = 0.0,
    mixer_options: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    merging: Literal["convolution", "linear"] = "convolution",
) -> MixerStages:
    """Stages of one grid mixer.

    Args:
        in_channels: of the input.
        size: (H, W) of the input.
        patch: cells of the input along each side of a cell of the first stage.
        dims: channels of each stage.
        depths: layers of each stage.
        mixer: one of `list_grid_mixers()`.
        mlp_ratio: channels between the layers of perceptrons, over those of tokens; 3 is sMLPNet's, 4 Swin's.
        drop_path: share of maps that the last layer leaves as they are; the first leaves none, those between follow a
            straight line.
        mixer_options: further arguments of `create_grid_mixer`: for all stages, or one mapping for each, by which sMLP
            stands in some stages only: `[{"scope": "local"}, {}, {}, {}]`.
        merging: of patches and of 2 x 2 cells, by convolutions without bias and norm, as sMLPNet; or "linear", as Swin,
            by `PatchMerging`, with LayerNorm behind the patches too.

    Raises:
        ValueError: there are not as many of each, or the sides cannot be halved as often.

    Source: Tang et al., 2021, section 3 ("Overall architecture"); Liu et al., 2021, section 3.1.
    """
    options = [mixer_options] * len(dims) if isinstance(mixer_options, Mapping) else list(mixer_options)
    options = options or [{}] * len(dims)
    if not len(dims) == len(depths) == len(options):
        raise ValueError(
            f"dims, depths and mixer_options must have one for each stage, got {len(dims)}, {len(depths)} and"
            f" {len(options)}"
        )
    if merging not in ("convolution", "linear"):
        raise ValueError(f'merging must be "convolution" or "linear", got {merging!r}')
    coarsest = patch * 2 ** (len(dims) - 1)
    if any(side % coarsest for side in size):
        raise ValueError(f"the sides of the map must be multiples of {coarsest} cells, got {tuple(size)}")

    last = max(sum(depths) - 1, 1)
    stages = []
    for stage, (dim, depth) in enumerate(zip(dims, depths)):
        side = patch * 2**stage
        layers = [
            create_grid_block(
                mixer, dim=dim, size=(size[0] // side, size[1] // side), index=i, mlp_ratio=mlp_ratio,
                drop_path=drop_path * (sum(depths[:stage]) + i) / last, **options[stage],
            )
            for i in range(depth)
        ]  # fmt: skip
        stages.append(layers)
    between = list(pairwise(dims))
    if merging == "convolution":
        stem: nn.Module = patches(in_channels, dims[0], patch, bias=False)
        return MixerStages(stem, stages, [patches(dim, after, 2, bias=False) for dim, after in between])
    stem = nn.Sequential(patches(in_channels, dims[0], patch, bias=True), nn.LayerNorm(dims[0]))
    return MixerStages(stem, stages, [PatchMerging(dim, after) for dim, after in between])
