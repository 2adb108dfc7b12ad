"""Average precision and errors of detections by plain loops over one class: the definitions, word for word."""

from __future__ import annotations

import numpy as np

from pctransformer.ops import box_iou


def rows_of(truth, detections, label, kind, limit):
    """Of all detections of the class by falling score: score, whether it is an object, and its three errors."""
    ranked = []
    for scan, (objects, found) in enumerate(zip(truth.split(), detections.split())):
        for i in range(len(found.boxes)):
            if found.labels[i] == label:
                ranked.append((float(found.scores[i]), scan, i, objects, found))
    ranked.sort(key=lambda row: -row[0])
    taken, rows = set(), []
    for score, scan, i, objects, found in ranked:
        best, chosen, excused = None, None, False
        for j in range(len(objects.boxes)):
            a, b = objects.boxes[j : j + 1], found.boxes[i : i + 1]
            if kind == "distance":
                cost = float(np.hypot(*(a[0, :2] - b[0, :2]).double().numpy()))
                meets = cost < limit
            else:
                cost = -float(box_iou(a, b, view=kind)[0, 0])
                meets = -cost > limit
            if not meets:
                continue
            if objects.labels[j] == -1:
                excused = True
            elif objects.labels[j] == label and (scan, j) not in taken and (best is None or cost < best):
                best, chosen = cost, j
        if chosen is not None:
            taken.add((scan, chosen))
            a, b = objects.boxes[chosen].double().numpy(), found.boxes[i].double().numpy()
            shared = np.prod(np.minimum(a[3:6], b[3:6]))
            turn = abs(a[6] - b[6]) % (2 * np.pi)
            errors = (
                np.hypot(*(a - b)[:2]),
                1 - shared / (np.prod(a[3:6]) + np.prod(b[3:6]) - shared),
                min(turn, 2 * np.pi - turn),
            )
            rows.append((score, True, errors))
        elif not excused:
            rows.append((score, False, None))
    return rows


def averages(rows, count):
    """all_point, R40, nuScenes' average."""
    tp = fp = 0
    recall, precision = [], []
    for _, true, _ in rows:
        tp, fp = tp + true, fp + (not true)
        recall.append(tp / count)
        precision.append(tp / (tp + fp))
    area, before = 0.0, 0.0
    for i in range(len(rows)):
        area += (recall[i] - before) * max(precision[i:])
        before = recall[i]
    steps = [max((p for r, p in zip(recall, precision) if r >= k / 40 - 1e-9), default=0.0) for k in range(1, 41)]
    curve = np.interp(np.linspace(0, 1, 101), recall, precision, right=0) if rows else np.zeros(101)
    above = [max(value - 0.1, 0) for value in curve[11:]]
    return area, sum(steps) / 40, sum(above) / len(above) / 0.9


def mean_errors(rows, count):
    """(translation, size, heading) of nuScenes, NaN where recall stays too low."""
    tp, recall = 0, []
    for _, true, _ in rows:
        tp += true
        recall.append(tp / count)
    if not rows:
        return (np.nan,) * 3
    confidence = np.interp(np.linspace(0, 1, 101), recall, [score for score, _, _ in rows], right=0)
    last = max((i for i in range(101) if confidence[i] != 0), default=0)
    if last < 11:
        return (np.nan,) * 3
    matched = [(score, errors) for score, true, errors in rows if true]
    found = []
    for which in range(3):
        running = [np.mean([errors[which] for _, errors in matched[: i + 1]]) for i in range(len(matched))]
        scores = [score for score, _ in matched]
        found.append(np.interp(confidence[::-1], scores[::-1], running[::-1])[::-1][11 : last + 1].mean())
    return tuple(found)
