"""What is computed once from KITTI's files: infos of each split, and the database of objects of the training split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pctransformer.datasets.kitti.frames import FRAMES_OF_SPLIT, KittiFrame
from pctransformer.datasets.object_database import LabelledObject, ObjectDatabase
from pctransformer.datasets.scans import in_box
from pctransformer.errors import UserError

KNOWN_COUNTS = {"Car": (14357, 13532, 10759), "Pedestrian": (2207, 2168, 2075), "Cyclist": (734, 705, 581)}
"""Objects of the training split, as public logs of OpenPCDet have them: all, with 5 points, of them not too hard."""
_TOLERANCE = 0.02
"""Of the numbers that depend on points: OpenPCDet counts those within 1 cm around a box, too, and here they are not."""


def labelled_objects(frames: Sequence[KittiFrame]) -> Iterator[LabelledObject]:
    """Every object of the frames with the points in its box, those that the camera does not see included."""
    for frame in frames:
        points = frame.read_points()
        for box, kind, difficulty in zip(frame.boxes, frame.objects.types, frame.difficulty):
            yield LabelledObject(points[in_box(points, box)], box, str(kind), int(difficulty), frame.name)


def check_counts(database: ObjectDatabase, num_frames: int) -> bool:
    """Compare a database of the full training split with the known numbers of objects.

    Args:
        num_frames: that it was made of.

    Returns:
        False if these are not all frames of the split, so that there is nothing to compare.

    Raises:
        UserError: the numbers differ, so that labels or points are not those of KITTI.
    """
    if num_frames != FRAMES_OF_SPLIT["train"]:
        return False
    counts = database.counts()
    for name, known in KNOWN_COUNTS.items():
        found = counts.get(name, (0, 0, 0))
        near = all(abs(f - k) <= _TOLERANCE * k for f, k in zip(found[1:], known[1:]))
        if found[0] != known[0] or not near:
            raise UserError(
                f"the {num_frames} frames of the training split hold {found[0]} {name}, {found[1]} with 5 points,"
                f" {found[2]} of them not too hard; KITTI has {known[0]}, {known[1]} and {known[2]}; are these labels"
                " or points of another set?"
            )
    return True
