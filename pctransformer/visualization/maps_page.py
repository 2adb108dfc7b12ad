"""Maps of points as one HTML file that turns in a browser: no network, no server, no library, drawn by WebGL."""

from __future__ import annotations

import base64
import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.visualization.color_scale import SPREADS, Scaling, color_table
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.point_maps import PointMap, PointMaps

MAX_POINTS = 2_000_000
"""More points than this are refused: a page of that size opens slowly, and turns slowly."""


def write_page(
    point_maps: PointMaps, path: str | Path, *, scaling: Scaling = "percentile", whole: bool = False
) -> None:
    """Write a page that shows one map at a time: turned by the mouse, chosen by values, layer, head and query point.

    A click on a point looks from there where there is a map of it. Rooms are cut below their ceiling, or where a slider
    says. Boxes are wires with the names of their classes. The page runs from the disk, in any browser with WebGL, and
    asks the network for nothing, which its content security policy forbids as well. Coordinates are stored in 65 536
    steps along each axis, values as one of the colour map's 216 shades, three of them that are a colour as such: 6
    bytes for a point and 1 for each of its values, a third more as text.

    Args:
        point_maps: the cloud and its maps; the first is shown first.
        path: of the file; one that is there already is replaced.
        scaling: see `ColorScale`; each map has its own range, stated at its colour bar.
        whole: what is seen in the beginning, see `MapView.of`.

    Raises:
        ValueError: there are more than `MAX_POINTS` points.
    """
    if len(point_maps) > MAX_POINTS:
        raise ValueError(
            f"there are {len(point_maps)} points, and a page takes at most {MAX_POINTS}; leave some out, or write a"
            " .ply file"
        )
    template = resources.files("pctransformer.visualization").joinpath("maps_page.html").read_text("utf-8")
    # "<" never stands in JSON but within its strings: escaped, no title can end the script that holds the data
    data = json.dumps(page_data(point_maps, scaling, whole), separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    replace_file(path, template.replace("DATA", data, 1).encode())


def page_data(point_maps: PointMaps, scaling: Scaling, whole: bool = False) -> dict[str, Any]:
    """What the page's script reads: plain numbers and words, arrays as base64 of little-endian bytes."""
    view = MapView.of(point_maps, whole=whole)
    low, step, fixed = _fixed(view.xyz)
    return {
        "title": point_maps.title,
        "count": len(point_maps),
        "low": low.tolist(),
        "step": step.tolist(),
        "xyz": _text(fixed),
        "table": _text(np.rint(color_table() * 255).astype(np.uint8)),
        "maps": [_map(found, scaling) for found in point_maps.maps],
        "scaling": scaling,
        "spreads": SPREADS,
        "scaling_words": {
            "percentile": "linear from the 1st to the 99th of a hundred values",
            "sigmoid": "sigmoid of standard deviations from the mean",
            "linear": "linear from the lowest to the highest value",
        }[scaling],
        "azimuth_deg": view.azimuth_deg,
        "elevation_deg": view.elevation_deg,
        "middle": view.middle.tolist(),
        "radius": view.radius,
        "dot": view.dot,
        "ceiling": view.ceiling if np.isfinite(view.ceiling) else None,
        "lines": [
            {
                "points": np.round(wire.points[wire.lines.reshape(-1)], 3).reshape(-1).tolist(),
                "at": np.round(wire.points[wire.label_at], 3).tolist(),
                "color": _bytes(wire.color),
                "words": wire.words,
            }
            for wire in view.wires
        ],
        "legend": [[words, _bytes(color)] for words, color in view.legend],
    }


def _map(found: PointMap, scaling: Scaling) -> dict[str, Any]:
    about = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "values"}
    about["meaning"] = found.meaning
    colors, scale = found.colors(scaling)
    if scale is None:
        return {**about, "colors": _text(np.rint(255 * colors).astype(np.uint8))}
    shades = np.rint(scale.places(found.values) * (len(color_table()) - 1)).astype(np.uint8)
    return {**about, "low": scale.low, "high": scale.high, "places": _text(shades)}


def _fixed(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lowest coordinates (3,), the step of each axis (3,), and steps (N, 3) uint16 from the lowest."""
    if not len(xyz):
        return np.zeros(3), np.zeros(3), np.zeros((0, 3), np.uint16)
    low = xyz.min(0)
    step = (xyz.max(0) - low) / 65535
    return low, step, np.rint((xyz - low) / np.where(step > 0, step, 1)).astype("<u2")


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _bytes(color: tuple[float, float, float]) -> list[int]:
    return [round(255 * part) for part in color]
