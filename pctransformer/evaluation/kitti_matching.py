"""Overlaps of KITTI's detections with its labels, and the official assignment of the one to the other.

Everything is done for all frames, and for all score thresholds, at once. Rows are objects of all frames, frame after
frame, in the order of their files, on which the official assignment depends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from pctransformer.datasets.kitti.objects import KittiObjects
from pctransformer.evaluation.rotated_overlap import intersection_area

COUNTED, IGNORED, OTHER = 0, 1, -1
"""What an object is to the evaluation of a class: it counts; neither it nor what it gets counts; it is not there."""
_PAIRS_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Labels and detections that overlap.

    Attributes:
        label, detection: (p,) rows.
        overlap: (p,) intersection over union.
        frame: (p,) of both.
    """

    label: np.ndarray
    detection: np.ndarray
    overlap: np.ndarray
    frame: np.ndarray

    def take(self, mask: np.ndarray) -> Pairs:
        return Pairs(self.label[mask], self.detection[mask], self.overlap[mask], self.frame[mask])


# ---- overlaps --------------------------------------------------------------------------------------------------------
def pairs_in_frames(
    rows: np.ndarray, label_offsets: np.ndarray, detection_offsets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(label, detection, frame) of all pairs of a label among `rows` and a detection of its frame, some at a time."""
    frame = np.searchsorted(label_offsets, rows, side="right") - 1
    counts = np.diff(detection_offsets)[frame]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(rows):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        some = slice(begin, end)
        label = np.repeat(rows[some], counts[some])
        within = np.arange(len(label)) - np.repeat(ends[some] - counts[some] - before, counts[some])
        of_pair = np.repeat(frame[some], counts[some])
        yield label, detection_offsets[of_pair] + within, of_pair
        begin = end


def _image_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)


def _image_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _over(intersection: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(intersection, whole, out=np.zeros_like(intersection), where=intersection > 0)


def image_pairs(
    labels: KittiObjects,
    label_offsets: np.ndarray,
    detections: KittiObjects,
    detection_offsets: np.ndarray,
    rows: np.ndarray,
    lowest: float,
) -> Pairs:
    """Pairs whose boxes in the image overlap by more than `lowest`, for labels among `rows`."""
    found = []
    for label, detection, frame in pairs_in_frames(rows, label_offsets, detection_offsets):
        a, b = labels.boxes_2d[label], detections.boxes_2d[detection]
        shared = _image_intersection(a, b)
        overlap = _over(shared, _image_area(a) + _image_area(b) - shared)
        found.append(Pairs(label, detection, overlap, frame).take(overlap > lowest))
    return _joined(found)


def largest_share_in(
    regions: np.ndarray,
    labels: KittiObjects,
    label_offsets: np.ndarray,
    detections: KittiObjects,
    detection_offsets: np.ndarray,
) -> np.ndarray:
    """(d,) the largest share of each detection's box in the image that lies in one of the labels `regions`."""
    share = np.zeros(len(detections))
    for label, detection, _ in pairs_in_frames(regions, label_offsets, detection_offsets):
        a, b = labels.boxes_2d[label], detections.boxes_2d[detection]
        np.maximum.at(share, detection, _over(_image_intersection(a, b), _image_area(b)))
    return share


def ground_pairs(
    labels: KittiObjects,
    label_offsets: np.ndarray,
    detections: KittiObjects,
    detection_offsets: np.ndarray,
    rows: np.ndarray,
    lowest: float,
) -> tuple[Pairs, Pairs]:
    """Pairs by their overlap seen from above and by that of their volumes, each by more than `lowest`.

    The latter is never larger than the former, so that one search finds both. Rotated boxes are intersected only where
    boxes around them, with sides along x and z, overlap enough.
    """
    above, volumes = [], []
    a_all, b_all = _ground_boxes(labels), _ground_boxes(detections)
    a_around, b_around = _around(a_all), _around(b_all)
    a_area, b_area = a_all[:, 2] * a_all[:, 3], b_all[:, 2] * b_all[:, 3]
    for label, detection, frame in pairs_in_frames(rows, label_offsets, detection_offsets):
        most = _image_intersection(a_around[label], b_around[detection])
        most = np.minimum(most, np.minimum(a_area[label], b_area[detection]))
        near = most > lowest * (a_area[label] + b_area[detection] - most)
        label, detection, frame = label[near], detection[near], frame[near]
        shared = intersection_area(a_all[label], b_all[detection])
        overlap = _over(shared, a_area[label] + b_area[detection] - shared)
        pairs = Pairs(label, detection, overlap, frame)
        above.append(pairs.take(overlap > lowest))
        height_a, height_b = labels.dimensions[label, 0], detections.dimensions[detection, 0]
        bottom_a, bottom_b = labels.locations[label, 1], detections.locations[detection, 1]  # y points down
        high = np.minimum(bottom_a, bottom_b) - np.maximum(bottom_a - height_a, bottom_b - height_b)
        shared = shared * np.maximum(high, 0)
        overlap = _over(shared, a_area[label] * height_a + b_area[detection] * height_b - shared)
        volumes.append(dataclasses.replace(pairs, overlap=overlap).take(overlap > lowest))
    return _joined(above), _joined(volumes)


def _ground_boxes(objects: KittiObjects) -> np.ndarray:
    """(n, 5) x, z, length, width, heading. rotation_y turns from z towards x, a heading from x towards z."""
    _, width, length = objects.dimensions.T
    x, _, z = objects.locations.T
    return np.column_stack([x, z, np.maximum(length, 0), np.maximum(width, 0), -objects.rotation_y])


def _around(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) smallest x and z, largest x and z."""
    cos, sin = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
    half = np.column_stack([cos * boxes[:, 2] + sin * boxes[:, 3], sin * boxes[:, 2] + cos * boxes[:, 3]]) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0), none)
    return Pairs(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(Pairs)))


# ---- assignment ------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """What the labels of all frames were given, for each of T score thresholds.

    Attributes:
        pair: (T, m) the row of `pairs` that each of m labels was given, -1 for none.
        label: (m,) these labels, those that have a pair at all: first of every frame, second of every frame ...
        pairs: turn by turn, label by label, in the order in which they like them.
        detection: (k,) rows of the detections that have a pair.
        taken: (T, k) bool: that detection was given to a label.
    """

    pair: np.ndarray
    label: np.ndarray
    pairs: Pairs
    detection: np.ndarray
    taken: np.ndarray


def assign(
    pairs: Pairs, detection_state: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, *, by: str
) -> Assignment:
    """Let each label, in the order of the file, take the detection that it likes best among those still free.

    The official evaluator looks for score thresholds with `by="score"`: highest score first. It counts with
    `by="overlap"`: detections that count come first, largest overlap first; then the others in the order of the file.
    Equal ones go by the order of the file, too.

    Args:
        pairs: all that may be assigned, sorted by label, then by detection.
        detection_state: (d,) COUNTED or IGNORED.
        scores: (d,).
        thresholds: (T,) detections with a lower score are not there.
        by: "score" or "overlap".
    """
    label, counts = np.unique(pairs.label, return_counts=True)
    # labels of different frames do not touch each other: the first of every frame take together, then the second ...
    turn = _turns(pairs.frame[np.cumsum(counts) - counts])
    keys = [pairs.label, np.repeat(turn, counts)]
    if by == "score":
        keys = [-scores[pairs.detection], *keys]
    else:
        ignored = detection_state[pairs.detection] == IGNORED
        keys = [np.where(ignored, 0.0, -pairs.overlap), ignored, *keys]
    pairs = pairs.take(np.lexsort(keys))  # which leaves equal ones in the order of their detections
    order = np.argsort(turn, kind="stable")
    label, counts = label[order], counts[order]

    detections, column = np.unique(pairs.detection, return_inverse=True)
    there = scores[detections] >= thresholds[:, None]  # (T, k)
    free = there.copy()
    given = np.full((len(thresholds), len(label)), -1)
    begin_label = begin = 0
    for num_labels in np.bincount(turn):
        of_labels = counts[begin_label : begin_label + num_labels]
        end = begin + int(of_labels.sum())
        none = end - begin
        place = np.where(free[:, column[begin:end]], np.arange(none), none)
        first = np.minimum.reduceat(place, np.cumsum(of_labels) - of_labels, axis=1)  # (T, labels of this turn)
        threshold, which = np.nonzero(first < none)
        chosen = begin + first[threshold, which]
        free[threshold, column[chosen]] = False
        given[threshold, begin_label + which] = chosen
        begin, begin_label = end, begin_label + num_labels
    return Assignment(given, label, pairs, detections, there & ~free)


def _turns(frames: np.ndarray) -> np.ndarray:
    """(m,) how many rows of the same frame stand before each; `frames` is sorted."""
    begin = np.flatnonzero(np.diff(frames, prepend=-1))
    return np.arange(len(frames)) - np.repeat(begin, np.diff(begin, append=len(frames)))
