"""Voxel transformer for shapes: attention in windows of occupied cells, from fine cells to coarse, then a class.

After Liu et al., Swin Transformer, 2021, arXiv:2103.14030, with the occupied cells of a shape as its tokens, as Fan et
al., SST, 2022, arXiv:2112.06375, and Wang et al., DSVT, 2023, arXiv:2301.06051, have them of a street.

A small PointNet makes a token of every cell that holds points. Tokens attend to those in their window, regular and
shifted windows taking turns; then each box of eight cells becomes one, and again, until one window holds the shape. The
stages are those of Swin-T in its three dimensions: 56, 28, 14 and 7 cells along each side, windows of 7, two, two, six
and two blocks. Most cells of a shape are empty and cost nothing: of 1024 points some 750 cells of the first stage are
occupied, of 175 616.

What differs here: tokens are half as wide as Swin's. In front of each attention a submanifold convolution carries what
is near across the borders of windows, after Liu et al., LION, 2024, arXiv:2407.18232, but for the last stage, where
there are no borders; `convolution=False` leaves it out. Cells are joined by a strided sparse convolution. Mean and
maximum over the last tokens are both classified. There are no public weights.

Shapes are expected in the unit sphere, but the grid reaches 1.75 from its middle along each axis: the recipes of random
changes stretch by 1.5 and move by 0.2, which is 1.7. Points beyond are left out, and a shape that lies beyond as a
whole has no tokens, and gets the logits of nothing.

(B, N, 3 + C) -> cells (M, 48) -> four stages of windows, eight cells joined to one between them
              -> tokens (T, 384) -> mean and maximum -> perceptron -> logits
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pctransformer.grid_view.voxel_features import DynamicVoxelFeatures
from pctransformer.grid_view.window_attention import CellDescriptor, WindowBlock
from pctransformer.grid_view.window_backbone import WindowBackbone, WindowMerge, WindowStage
from pctransformer.heads.classification import ClassificationHead
from pctransformer.models.classifier import Classifier
from pctransformer.models.detector import set_momentum
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid

_HEAD_DIM = 16  # Swin's numbers of heads, at half its width


class VoxelTransformerClassifier(Classifier):
    """The network.

    Args:
        in_channels: channels of the points, 3 + C.
        voxels: from points to cells.
        windows: on the cells.
        head: on the cells that are left.

    Raises:
        ValueError: a merge does not fit the grid.
    """

    def __init__(
        self, *, in_channels: int, voxels: DynamicVoxelFeatures, windows: WindowBackbone, head: ClassificationHead
    ) -> None:
        super().__init__()
        windows.out_grid(voxels.grid)  # refuses grids that cannot be halved as often
        self.in_channels, self.num_features = in_channels, windows.out_channels
        self.voxels, self.windows, self.head = voxels, windows, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """A token for each occupied cell of the last stage, at its middle: fewer or more of each cloud."""
        voxels = self.voxels(PointBatch.of(points, self.in_channels))  # the M cells that hold points
        return self.windows(voxels).to_points()


# ---- sizes: depths, windows and heads of Swin-T, section 3.3 ---------------------------------------------------------
def voxel_transformer_cls(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    extent: float = 1.75,
    voxel_size: float = 0.0625,
    window: int = 7,
    dims: Sequence[int] = (48, 96, 192, 384),
    depths: Sequence[int] = (2, 2, 6, 2),
    convolution: bool = True,
) -> VoxelTransformerClassifier:
    """Swin-T's stages at half its width: 12 327 106 parameters.

    Args:
        num_classes: logits.
        in_channels: channels of the points, 3 + C.
        extent: of the grid, from its middle along each axis, in units of the clouds; points beyond are left out.
        voxel_size: edge of a cell of the first stage; those of the others are twice, four times, ... as large, and
            must fill the grid.
        window: cells of a window along each axis.
        dims: channels of each stage, multiples of 16.
        depths: blocks of each stage.
        convolution: whether blocks have one.

    Raises:
        ValueError: cells do not fill the grid, dims are no multiples of 16, or there are not as many depths.
    """
    if len(dims) != len(depths) or any(dim % _HEAD_DIM for dim in dims):
        raise ValueError(
            f"dims must be multiples of {_HEAD_DIM}, one for each of the depths; got {tuple(dims)} and {tuple(depths)}"
        )
    grid = Grid.from_range((-extent,) * 3 + (extent,) * 3, (voxel_size,) * 3)
    dim = dims[-1]
    hidden = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Dropout(0.5))
    model = VoxelTransformerClassifier(
        in_channels=in_channels,
        voxels=DynamicVoxelFeatures(in_channels, (dims[0], dims[0]), grid=grid),
        windows=_windows(grid, window, dims, depths, convolution),
        head=ClassificationHead(hidden, dim, num_classes, reduce="max_mean"),
    )
    set_momentum(model, 0.1)  # torch's own, which other classifiers have
    return model


def voxel_transformer_small_cls(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    extent: float = 1.75,
    voxel_size: float = 0.0625,
    convolution: bool = True,
) -> VoxelTransformerClassifier:
    """A third of the width, one block and then two a stage, for training on a CPU. See `voxel_transformer_cls`."""
    return voxel_transformer_cls(
        num_classes, in_channels, extent=extent, voxel_size=voxel_size, dims=(16, 32, 64, 128), depths=(1, 2, 2, 2),
        convolution=convolution,
    )  # fmt: skip


def _windows(grid: Grid, window: int, dims: Sequence[int], depths: Sequence[int], convolution: bool) -> WindowBackbone:
    """Stages of regular and shifted blocks, whose cells are twice as large from one to the next."""
    merges = [WindowMerge(before, after, (2, 2, 2)) for before, after in pairwise(dims)]

    def block(dim: int, side: int, number: int) -> WindowBlock:
        descriptor = CellDescriptor(dim, (3, 3, 3)) if convolution and side > window else None
        return WindowBlock(
            dim, dim // _HEAD_DIM, (window,) * 3, shifted=number % 2 == 1, hidden_dim=2 * dim, descriptor=descriptor
        )

    stages = []
    for i, (dim, depth) in enumerate(zip(dims, depths)):
        stages.append(WindowStage([block(dim, grid.shape[0] // 2**i, number) for number in range(depth)]))
    return WindowBackbone(stages, merges, dim=dims[-1])
