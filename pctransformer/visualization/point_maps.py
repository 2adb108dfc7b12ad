"""PointMaps: a cloud with values of its points to be shown, for instance what a model attends to, and perhaps boxes.

    maps = PointMaps(xyz, (PointMap(weights, layer="encoder.layers.0", head=2, query=17, method="attention"),), "chair")
    maps.save_npz("chair.npz")

Whoever computes values makes these; whoever draws them takes these, see `pctransformer.visualization.output.write`.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.formats.common import FileFormatError
from pctransformer.datasets.formats.tables import read_npz_arrays
from pctransformer.visualization.clouds import Up
from pctransformer.visualization.color_scale import ColorScale, Scaling, channel_colors, color_scale

_MEANINGS = {
    "attention": "each point's share of the attention",
    "rollout": "each point's share of the attention",
    "receptive field": "each point's share of what tokens are made of; no attention is in it",
    "gradient attention": "each point's share of the attention that raises the score",
    "grad cam": "how far the features there raise the score",
    "saliency": "how fast the score changes as the point moves",
    "similarity": "cosine between features",
    "feature components": "three main directions of the features as red, green, blue",
}
_OF_LAYERS = ("attention", "rollout", "receptive field", "gradient attention")
_OF_NO_LAYER = [method for method in _MEANINGS if method not in _OF_LAYERS]
"""What is seen of the input, or of the features that the head gets, unless a layer is named."""


@dataclasses.dataclass(frozen=True, eq=False)
class PointMap:
    """One value for each point of a cloud, or three that are shown as a colour, and where they come from.

    Attributes:
        values: float32, finite. (N,): more is shown darker. (N, 3): more is more red, more green, more blue.
        layer: name of the layer in the model; None: all layers together.
        head: which of its heads; None: their mean, or the layer has none.
        query: row of the point that is looked from; None: the vector that is classified, or all points together.
        method: how values were made, in a word or two, for instance "attention" or "rollout".
        box: row of the found box that is looked from, see `BoxView`; None: it is none.
    """

    values: np.ndarray
    layer: str | None
    head: int | None
    query: int | None
    method: str
    box: int | None = None

    def __post_init__(self) -> None:
        _check_floats(self.values, "values", *((2, 3) if self.is_color else (1,)))
        if self.layer == "":
            raise ValueError("layer must be a name, or None for all layers together, got an empty string")
        for name, number in (("head", self.head), ("query", self.query), ("box", self.box)):
            if number is not None and number < 0:
                raise ValueError(f"{name} must be at least 0, or None, got {number}")
        if self.query is not None and self.query >= len(self.values):
            raise ValueError(f"query must be the row of one of {len(self.values)} points, got {self.query}")
        if not self.method:
            raise ValueError("method must say in a word how the values were made, got an empty string")

    @property
    def is_color(self) -> bool:
        """Whether a point has three values, which are its red, green and blue."""
        return self.values.ndim == 2

    def colors(self, scaling: Scaling = "percentile") -> tuple[np.ndarray, ColorScale | None]:
        """Colours (N, 3) float32 of the points in [0, 1], and their scale, whose low and high a colour bar states.

        None where three values are a colour, which has no such bar: see `channel_colors`.
        """
        if self.is_color:
            return channel_colors(self.values, scaling), None
        scale = color_scale(self.values, scaling)
        return scale.colors(self.values), scale

    @property
    def name(self) -> str:
        """What it shows, for a person: "rollout, encoder.layers.0, head 2, from point 17"."""
        parts = [self.method]
        if self.layer or self.method not in _OF_NO_LAYER:
            parts.append(self.layer or "all layers")
        parts += [] if self.head is None else [f"head {self.head}"]
        parts += [] if self.query is None else [f"from point {self.query}"]
        parts += [] if self.box is None else [f"from box {self.box}"]
        return ", ".join(parts)

    @property
    def meaning(self) -> str:
        """What the values measure, for a person who does not know the method; empty for methods of one's own."""
        return _MEANINGS.get(self.method, "")


@dataclasses.dataclass(frozen=True, eq=False)
class BoxView:
    """Boxes in a cloud, found ones and true ones, each (x, y, z, dx, dy, dz, heading) as in `pctransformer.boxes`.

    Attributes:
        found: (m, 7) float32.
        labels: (m,) int64 class of each, from 0.
        scores: (m,) float32.
        true: (k, 7) float32; (0, 7) where they are not known.
        true_labels: (k,) int64 class of each, -1 for ignored ones.
        class_names: names that labels index.
    """

    found: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    true_labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, boxes in (("found", self.found), ("true", self.true)):
            _check_floats(boxes, name, 2, 7)
        _check_floats(self.scores, "scores", 1)
        names = len(self.class_names)
        for name, labels, boxes, lowest in (
            ("labels", self.labels, self.found, 0),
            ("true_labels", self.true_labels, self.true, -1),
        ):
            if labels.shape != (len(boxes),) or labels.dtype != np.int64:
                raise ValueError(
                    f"{name} must be ({len(boxes)},) int64, one for each box, got {labels.shape} {labels.dtype}"
                )
            if len(labels) and not lowest <= labels.min() <= labels.max() < names:
                raise ValueError(f"{name} must be from {lowest} to {names - 1}, there are {names} class_names")
        if len(self.scores) != len(self.found):
            raise ValueError(f"there are {len(self.found)} boxes found, but {len(self.scores)} scores")


@dataclasses.dataclass(frozen=True, eq=False)
class PointMaps:
    """A cloud and maps of its points. It is never written into.

    Attributes:
        xyz: (N, 3) float32, finite; metres where the data has a unit.
        maps: at least one, each of N points. The first one is shown first.
        title: what the cloud is, for a person, for instance "chair_0890.off: chair 97.0%".
        boxes: where objects were looked for.
        up: the axis that stands upright, see `pctransformer.visualization.clouds.draw_cloud`.
        is_room: whether what is looked at is inside, between walls and below a ceiling: it is seen from steeply above
            then, without what is near the ceiling.
    """

    xyz: np.ndarray
    maps: tuple[PointMap, ...]
    title: str
    boxes: BoxView | None = None
    up: Up = "z"
    is_room: bool = False

    def __post_init__(self) -> None:
        _check_floats(self.xyz, "xyz", 2, 3)
        if not self.maps:
            raise ValueError("maps must hold at least one PointMap")
        for i, found in enumerate(self.maps):
            if len(found.values) != len(self.xyz):
                raise ValueError(f"maps[{i}] is of {len(found.values)} points, but there are {len(self.xyz)}")
            boxes = 0 if self.boxes is None else len(self.boxes.found)
            if found.box is not None and found.box >= boxes:
                raise ValueError(f"maps[{i}] is from box {found.box}, but there are {boxes} found boxes")
        if self.up not in ("y", "z"):
            raise ValueError(f'up must be "y" or "z", got {self.up!r}')

    def __len__(self) -> int:
        return len(self.xyz)

    def save_npz(self, path: str | Path) -> None:
        """Write all numbers and names to a compressed .npz file, as a whole or not at all.

        Its arrays are: xyz (N, 3) and values (R, N) float32, a row for each of M maps, or three for its red, green and
        blue; channels (M,) int64, that 1 or 3; layer (M,) and method (M,) text, an empty layer for all together; head,
        query and box (M,) int64, -1 for none; title, up and is_room; and, where there are boxes, box_found, box_labels,
        box_scores, box_true, box_true_labels, box_class_names.
        """
        columns = {
            "xyz": self.xyz,
            "values": np.concatenate([np.atleast_2d(found.values.T) for found in self.maps]),
            "channels": np.array([3 if found.is_color else 1 for found in self.maps], np.int64),
            "layer": np.array([found.layer or "" for found in self.maps]),
            "head": np.array([-1 if found.head is None else found.head for found in self.maps], np.int64),
            "query": np.array([-1 if found.query is None else found.query for found in self.maps], np.int64),
            "method": np.array([found.method for found in self.maps]),
            "box": np.array([-1 if found.box is None else found.box for found in self.maps], np.int64),
            "title": np.array(self.title),
            "up": np.array(self.up),
            "is_room": np.array(self.is_room),
        }
        if self.boxes is not None:
            for field in dataclasses.fields(BoxView):
                columns[f"box_{field.name}"] = np.asarray(getattr(self.boxes, field.name))
        content = io.BytesIO()
        np.savez_compressed(content, **columns)  # type: ignore[arg-type]  # numpy's stubs take a name for allow_pickle
        replace_file(path, content.getvalue())

    @classmethod
    def load_npz(cls, path: str | Path) -> PointMaps:
        """Read what `save_npz` wrote; nothing in the file is executed.

        Raises:
            FileFormatError: there is no such file, or it holds something else.
        """
        columns = read_npz_arrays(path)
        try:
            head, query, box = (
                [n if n >= 0 else None for n in columns[name].tolist()] for name in ("head", "query", "box")
            )
            rows = np.split(columns["values"], np.cumsum(columns["channels"])[:-1])
            values = [of_map[0] if len(of_map) == 1 else of_map.T for of_map in rows]
            about = zip(values, columns["layer"].tolist(), head, query, columns["method"].tolist(), box, strict=True)
            return cls(
                columns["xyz"],
                tuple(PointMap(of_map, layer or None, *rest) for of_map, layer, *rest in about),
                str(columns["title"]),
                _boxes(columns) if "box_found" in columns else None,
                str(columns["up"]),  # type: ignore[arg-type]  # __post_init__ checks it
                bool(columns["is_room"]),
            )
        except KeyError as error:
            raise FileFormatError(path, f"it holds no maps of points: there is no array {error}") from None
        except (ValueError, TypeError) as error:
            raise FileFormatError(path, f"it holds no maps of points: {error}") from None


def _boxes(columns: Mapping[str, np.ndarray]) -> BoxView:
    found, labels, scores, true, true_labels, class_names = (
        columns[f"box_{field.name}"] for field in dataclasses.fields(BoxView)
    )
    return BoxView(found, labels, scores, true, true_labels, tuple(class_names.tolist()))


def _check_floats(values: np.ndarray, name: str, dimensions: int, columns: int | None = None) -> None:
    shape = "(N,)" if columns is None else f"(N, {columns})"
    if values.ndim != dimensions or (columns is not None and values.shape[1] != columns):
        raise ValueError(f"{name} must be {shape}, got {values.shape}")
    if values.dtype != np.float32:
        raise TypeError(f"{name} must be float32, got {values.dtype}; convert with np.asarray({name}, np.float32)")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(f"{name} must be finite, but row {row} is {values[row].tolist()}")
