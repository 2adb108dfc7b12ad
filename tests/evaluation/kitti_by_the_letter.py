"""KITTI's official evaluation restated as loops over frames, thresholds, labels and detections: slow and obvious."""

from __future__ import annotations

import math

import numpy as np

from pctransformer.evaluation.kitti import MAX_OCCLUSION, MAX_TRUNCATION, MIN_HEIGHT, NEIGHBOURS
from tests.evaluation.test_rotated_overlap import clipped_area

NOTHING = -1


def rectangle(objects, i):
    _, width, length = objects.dimensions[i]
    x, _, z = objects.locations[i]
    return x, z, length, width, -objects.rotation_y[i]


def image_overlap(a, b, *, of_first=False):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (first if of_first else first + second - width * height)


def overlap(metric, detections, j, labels, i):
    if metric == "bbox":
        return image_overlap(detections.boxes_2d[j], labels.boxes_2d[i])
    shared = max(clipped_area(rectangle(detections, j), rectangle(labels, i)), 0.0)
    sizes = [float(np.prod(objects.dimensions[k][1:])) for objects, k in ((detections, j), (labels, i))]
    if metric == "3d":
        bottoms = [objects.locations[k][1] for objects, k in ((detections, j), (labels, i))]
        heights = [objects.dimensions[k][0] for objects, k in ((detections, j), (labels, i))]
        shared *= max(0.0, min(bottoms) - max(b - h for b, h in zip(bottoms, heights)))
        sizes = [size * height for size, height in zip(sizes, heights)]
    return shared / (sum(sizes) - shared)


def states(labels, detections, name, difficulty):
    of_labels, of_detections = [], []
    for i, kind in enumerate(labels.types):
        height = labels.boxes_2d[i][3] - labels.boxes_2d[i][1]
        hard = (
            labels.occluded[i] > MAX_OCCLUSION[difficulty]
            or labels.truncated[i] > MAX_TRUNCATION[difficulty]
            or height <= MIN_HEIGHT[difficulty]
        )
        own, neighbour = kind.lower() == name.lower(), kind.lower() == NEIGHBOURS.get(name, "").lower()
        of_labels.append(0 if own and not hard else 1 if own or neighbour else -1)
    for j, kind in enumerate(detections.types):
        height = int(abs(detections.boxes_2d[j][3] - detections.boxes_2d[j][1]))
        of_detections.append(1 if height < MIN_HEIGHT[difficulty] else 0 if kind.lower() == name.lower() else -1)
    return of_labels, of_detections


def statistics(labels, detections, name, difficulty, metric, limit, threshold=None):
    """Scores of true positives, and how many there are, false positives, misses, similarity."""
    of_labels, of_detections = states(labels, detections, name, difficulty)
    there = [threshold is None or score >= threshold for score in detections.scores]
    free = list(there)
    scores, similarity, missed = [], 0.0, 0
    for i, of_label in enumerate(of_labels):
        if of_label == -1:
            continue
        best, best_value = NOTHING, -math.inf
        best_is_ignored = False
        for j, of_detection in enumerate(of_detections):
            if of_detection == -1 or not free[j]:
                continue
            value = overlap(metric, detections, j, labels, i)
            if value <= limit:
                continue
            if threshold is None:
                if detections.scores[j] > best_value:
                    best, best_value = j, detections.scores[j]
            elif of_detection == 0:
                if best == NOTHING or best_is_ignored or value > best_value:
                    best, best_value, best_is_ignored = j, value, False
            elif best == NOTHING:
                best, best_is_ignored = j, True
        if best == NOTHING:
            missed += of_label == 0
            continue
        free[best] = False
        if of_label == 0 and of_detections[best] == 0:
            scores.append(detections.scores[best])
            similarity += (1 + math.cos(labels.alpha[i] - detections.alpha[best])) / 2
    false = 0
    for j, of_detection in enumerate(of_detections):
        if of_detection != 0 or not free[j]:
            continue
        regions = [labels.boxes_2d[i] for i, kind in enumerate(labels.types) if kind == "DontCare"]
        box = detections.boxes_2d[j]
        excused = metric == "bbox" and any(image_overlap(box, region, of_first=True) > limit for region in regions)
        false += not excused
    return scores, len(scores), false, missed, similarity


def curve(frames, name, difficulty, metric, limit):
    """Counted labels, thresholds, precision (41,), orientation similarity (41,)."""
    count, scores = 0, []
    for labels, detections in frames:
        count += states(labels, detections, name, difficulty)[0].count(0)
        scores += statistics(labels, detections, name, difficulty, metric, limit)[0]
    scores.sort(reverse=True)
    thresholds, wanted = [], 0.0
    for i, score in enumerate(scores):
        if i < len(scores) - 1 and (i + 2) / count - wanted < wanted - (i + 1) / count:
            continue
        thresholds.append(score)
        wanted += 1 / 40
    precision, similarity = [0.0] * 41, [0.0] * 41
    for t, threshold in enumerate(thresholds):
        rows = [statistics(*frame, name, difficulty, metric, limit, threshold)[1:] for frame in frames]
        true, false, _, alike = (sum(column) for column in zip(*rows))
        if true + false:
            precision[t], similarity[t] = true / (true + false), alike / (true + false)
    monotone = [[max(values[t:]) for t in range(41)] for values in (precision, similarity)]
    return count, thresholds, *monotone
