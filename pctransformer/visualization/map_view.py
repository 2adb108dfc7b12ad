"""What all drawings of maps of points share: where the cloud stands, how large dots are, boxes as coloured wires."""

from __future__ import annotations

import dataclasses

import numpy as np

from pctransformer.visualization.clouds import Up, camera, upright
from pctransformer.visualization.detection import TRUE, class_colour
from pctransformer.visualization.geometry import box_lines
from pctransformer.visualization.point_maps import BoxView, PointMaps
from pctransformer.visualization.style import GREY

Color = tuple[float, float, float]
_LOOKED_AT = 0.5
"""Share of what is looked at from a box that is to be seen around it."""
_BELOW_CEILING = 0.75
"""Share of the height of a room below which points are drawn."""
_LEAST_RADIUS = 8.0
"""Metres that are to be seen around a box at least."""


@dataclasses.dataclass(frozen=True, eq=False)
class Wire:
    """A box as lines.

    Attributes:
        points, lines: see `box_lines`; z upright.
        color: red, green, blue in [0, 1].
        words: what stands beside it: class and score of a box that was found, nothing at true ones.
    """

    points: np.ndarray
    lines: np.ndarray
    color: Color
    words: str = ""

    label_at = 4
    """Row of points where the words stand: the upper front left corner."""


@dataclasses.dataclass(frozen=True, eq=False)
class MapView:
    """A cloud as it is drawn.

    Attributes:
        xyz: (N, 3) float64, z upright.
        azimuth_deg, elevation_deg: from where pictures look, and pages and windows in the beginning, see `camera`: from
            the front right, into rooms steeply, and over scans with boxes from behind, where x points forward.
        middle: (3,) what stands in the middle then.
        radius: nearly all points, and all boxes found, are no farther from the middle then, across or upwards; one
            point far off does not make the others small. Where all maps are from boxes, it is those boxes and most of
            what is looked at from there, which colours do not tell.
        dot: width of a dot, in the units of xyz.
        wires: boxes, true ones first.
        legend: what colours of wires mean.
        ceiling: height above which points are left out, those of a room that would hide it; none that is looked from.
    """

    xyz: np.ndarray
    azimuth_deg: float
    elevation_deg: float
    middle: np.ndarray
    radius: float
    dot: float
    wires: tuple[Wire, ...]
    legend: tuple[tuple[str, Color], ...]
    ceiling: float = np.inf

    @classmethod
    def of(cls, point_maps: PointMaps, *, whole: bool = False) -> MapView:
        """How maps are drawn, whatever draws them.

        Args:
            point_maps: the cloud and its maps.
            whole: whether all of the cloud is to be seen also where all maps are from boxes.
        """
        xyz = upright(point_maps.xyz, point_maps.up)
        azimuth_deg, elevation_deg = (-55.0, 25.0) if point_maps.boxes is None else (195.0, 35.0)
        ceiling = np.inf
        if point_maps.is_room and len(xyz):
            elevation_deg = 55.0
            low, high = xyz[:, 2].min(), xyz[:, 2].max()
            sources = [float(xyz[found.query, 2]) for found in point_maps.maps if found.query is not None]
            ceiling = max([float(low + _BELOW_CEILING * (high - low)), *sources])
        axes = camera(elevation_deg, azimuth_deg)
        middle, radius = np.zeros(3), 1.0
        wires, legend = _wires(point_maps.boxes, point_maps.up) if point_maps.boxes is not None else ((), ())
        if len(xyz):
            points, corners = _framed(point_maps, xyz, tuple(wire for wire in wires if wire.words), whole)
            low, high = np.quantile(points @ axes.T, [0.005, 0.995], axis=0)
            seen = np.concatenate([corners @ axes.T, [low, high]])
            low, high = seen.min(0), seen.max(0)
            middle = (low + high) / 2 @ axes
            radius = 1.15 * float((high - low)[:2].max()) / 2
            everything = np.concatenate([points, corners])
            radius = min(radius, float(np.abs((everything - middle) @ axes[:2].T).max())) or 1.0
            if len(corners) and len(points) < len(xyz):
                radius = max(radius, _LEAST_RADIUS)
        return cls(xyz, azimuth_deg, elevation_deg, middle, radius, _dot(xyz, radius), wires, legend, ceiling)

    @property
    def found(self) -> tuple[Wire, ...]:
        """Boxes that were found, as in `BoxView`."""
        return tuple(wire for wire in self.wires if wire.words)

    @property
    def shown(self) -> np.ndarray:
        """(n,) int64 rows of the points that are drawn, rising."""
        return np.flatnonzero(self.xyz[:, 2] <= self.ceiling)

    @property
    def axes(self) -> np.ndarray:
        """(3, 3) rows of that camera: to the right, up, towards us."""
        return camera(self.elevation_deg, self.azimuth_deg)


def _framed(
    point_maps: PointMaps, xyz: np.ndarray, boxes: tuple[Wire, ...], whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) and corners of boxes (m, 3) that are to be seen."""
    sources = [found.box for found in point_maps.maps if found.box is not None and not found.is_color]
    if whole or len(sources) < len(point_maps.maps):
        return xyz, np.concatenate([np.zeros((0, 3)), *(wire.points for wire in boxes)])
    rows = []
    for found in point_maps.maps:
        order = np.argsort(-found.values, kind="stable")
        weight = np.cumsum(np.maximum(found.values[order], 0.0), dtype=np.float64)
        rows.append(order[: int(np.searchsorted(weight, _LOOKED_AT * weight[-1])) + 1])
    return xyz[np.unique(np.concatenate(rows))], np.concatenate([boxes[source].points for source in sources])


def _dot(xyz: np.ndarray, radius: float) -> float:
    """About the distance between neighbours on a surface, so that it is nearly closed, also of points in pairs."""
    from scipy.spatial import cKDTree

    if len(xyz) < 4:
        return 0.05 * radius
    some = xyz[np.random.default_rng(0).permutation(len(xyz))[:5000]]
    distances, _ = cKDTree(xyz).query(some, k=4)
    return float(np.clip(0.85 * np.median(distances[:, 3]), 0.008 * radius, 0.1 * radius))


def _wires(boxes: BoxView, up: Up) -> tuple[tuple[Wire, ...], tuple[tuple[str, Color], ...]]:
    from matplotlib.colors import to_rgb

    rows = [(box, GREY if label < 0 else TRUE, "") for box, label in zip(boxes.true, boxes.true_labels)]
    rows += [
        (box, class_colour(int(label)), f"{boxes.class_names[label]} {score:.2f}")
        for box, label, score in zip(boxes.found, boxes.labels, boxes.scores)
    ]
    wires = []
    for box, color, words in rows:
        points, lines = box_lines(box)
        wires.append(Wire(upright(points, up), lines, to_rgb(color), words))
    legend = [(f"found {boxes.class_names[i]}", to_rgb(class_colour(i))) for i in np.unique(boxes.labels)]
    if (boxes.true_labels >= 0).any():
        legend.insert(0, ("labelled", to_rgb(TRUE)))
    return tuple(wires), tuple(legend)
