"""What all detectors of the package share: points to a map from above, or to tokens, and a head that finds boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor import KITTI_ANCHORS, AnchorClass, AnchorHead, AnchorOutput
from pctransformer.heads.center import CenterHead, CenterOutput
from pctransformer.heads.object_queries import HeatmapQueries
from pctransformer.heads.query import QueryHead, QueryOutput
from pctransformer.layers.deformable import MapLevels
from pctransformer.layers.recording import RecordedLayer
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid, VoxelBatch

Range = tuple[float, float, float, float, float, float]
"""(x, y, z) of the lowest corner of what is looked at, then of the highest, metres."""
Head = Literal["anchor", "center", "query"]
Output = AnchorOutput | CenterOutput | QueryOutput

_NUM_QUERIES = 100  # KITTI's scans hold at most some twenty objects, streets some fifty


class DetectionHead(Protocol):
    """What `AnchorHead`, `CenterHead` and `QueryHead` have in common."""

    @property
    def num_classes(self) -> int:
        """Classes of boxes."""
        ...

    def __call__(self, features: Any, /) -> Any:
        """What it says of a map; `QueryHead`: of tokens too."""
        ...

    def loss(self, output: Any, boxes: BoxBatch) -> dict[str, Tensor]:
        """How far that is from the boxes that are there: "loss", and its parts."""
        ...

    def predict(self, *output: Any, **thresholds: Any) -> BoxBatch:
        """The boxes that it means."""
        ...

    def score_of(self, output: Any, box: Tensor) -> tuple[Tensor, int | None]:
        """The logit of a box of the first cloud, and the query that found it, if there are queries."""
        ...


class Detector(RecordedLayer):
    """A backbone that gives a map seen from above, or tokens, and a head on it.

    Points are in the LiDAR frame of `pctransformer.boxes`, metres; those outside of `grid` are left out. Training is
    `model.loss(model(points), boxes)["loss"]`, use is `model.predict(model(points))`.

    Subclasses set the attributes and write `forward_features`.
    """

    in_channels: int
    """Channels of the points, coordinates included: 3 + C; 4 with the reflectance."""
    num_features: int
    """Channels of the map, or of the tokens, that `forward_features` gives."""
    grid: Grid
    """Of the cells that points are put into."""
    head: DetectionHead
    class_layers = ("head.",)
    """What names of weights begin with whose shapes follow from the classes: they stay new where those differ."""
    lacking_in_pretraining = ("head.",)
    """What names of weights begin with that a file may lack, all of them together: they stay new then."""

    @property
    def num_classes(self) -> int:
        """Classes of boxes."""
        return self.head.num_classes

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap | PointBatch | MapLevels:
        """The map, `num_features` channels, from a PointBatch, a (B, N, 3 + C) tensor or a list of (n, 3 + C); tokens
        of models whose head takes them."""
        raise NotImplementedError

    def map_of(self, voxels: VoxelBatch) -> BevMap:
        """`BevMap.from_voxels`. Where attention is recorded, a cell of the map is made of those above it, all alike."""
        if self.is_recorded:
            batch, _, y, x = voxels.coordinates.long().unbind(1)
            _, ny, nx = voxels.grid.shape
            self.record_cells((batch * ny + y) * nx + x, len(voxels) * ny * nx)
        return BevMap.from_voxels(voxels)

    def forward_head(self, features: BevMap | PointBatch | MapLevels) -> Output:
        """What the head says of what `forward_features` gave."""
        output: Output = self.head(features)
        return output

    def forward(self, points: PointBatch | Tensor | Sequence[Tensor]) -> Output:
        """What the head says of a PointBatch, a (B, N, 3 + C) tensor or a list of (n, 3 + C) tensors."""
        return self.forward_head(self.forward_features(points))

    def loss(self, output: Output, boxes: BoxBatch) -> dict[str, Tensor]:
        """Scalars with gradients: "loss", and the parts that it is the sum of; see the head's `loss`."""
        return self.head.loss(output, boxes)

    def predict(self, output: Output, **thresholds: Any) -> BoxBatch:
        """The boxes found in each cloud, with scores, best first; thresholds are those of the head's `predict`."""
        return self.head.predict(output, **thresholds)

    def score_of(self, output: Output, box: Tensor) -> tuple[Tensor, int | None]:
        """The logit, a scalar with a gradient, of a box (7,) found in the first cloud; and the row of the query
        that found it, None for heads without queries."""
        return self.head.score_of(output, box)


def detection_head(
    kind: Head,
    in_channels: int,
    *,
    num_classes: int,
    anchors: Sequence[Sequence[float]] | None,
    point_range: Range,
    center_channels: int = 64,
) -> DetectionHead:
    """The head that a detector's options ask for.

    Args:
        kind: boxes measured from anchors; from the centres of objects; or from queries, a hundred at the peaks of a
            heat map, which look at the map in three decoder layers and need no suppression.
        in_channels: of the map.
        num_classes: classes of boxes, at least 1.
        anchors: a row of `AnchorClass` for each class; None: KITTI's Car, Pedestrian and Cyclist.
        point_range: over which anchors are spread.
        center_channels: of the hidden layers of a head on centres; queries have twice as many, but 64 at least.

    Raises:
        ValueError: there is not one anchor for each class, or there are anchors for a head that has none.
    """
    if kind not in ("anchor", "center", "query"):
        raise ValueError(f'head must be "anchor", "center" or "query", got {kind!r}')
    if kind != "anchor" and anchors is not None:
        raise ValueError(f'a head of kind "{kind}" has no anchors; leave them out, or use head="anchor"')
    if kind == "center":
        return CenterHead(in_channels, num_classes=num_classes, channels=center_channels)
    if kind == "query":
        dim = max(64, 2 * center_channels)
        queries = HeatmapQueries(_NUM_QUERIES, in_channels, dim, num_classes=num_classes)
        return QueryHead(in_channels, num_classes=num_classes, queries=queries, range=point_range, dim=dim)
    for row in anchors or ():
        if len(row) != len(AnchorClass._fields):
            raise ValueError(f"an anchor is {', '.join(AnchorClass._fields)}, in metres; got {tuple(row)}")
    rows = KITTI_ANCHORS if anchors is None else [AnchorClass(*row) for row in anchors]
    if len(rows) != num_classes:
        known = "KITTI's classes have 3 anchors" if anchors is None else f"there are {len(rows)} anchors"
        raise ValueError(
            f"{known}, but num_classes is {num_classes}; give anchors, one for each class, which"
            ' pctransformer.heads.anchor.anchors_from_boxes finds in boxes, or use a head without: "center", "query"'
        )
    return AnchorHead(in_channels, anchors=rows, range=point_range)


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Change the share that each training step has in the running statistics of a model's batch norms.

    0.01, as published, remembers some hundred steps: too many for trainings of a few hundred, which would be evaluated
    by the statistics of weights long gone.
    """
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.momentum = momentum
