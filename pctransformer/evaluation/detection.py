"""How good detections are, without any camera: average precision by distance and by overlap, errors, by range.

Objects count if their label is not -1. `detection_matching` says which detection is which object, `detection_score`
what is made of it. A true positive belongs to the range of its object, a false one to its own, so that a detection
across the border of two ranges costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from pctransformer.boxes import BoxBatch
from pctransformer.evaluation.detection_matching import NONE, Criterion, find_candidates, join, match
from pctransformer.evaluation.detection_score import (
    ALL,
    FIRST,
    STEPS,
    DetectionCurve,
    DetectionScore,
    RecallByDistance,
    band_name,
)
from pctransformer.ops import points_in_boxes
from pctransformer.points import PointBatch

DISTANCES = (0.5, 1.0, 2.0, 4.0)
"""Metres, of nuScenes."""
OVERLAPS = (0.5, 0.7)
RANGES = (0.0, 20.0, 40.0, 60.0)
"""Metres from the sensor, seen from above."""
POINTS = (1, 10, 50)
"""Borders of bands of points in a box."""


def evaluate_detection(
    truth: BoxBatch | Sequence[BoxBatch],
    detections: BoxBatch | Sequence[BoxBatch],
    class_names: Sequence[str],
    *,
    distances: Sequence[float] = DISTANCES,
    overlaps: Sequence[float] = OVERLAPS,
    ranges: Sequence[float] = RANGES,
    points: tuple[np.ndarray, np.ndarray] | None = None,
    point_counts: Sequence[int] = POINTS,
) -> DetectionScore:
    """Evaluate detections of all scans together.

    Args:
        truth: the objects of each scan, with label -1 for those to be ignored; one batch, or batches one after another.
        detections: of the same scans, in the same order, with scores.
        class_names: of the labels.
        distances: limits of the distance of centres, metres.
        overlaps: limits of the intersection over union, each seen from above and in space.
        ranges: borders of bands of the distance from the sensor, metres, the last band is open; () for none.
        points: how many are in each object and in each detection, of all scans in order, see `count_points`, for bands
            by them; None: no such bands.
        point_counts: borders of these, each the least number of its band.

    Raises:
        ValueError: other numbers of scans, detections without scores or class, labels without a name, no criterion.
    """
    objects, found = _checked(truth, detections, len(class_names))
    criteria = tuple(Criterion("distance", float(limit)) for limit in distances)
    views: tuple[Literal["bev", "3d"], ...] = ("bev", "3d")
    criteria += tuple(Criterion(view, float(limit)) for view in views for limit in overlaps)
    if not criteria:
        raise ValueError("there is neither a limit of distance nor one of overlap to evaluate by")
    bands = {ALL: (np.ones(len(objects.boxes), bool), np.ones(len(found.boxes), bool))}
    bands |= _bands(ranges, _range_of(objects), _range_of(found), "m")
    if points is not None:
        if [len(counts) for counts in points] != [len(objects.boxes), len(found.boxes)]:
            raise ValueError(
                f"points are counted of {len(points[0])} objects and {len(points[1])} detections, but there are"
                f" {len(objects.boxes)} and {len(found.boxes)}"
            )
        bands |= _bands(point_counts, *points, "points")
    candidates = find_candidates(objects, found, within=max(distances, default=0.0))
    scores, labels = found.scores.double().numpy(), objects.labels.numpy()
    order = np.argsort(-scores, kind="stable")
    of_class = [order[found.labels.numpy()[order] == label] for label in range(len(class_names))]
    curves: dict[tuple[str, str, str], DetectionCurve] = {}
    for criterion in criteria:
        chosen = match(candidates, criterion, objects, found)
        errors = _errors(objects, found, chosen)
        for label, name in enumerate(class_names):
            rows = of_class[label]  # of detections, by falling score
            object_rows = chosen[rows]
            for band, (of_objects, of_found) in bands.items():
                is_true = (object_rows >= 0) & np.append(of_objects, False)[object_rows]
                is_false = (object_rows == NONE) & of_found[rows]
                there = is_true | is_false
                count = int(((labels == label) & of_objects).sum())
                curve = _curve(count, scores[rows[there]], is_true[there], errors[:, rows[there]])
                curves[name, criterion.name, band] = DetectionCurve(name, criterion, band, count, *curve)
    return DetectionScore(curves, tuple(class_names), criteria, tuple(bands), len(objects), len(found.boxes))


def recall_by_distance(
    truth: BoxBatch | Sequence[BoxBatch],
    detections: BoxBatch | Sequence[BoxBatch],
    iou_threshold: float = 0.5,
    bins: Sequence[float] = (0, 10, 20, 30, 40, 50, 60, math.inf),
    *,
    view: Literal["bev", "3d"] = "3d",
    label: int | None = None,
) -> RecallByDistance:
    """The share of the objects that a detection of their class overlaps by more than a limit, by their distance.

    Args:
        truth, detections: see `evaluate_detection`; detections of any score count.
        iou_threshold: of the intersection over union.
        bins: borders of the distance from the sensor, seen from above, metres, rising.
        view: overlap seen from above or in space.
        label: of the class to look at; None: all.

    Raises:
        ValueError: see `evaluate_detection`; borders do not rise.
    """
    objects, found = _checked(truth, detections, None)
    edges = np.asarray(bins, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"borders of distance must rise, and be two at least, got {list(bins)}")
    criterion = Criterion(view, float(iou_threshold))
    chosen = match(find_candidates(objects, found, within=0), criterion, objects, found)
    labels = objects.labels.numpy()
    wanted = labels >= 0 if label is None else labels == label
    is_found = np.zeros(len(labels), bool)
    is_found[chosen[chosen >= 0]] = True
    place = np.searchsorted(edges, _range_of(objects), side="right") - 1
    inside = (place >= 0) & (place < len(edges) - 1) & wanted
    counts = np.bincount(place[inside], minlength=len(edges) - 1)
    return RecallByDistance(
        criterion, edges, counts, np.bincount(place[inside & is_found], minlength=len(edges) - 1)
    )  # fmt: skip


def count_points(points: PointBatch, boxes: BoxBatch) -> np.ndarray:
    """(M,) int64 points in each box; one in several boxes counts for the first of them."""
    index = points_in_boxes(points.xyz, points.offsets, boxes.boxes, boxes.offsets)
    return np.bincount(index[index >= 0].cpu().numpy(), minlength=len(boxes.boxes))


# ---- parts -----------------------------------------------------------------------------------------------------------
def _checked(
    truth: BoxBatch | Sequence[BoxBatch], detections: BoxBatch | Sequence[BoxBatch], num_classes: int | None
) -> tuple[BoxBatch, Any]:
    objects, found = join(truth), join(detections)
    if len(objects) != len(found):
        raise ValueError(f"there are objects of {len(objects)} scans, but detections of {len(found)}")
    if found.scores is None:
        if len(found.boxes):
            raise ValueError("detections must have scores; batch.replace(scores=torch.ones(m)) makes some of labels")
        found = found.replace(scores=found.boxes.new_zeros(0))
    if (found.labels < 0).any():
        raise ValueError("a detection has label -1; it must be of a class")
    for what, batch in (("an object", objects), ("a detection", found)):
        if num_classes is not None and (batch.labels >= num_classes).any():
            raise ValueError(f"{what} has label {int(batch.labels.max())}, but there are {num_classes} class names")
    return objects, found


def _range_of(boxes: BoxBatch) -> np.ndarray:
    """(M,) metres from the sensor, seen from above."""
    return np.hypot(boxes.boxes[:, 0].double().numpy(), boxes.boxes[:, 1].double().numpy())


def _bands(
    borders: Sequence[float], of_objects: np.ndarray, of_found: np.ndarray, unit: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks of the objects and of the detections in each band, by its name; the last band is open."""
    if any(high <= low for low, high in pairwise(borders)):
        raise ValueError(f"borders must rise, got {list(borders)}")
    bands = {}
    for low, high in pairwise((*borders, math.inf) if borders else ()):
        masks = [(values >= low) & (values < high) for values in (of_objects, of_found)]
        bands[band_name(low, high, unit)] = (masks[0], masks[1])
    return bands


def _errors(objects: BoxBatch, found: BoxBatch, chosen: np.ndarray) -> np.ndarray:
    """(3, d) translation, size and heading error of each detection that is an object; 0 for the others."""
    errors = np.zeros((3, len(chosen)))
    rows = np.flatnonzero(chosen >= 0)
    a, b = objects.boxes.double().numpy()[chosen[rows]], found.boxes.double().numpy()[rows]
    errors[0, rows] = np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1])
    shared = np.minimum(a[:, 3:6], b[:, 3:6]).prod(axis=1)
    whole = a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - shared
    errors[1, rows] = 1 - np.divide(shared, whole, out=np.zeros(len(rows)), where=whole > 0)
    errors[2, rows] = np.abs((b[:, 6] - a[:, 6] + np.pi) % (2 * np.pi) - np.pi)
    return errors


def _curve(
    count: int, scores: np.ndarray, is_true: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float, float]:
    """What a `DetectionCurve` has, of detections by falling score."""
    thresholds, last = _last_of_each(scores)
    tp = np.cumsum(is_true)[last]
    fp = last + 1 - tp
    if count and len(scores):
        score_at = np.interp(STEPS, tp / count, thresholds, right=0)  # nuScenes calls it confidence
        reached = np.flatnonzero(score_at)
        if len(reached) and reached[-1] >= FIRST:
            steps = score_at[FIRST : reached[-1] + 1]
            true_scores, last = _last_of_each(scores[is_true])
            running = np.cumsum(errors[:, is_true], axis=1)[:, last] / (last + 1)
            translation, size, heading = (
                float(np.interp(steps[::-1], true_scores[::-1], row[::-1]).mean()) for row in running
            )
            return thresholds, tp, fp, translation, size, heading
    return thresholds, tp, fp, math.nan, math.nan, math.nan


def _last_of_each(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Falling scores, each once, and the last row of each: detections of equal score come in together."""
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, np.int64)
    return scores[last], last
