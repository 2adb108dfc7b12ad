"""Maps of points to a file: a picture, a page that turns in a browser, coloured points, or plain numbers.

Nothing here opens a window or a port; `maps_window.show_window` opens a window.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pctransformer.datasets.files import write_ply
from pctransformer.errors import UserError
from pctransformer.visualization.color_scale import Scaling
from pctransformer.visualization.point_maps import PointMaps

SUFFIXES = (".png", ".html", ".ply", ".npz")


def write(
    point_maps: PointMaps, path: str | Path, *, scaling: Scaling = "percentile", whole: bool = False
) -> list[str]:
    """Write maps of points; the file's name says how. A file that is there already is replaced.

    - .png: a picture with a panel for each map, see `maps_picture.write_picture`.
    - .html: a page to turn and to click, see `maps_page.write_page`.
    - .ply: points with the colours of the first map and the values of all, see `write_maps_ply`.
    - .npz: all numbers, which `PointMaps.load_npz` reads again; it knows no colours.

    Args:
        point_maps: the cloud and its maps.
        path: where to; its folder must exist.
        scaling: how values become colours, see `color_scale.ColorScale`.
        whole: whether pictures and pages show all of the cloud also where all maps are from boxes, else what is near
            these.

    Returns:
        remarks for the user, for instance that a plainer renderer was taken; mostly none.

    Raises:
        UserError: the file has another suffix, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: maps of points are written as {', '.join(SUFFIXES)}; end its name so")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    match path.suffix.lower():
        case ".png":
            from pctransformer.visualization.maps_picture import write_picture

            return write_picture(point_maps, path, scaling=scaling, whole=whole)
        case ".html":
            from pctransformer.visualization.maps_page import write_page

            write_page(point_maps, path, scaling=scaling, whole=whole)
        case ".ply":
            write_maps_ply(point_maps, path, scaling=scaling)
        case _:
            point_maps.save_npz(path)
    return []


def write_maps_ply(point_maps: PointMaps, path: str | Path, *, scaling: Scaling = "percentile") -> None:
    """Points as binary PLY with the colours of the first map, and the values of each map in a column of its own.

    Columns have the maps' names in one word, as "attention_encoder_layers_0_head_2_from_point_17"; where three values
    are a colour, these end in "_red", "_green" and "_blue".
    """
    colors, _ = point_maps.maps[0].colors(scaling)
    columns: dict[str, np.ndarray] = {}
    for i, found in enumerate(point_maps.maps):
        name = re.sub(r"\W+", "_", found.name, flags=re.ASCII)
        name = name if name.isidentifier() else f"map_{name}"
        for end, values in zip(("_red", "_green", "_blue"), found.values.T) if found.is_color else [("", found.values)]:
            columns[f"{name}_{i}{end}" if f"{name}{end}" in columns else f"{name}{end}"] = values
    write_ply(path, point_maps.xyz, colors=colors, features=columns)
