"""PointDETR: a set of boxes from points, without a grid, anchors or suppression. After 3DETR.

Misra, Girdhar, Joulin, An end-to-end transformer model for 3D object detection (3DETR), 2021, arXiv:2109.08141.

Centres spread over the cloud become tokens with what is around them, a plain transformer lets all tokens see each
other, and queries, which are tokens far from each other, look at them and answer with boxes, or with nothing.

What differs here: 3DETR is for rooms; these sizes, ranges and radii are for LiDAR, in metres. Scans are first thinned
to the mean of the points in each small cell, so that places near the sensor do not take all the work, and the order of
points does not matter. Attention knows places by rotary codes, where the paper's encoder has none; queries begin with
the features of their token, and predict their box relative to it, with sine and cosine in place of bins of angles.
With `radii`, tokens see only those near by in each encoder layer, as in 3DETR-m, which also halves the tokens after
the first layer; that is left out. Behind an anchor or a centre head tokens go to the columns of a map, which
convolutions spread. There are no public weights: those of 3DETR know rooms.

PointBatch -> means of cells -> tokens (B, 1024, C) -> encoder -> queries (B, 128, C) x decoder -> boxes
                                                              -> or map (B, C, ny / 4, nx / 4) -> head
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.heads.object_queries import SampledQueries
from pctransformer.heads.query import QueryHead
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import RotaryPosition
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import ChannelMixing, EncoderLayer, TokenMixing
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.point_view.set_abstraction import SetAbstraction
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid, VoxelBatch, cell_key, occupied_cells

_COLUMN = 4  # cells along x and y in a column of the map
_UNIT = 1.0  # metres per radian of the fastest pair of channels that attention turns


class PointDETR(Detector):
    """The network of figure 2.

    Args:
        in_channels: channels of the points, 3 + C.
        grid: whose cells are thinned to one point each.
        abstraction: from these points to tokens.
        layers: of the encoder.
        radii: of each of them, metres: how far its tokens see; None: everywhere.
        to_map: convolutions on the map of tokens, for a head that wants a map; None for one that takes tokens.
        head: on tokens or map.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        grid: Grid,
        abstraction: SetAbstraction,
        layers: Sequence[EncoderLayer],
        radii: Sequence[float | None],
        to_map: BevBackbone | None,
        head: DetectionHead,
    ) -> None:
        super().__init__()
        if len(radii) != len(layers):
            raise ValueError(f"radii must be one for each of {len(layers)} encoder layers, got {tuple(radii)}")
        self.in_channels, self.grid, self.radii = in_channels, grid, tuple(radii)
        self.num_features = abstraction.out_dim if to_map is None else to_map.out_channels
        self.abstraction, self.layers = abstraction, nn.ModuleList(layers)
        self.norm = nn.LayerNorm(abstraction.out_dim)
        self.to_map, self.head = to_map, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap | PointBatch:
        """The tokens, or the map of a head that wants one; `num_features` channels."""
        batch = PointBatch.of(points, self.in_channels)
        cells = VoxelBatch.from_points(batch, self.grid)
        if self.is_recorded:
            self.record_cells(occupied_cells(batch, self.grid).cell_of_point, len(cells.coordinates))
        xyz, others = cells.features[:, :3].contiguous(), cells.features[:, 3:].contiguous()
        # without their coordinates: beside tens of metres nothing would be left of where points are around a token
        tokens = self.abstraction(PointBatch(xyz, cells.offsets, others if self.in_channels > 3 else None))
        x = tokens.features.view(len(cells), -1, self.abstraction.out_dim)  # (B, S, C)
        xyz = tokens.xyz.view(len(cells), -1, 3)
        for layer, radius in zip(self.layers, self.radii):
            x = layer(x, None if radius is None else torch.cdist(xyz, xyz) <= radius, positions=xyz)
        tokens = tokens.replace(features=self.norm(x).flatten(0, 1))
        if self.to_map is None:
            return tokens
        columns = _columns(self.grid)
        if self.is_recorded:
            self._record_columns(tokens, columns)
        return self.to_map(BevMap.from_tokens(tokens, columns))

    def _record_columns(self, tokens: PointBatch, grid: Grid) -> None:
        """Hand over which tokens each cell of the map is the maximum of."""
        coordinates, _, column = occupied_cells(tokens, grid)
        inside = (column >= 0).nonzero()[:, 0]
        cell = cell_key(coordinates.long(), grid.shape).index_select(0, column.index_select(0, inside))
        assert tokens.features is not None
        values = tokens.features.index_select(0, inside)
        self.record_maximum_of_pairs(values, cell, inside, len(tokens) * math.prod(grid.shape))


def _columns(grid: Grid) -> Grid:
    """The grid of the map, of columns over the whole height."""
    x, y, _ = grid.voxel_size
    _, ny, nx = grid.shape
    if ny % _COLUMN or nx % _COLUMN:
        raise ValueError(
            f"a map has columns of {_COLUMN} x {_COLUMN} cells, so the sides of the range must be multiples of"
            f" {_COLUMN} cells, they are {(ny, nx)}; change the range or the size of voxels"
        )
    flat = grid.flattened()
    return Grid(flat.low, (_COLUMN * x, _COLUMN * y, flat.voxel_size[2]), (1, ny // _COLUMN, nx // _COLUMN))


# ---- sizes: appendix A, for LiDAR ------------------------------------------------------------------------------------
def point_detr(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "query",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float, float] = (0.2, 0.2, 0.2),
    radius: float = 0.8,
    k: int = 32,
    num_tokens: int = 2048,
    num_queries: int = 256,
    widths: Sequence[int] = (64, 128, 256),
    depth: int = 3,
    decoder_depth: int = 8,
    num_heads: int = 4,
    radii: Sequence[float | None] | None = None,
) -> PointDETR:
    """The widths and depths of the paper, for KITTI: 7 693 005 parameters.

    Args:
        num_classes: classes of boxes.
        in_channels: channels of the points, 3 + C.
        head: "query", on the tokens; or an anchor or centre head, on a map of them.
        anchors: one for each class, for an anchor head.
        point_range: what is looked at, metres.
        voxel_size: (x, y, z) of the cells whose points are joined, metres.
        radius: of the ball around each token, metres.
        k: points of a ball.
        num_tokens: of each scan.
        num_queries: of each scan.
        widths: of the layers from points to tokens; tokens have the last.
        depth: encoder layers.
        decoder_depth: of the query head.
        num_heads: of attention.
        radii: see `PointDETR`; None: all see everything.
    """
    grid = Grid.from_range(point_range, voxel_size)
    abstraction = SetAbstraction(in_channels - 3, num_samples=num_tokens, radii=(radius,), ks=(k,), widths=(widths,))
    dim = abstraction.out_dim

    def layer() -> EncoderLayer:
        attention = MultiHeadAttention(dim, num_heads, rotary=RotaryPosition(dim // num_heads, unit=_UNIT))
        return EncoderLayer(
            TokenMixing(attention, Residual(nn.LayerNorm(dim))),
            ChannelMixing(MLP(dim, dim // 2, activation=nn.ReLU), Residual(nn.LayerNorm(dim))),
        )

    to_map: BevBackbone | None = None
    on_top: DetectionHead
    if head == "query":
        if anchors is not None:
            raise ValueError('a head of kind "query" has no anchors; leave them out, or use head="anchor"')
        on_top = QueryHead(
            dim, num_classes=num_classes, queries=SampledQueries(num_queries), range=point_range, dim=dim,
            depth=decoder_depth, num_heads=num_heads,
        )  # fmt: skip
    else:
        _columns(grid)  # refuses ranges that cannot be cut into them
        to_map = BevBackbone(dim, layers=(3,), strides=(1,), widths=(dim,), up_strides=(1,), up_widths=(dim,))
        on_top = detection_head(head, dim, num_classes=num_classes, anchors=anchors, point_range=point_range)
    return PointDETR(
        in_channels=in_channels,
        grid=grid,
        abstraction=abstraction,
        layers=[layer() for _ in range(depth)],
        radii=(None,) * depth if radii is None else radii,
        to_map=to_map,
        head=on_top,
    )


def point_detr_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "query",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float, float] = (0.2, 0.2, 0.2),
    num_tokens: int = 1024,
    num_queries: int = 128,
    radii: Sequence[float | None] | None = None,
) -> PointDETR:
    """PointDETR of a quarter of the width with half the tokens, as far as 51.2 m, for training on a CPU."""
    model = point_detr(
        num_classes, in_channels=in_channels, head=head, anchors=anchors, point_range=point_range,
        voxel_size=voxel_size, num_tokens=num_tokens, num_queries=num_queries, widths=(16, 32, 64), depth=2,
        decoder_depth=3, radii=radii,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model
