"""Boxes as wires over the image of a camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.datasets.kitti import Calibration, project_lines
from pctransformer.visualization.detection import TRUE, class_colour, class_legend
from pctransformer.visualization.geometry import box_lines
from pctransformer.visualization.style import MIDDLE, heading, new_figure, place, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 12.4  # the width of an image on the page


def camera_figure(
    image: np.ndarray,
    calibration: Calibration,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    predicted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    title: str = "",
) -> Figure:
    """An image with boxes as wires: what `scan_figure` shows from above, as the camera sees it.

    Labelled boxes are green and broad, ignored ones grey; predicted boxes have the colour of their class, and their
    scores, best first as far as they do not cover others. A line from the centre through the front of each box is its
    heading. What lies behind the camera or beyond the edges of the image is cut off.

    Args:
        image: (height, width, 3) red, green, blue, in [0, 1] or uint8.
        calibration: from the LiDAR into this image.
        boxes, labels: (m, 7) and (m,) int of labelled objects, -1 ignored.
        class_names: of the labels.
        predicted: boxes (k, 7), labels (k,), scores (k,), drawn above the others, far ones first.
        title: for instance the name of the frame.
    """
    height, width = image.shape[:2]
    inches = _INCHES * height / width
    figure = new_figure(_INCHES + 0.6, inches + 1.2)
    axes = place(figure, 0.3, 0.3, _INCHES, inches)
    axes.set_axis_off()
    axes.imshow(image, aspect="auto", interpolation="lanczos")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))

    def wires(several: np.ndarray) -> list[np.ndarray]:
        """Of each box the segments (s, 2, 2) that are in the image."""
        points, lines = box_lines(several)
        pixels, seen = project_lines(points[lines[:, 0]], points[lines[:, 1]], calibration, (width, height))
        per_box = len(lines) // max(len(several), 1)
        return [pixels[rows][seen[rows]] for rows in np.arange(len(lines)).reshape(len(several), per_box)]

    shown = 0
    for segments, label in zip(wires(boxes), labels):
        _draw(axes, segments, TRUE if label >= 0 else MIDDLE, width=2.8)
        shown += bool(len(segments)) and bool(label >= 0)
    words = f"{shown} labelled boxes (green)" if len(boxes) else ""
    if predicted is not None:
        depths = calibration.to_image(calibration.to_camera(predicted[0][:, :3]))[1]
        order = np.argsort(-depths, kind="stable")
        found, classes, scores = (np.asarray(values)[order] for values in predicted)
        pixels = wires(found)
        for segments, label in zip(pixels, classes):
            _draw(axes, segments, class_colour(int(label)), width=1.4)
        in_image = [row for row in np.argsort(-scores, kind="stable") if len(pixels[row])]
        shown = len(in_image)
        _scores(axes, [(pixels[row], class_colour(int(classes[row])), float(scores[row])) for row in in_image])
        words += f"{', ' if words else ''}{shown} of {len(scores)} predicted boxes in the image: "
    heading(figure, 0.3, inches + 1.05, title or "as the camera sees it", words)
    if predicted is not None:
        class_legend(figure, 0.3 + text_width(words, 0.72 * 15) + 0.25, inches + 0.73, class_names)
    return figure


def _draw(axes: Any, segments: np.ndarray, colour: str, *, width: float) -> None:
    """Lines with a dark rim, which sets them off from whatever the image shows there; small boxes have thinner ones."""
    from matplotlib.collections import LineCollection

    if not len(segments):
        return
    width *= float(np.clip(np.ptp(segments[..., 1]) / 90, 0.55, 1))  # else the wires of far boxes would fill them
    for line, shade, opacity in ((1.8 * width, "black", 0.4), (width, colour, 1.0)):
        axes.add_collection(
            LineCollection(list(segments), colors=shade, linewidths=line, alpha=opacity, capstyle="round"),
            autolim=False,
        )


def _scores(axes: Any, found: Sequence[tuple[np.ndarray, str, float]]) -> None:
    """Of boxes, each its segments, colour and score: the score over its middle, within the image where the box reaches
    the edge. One that would lie over another that was written before is left out."""
    width = axes.get_xlim()[1]
    size = width / (72 * _INCHES)  # pixels of 1/72 inch
    taken = np.zeros((0, 2))
    for segments, colour, score in found:
        low, high = segments.reshape(-1, 2).min(0), segments.reshape(-1, 2).max(0)
        at = np.array([np.clip((low[0] + high[0]) / 2, 18, width - 18.5), max(low[1] - 4, 14)])
        if (np.abs(taken - at) < [20 * size, 10 * size]).all(1).any():
            continue
        taken = np.concatenate([taken, at[None]])
        axes.text(
            *at, f"{score:.2f}", ha="center", va="bottom", fontsize=7, color="white", clip_on=True,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": colour, "edgecolor": "none"},
        )  # fmt: skip
