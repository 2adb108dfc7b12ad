"""Print how wrongly found objects are turned, their axes and which way along them they point, and how high they stand.

    python tools/poses.py runs/deformable/detections data/streets/training/label_2

Both folders hold KITTI's text files, one for each frame. A labelled object that is not largely occluded counts as found
where a box of its class with a score above 0.3 has its centre within a metre, seen from above; of several the nearest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pctransformer.datasets.kitti.objects import KittiObjects, read_objects
from pctransformer.errors import UserError

_SCORE, _DISTANCE, _OCCLUSION = 0.3, 1.0, 1


def errors(found: KittiObjects, true: KittiObjects, name: str) -> np.ndarray:
    """Of the n objects of a class that are found in a frame.

    Returns:
        (n, 3): degrees between the axes, in [0, 90]; 1 where the box points the other way, else 0; metres by which its
        bottom is too high.
    """
    assert found.scores is not None
    boxes = np.flatnonzero((found.types == name) & (found.scores > _SCORE))
    objects = np.flatnonzero((true.types == name) & (true.occluded <= _OCCLUSION))
    if not (len(boxes) and len(objects)):
        return np.zeros((0, 3))
    places, centres = found.locations[boxes][:, [0, 2]], true.locations[objects][:, [0, 2]]
    apart = np.linalg.norm(centres[:, None] - places, axis=2)  # (objects, boxes)
    hit = apart.min(1) < _DISTANCE
    box, one = boxes[apart.argmin(1)][hit], objects[hit]
    turn = np.degrees(found.rotation_y[box] - true.rotation_y[one])
    turn = np.abs((turn + 180) % 360 - 180)
    raised = true.locations[one, 1] - found.locations[box, 1]  # the camera's y points down
    return np.stack([np.minimum(turn, 180 - turn), turn > 90, raised], 1)


def summary(detections: Path, labels: Path) -> list[str]:
    """A line for each class of which there are objects that were found.

    Raises:
        UserError: there are no detections, or a frame of them has no labels.
    """
    files = sorted(detections.glob("*.txt"))
    if not files:
        raise UserError(f"{detections}: there are no .txt files of detections here")
    frames = [(read_objects(file, scores=True), read_objects(labels / file.name, scores=False)) for file in files]
    lines = []
    for name in sorted({str(name) for _, true in frames for name in true.types} - {"DontCare"}):
        every = np.concatenate([errors(found, true, name) for found, true in frames])
        if len(every):
            axis, reverse, raised = every.mean(0)
            lines.append(
                f"{name}: {len(every)} found, axes {axis:.1f} degrees off, {reverse:.0%} reversed, bottoms"
                f" {abs(raised):.2f} m too {'high' if raised > 0 else 'low'}"
            )
    return lines


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detections", type=Path)
    parser.add_argument("labels", type=Path)
    given = parser.parse_args()
    try:
        print(*summary(given.detections, given.labels), sep="\n")
    except UserError as error:
        raise SystemExit(f"poses: {error}") from None


if __name__ == "__main__":
    main()
