"""Published recipes of augmentation for detectors on KITTI, as OpenPCDet trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pctransformer.datasets.object_database import ObjectDatabase
from pctransformer.datasets.object_sampling import PasteObjects
from pctransformer.datasets.scan_transforms import (
    ComposeScans,
    CropToRange,
    RandomFlip,
    RandomScale,
    RandomTurn,
    ShufflePoints,
)

Range = tuple[float, float, float, float, float, float]
WANTED: dict[str, tuple[Mapping[str, int], bool]] = {
    "second": ({"Car": 20, "Pedestrian": 15, "Cyclist": 15}, True),
    "pointpillars": ({"Car": 15, "Pedestrian": 15, "Cyclist": 15}, False),
    "pv_rcnn": ({"Car": 15, "Pedestrian": 10, "Cyclist": 10}, False),
}
"""Recipe to objects that are pasted of each class, and whether those of the scan are counted among them."""


def training_recipe(
    name: str, database: ObjectDatabase | None, *, class_names: Sequence[str], range: Range
) -> ComposeScans:
    """Paste objects, mirror, turn by up to 45 degrees, scale by up to 5 %, crop, shuffle.

    Args:
        name: "second" (Yan et al., 2018), "pointpillars" (Lang et al., 2019), "pv_rcnn" (Shi et al., 2020).
        database: the objects; None: nothing is pasted.
        class_names: of the labels 0, 1, ...; classes that a recipe pastes and that are not among them are left out.
        range: of the detector, see `CropToRange`.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in WANTED:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(WANTED)}")
    wanted, fill_up = WANTED[name]
    wanted = {kind: count for kind, count in wanted.items() if kind in class_names}
    paste = () if database is None else (PasteObjects(database, class_names, wanted, fill_up),)
    return ComposeScans((*paste, RandomFlip(), RandomTurn(), RandomScale(), CropToRange(range), ShufflePoints()))
