"""Segmentation of clouds of any size: thinned by a grid, cut into overlapping tiles, brought back to all points.

A tile is what training shows a model, too: the points nearest to a vertical line (`datasets/crops.py`). Points near the
border of a tile lack neighbours that the model is used to, so the logits of overlapping tiles are averaged with weights
that fall from one in the middle to nearly nothing at the border: 1 - (d / R)^2 at the distance d of R. Tiles are laid
where least weight has come so far, until every point has a half of what the middle of a tile gives.

Source: overlapping votes after KPConv (Thomas et al., 2019), whose spheres are laid likewise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets.crops import column_rows, local_frame, squared_distance
from pctransformer.datasets.thinning import thin
from pctransformer.evaluation.inference import device_of, evaluating
from pctransformer.ops import knn
from pctransformer.points import PointBatch

_ENOUGH = 0.5  # weight that every point has in the end
_BORDER = 1e-3  # weight of the farthest point of a tile: small, so that any other tile outvotes it
_QUERIES = 2**18  # raw points that are looked up at once


@dataclasses.dataclass(frozen=True, eq=False)
class ShownScene:
    """The points of a scene that a model is shown: of each cell of a grid the one nearest to its middle.

    Attributes:
        rows: (m,) int64 of these among the points given.
        xyz: (m, 3) float64.
        features: (m, C) float32, or None.
    """

    rows: Tensor
    xyz: np.ndarray
    features: Tensor | None

    @classmethod
    def of(
        cls, xyz: Tensor | np.ndarray, features: Tensor | np.ndarray | None = None, *, cell_size: float
    ) -> ShownScene:
        """Thin a scene, see `segment_scene` for arguments and errors."""
        places = np.asarray(xyz.detach().cpu() if isinstance(xyz, Tensor) else xyz)
        values = None if features is None else torch.as_tensor(features).detach().cpu().float()
        if places.ndim != 2 or places.shape[1] != 3:
            raise ValueError(f"xyz must be (n, 3), got {places.shape}")
        if values is not None and (values.dim() != 2 or len(values) != len(places)):
            raise ValueError(f"features must be (n, C) for {len(places)} points, got {tuple(values.shape)}")
        if not len(places):
            raise ValueError("there are no points to segment")
        if not np.isfinite(places).all():
            raise ValueError("xyz has values that are NaN or infinite; drop such points first")
        rows = torch.from_numpy(thin(places, cell_size, None if values is None else values.numpy()))
        return cls(rows, places[rows.numpy()].astype(np.float64), None if values is None else values[rows])

    def __len__(self) -> int:
        return len(self.xyz)

    def points(self, rows: np.ndarray) -> Tensor:
        """(k, 3 + C) what a model is shown of some of the points, in a frame of their own."""
        points = torch.from_numpy(local_frame(self.xyz[rows]))
        return points if self.features is None else torch.cat([points, self.features[torch.from_numpy(rows)]], 1)

    def blend(self, tile_points: int, of_tile: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        """Values of all points from those of overlapping tiles.

        Args:
            tile_points: see `lay_tiles`.
            of_tile: from points (k, 3 + C) to values (k, D) on CPU.

        Returns:
            values (m, D) float32, means by the weights of the tiles, and how many tiles there were.
        """
        total: Tensor | None = None
        weights = torch.zeros(len(self))
        count = 0
        for rows, weight in lay_tiles(self.xyz, tile_points):
            index, share = torch.from_numpy(rows), torch.from_numpy(weight)
            values = of_tile(self.points(rows))
            total = torch.zeros(len(self), values.shape[1]) if total is None else total
            total.index_add_(0, index, values * share[:, None])
            weights.index_add_(0, index, share)
            count += 1
        assert total is not None
        return total / weights[:, None], count


@dataclasses.dataclass(frozen=True, eq=False)
class SceneLogits:
    """What a model says about a scene of n points, m of which it was shown.

    Attributes:
        rows: (m,) int64 of the points that were shown.
        logits: (m, C) float32 of these, on CPU.
        nearest: (n,) int64: logits[nearest[i]] are those of point i, of the nearest point that was shown.
        tiles: how many tiles there were.
    """

    rows: Tensor
    logits: Tensor
    nearest: Tensor
    tiles: int

    @property
    def labels(self) -> Tensor:
        """(n,) int64 the most probable class of every point."""
        return self.logits.argmax(1)[self.nearest]

    @property
    def confidence(self) -> Tensor:
        """(n,) float32 its probability."""
        return self.logits.softmax(1).amax(1)[self.nearest]


def segment_scene(
    model: nn.Module,
    xyz: Tensor | np.ndarray,
    features: Tensor | np.ndarray | None = None,
    *,
    cell_size: float,
    tile_points: int = 16384,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SceneLogits:
    """Segment a cloud of any size.

    Memory grows with one tile of the model, and with up to 400 bytes for each point. The order of the points makes no
    difference. A scene that fits into one tile goes through the model as it is. The model is in evaluation mode
    meanwhile; afterwards each of its modules is in the mode it was in before.

    Args:
        model: a `Segmenter`, trained with this cell size.
        xyz: (n, 3) metres, z up; float64 where coordinates are large (UTM, LAS).
        features: (n, C) what the model wants besides, for instance colours in [0, 1].
        cell_size: of the grid, metres: one point of each cell is shown, that nearest to its middle.
        tile_points: points of a tile at most, about as many as in training or more.
        device: where the model is. None: where its first parameter is.
        dtype: of autocast, for example torch.bfloat16. None: the model's own.

    Raises:
        ValueError: shapes do not fit, coordinates are not finite, or the model gives NaN.
    """
    if tile_points < 1:
        raise ValueError(f"tile_points must be at least 1, got {tile_points}")
    scene = ShownScene.of(xyz, features, cell_size=cell_size)
    device = device_of(model) if device is None else torch.device(device)

    def logits_of(points: Tensor) -> Tensor:
        logits: Tensor = model(PointBatch.from_list([points]).to(device)).float().cpu()
        if not logits.isfinite().all():
            raise ValueError("the model gives NaN or infinite logits: its weights or the features are not finite")
        return logits

    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        logits, count = scene.blend(tile_points, logits_of)
    places = np.asarray(xyz.detach().cpu() if isinstance(xyz, Tensor) else xyz)
    return SceneLogits(scene.rows, logits, _nearest(places, scene.xyz), count)


def lay_tiles(xyz: np.ndarray, tile_points: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cover a cloud with overlapping tiles.

    Args:
        xyz: (m, 3) metres, z up.
        tile_points: points of a tile; all, where there are no more.

    Yields:
        rows (k,) int64, ascending, and weight (k,) float32 in (0, 1] of each.
    """
    if len(xyz) <= tile_points:
        yield np.arange(len(xyz)), np.ones(len(xyz), np.float32)
        return
    total = np.zeros(len(xyz))
    while total.min() < _ENOUGH:
        centre = int(total.argmin())
        rows = column_rows(xyz, centre, tile_points)
        squared = squared_distance(xyz, centre)[rows].clip(0)
        weight = np.maximum(1 - squared / max(squared.max(), 1e-12), _BORDER)
        total[rows] += weight
        yield rows, weight.astype(np.float32)


def _nearest(places: np.ndarray, shown: np.ndarray) -> Tensor:
    """(n,) int64: for each of the places the nearest one that was shown."""
    low = shown.min(0)
    known = torch.from_numpy((shown - low).astype(np.float32))
    ends = torch.tensor([0, len(known)])
    found = []
    for begin in range(0, len(places), _QUERIES):
        wanted = torch.from_numpy((places[begin : begin + _QUERIES] - low).astype(np.float32))
        found.append(knn(known, ends, wanted, torch.tensor([0, len(wanted)]), k=1)[0][:, 0])
    return torch.cat(found)
