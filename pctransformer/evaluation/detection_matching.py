"""Which detection is which object: by the distance of centres, or by overlap, for all scans at once.

In each scan and class detections choose by falling score, equal ones in their order: each takes the object that is
nearest, or that it overlaps most, of those that meet the criterion and are still free. One that gets none, but meets
the criterion with an object of label -1, is neither right nor wrong, however many there are of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.evaluation.kitti_matching import pairs_in_frames
from pctransformer.ops import box_iou

NONE, EXCUSED = -1, -2
"""What a detection found if it found no object: nothing, or one of label -1."""


class Criterion(NamedTuple):
    """When a detection may be an object.

    Attributes:
        kind: "distance": their centres, seen from above, are nearer than the limit, metres; "bev", "3d": their
            intersection over union, seen from above or in space, is above the limit.
        limit: in metres, or between 0 and 1.
    """

    kind: Literal["distance", "bev", "3d"]
    limit: float

    @property
    def name(self) -> str:
        """For tables: "2 m", "BEV 0.5", "3D 0.7"."""
        return f"{self.limit:g} m" if self.kind == "distance" else f"{self.kind.upper()} {self.limit:g}"


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of an object and a detection of its scan, of the same class or with an ignored object, that are near.

    Attributes:
        truth, detection: (p,) rows.
        distance: (p,) of their centres seen from above, metres.
        overlap: (p,) by view, "bev" and "3d".
    """

    truth: np.ndarray
    detection: np.ndarray
    distance: np.ndarray
    overlap: dict[str, np.ndarray]


def join(batches: BoxBatch | Sequence[BoxBatch]) -> BoxBatch:
    """The boxes of all clouds of all batches, on the CPU.

    Raises:
        ValueError: some batches have scores, others have none.
    """
    parts = [batches] if isinstance(batches, BoxBatch) else list(batches)
    if not parts:
        return BoxBatch(torch.zeros(0, 7), torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    parts = [part.to("cpu") for part in parts]
    scores = [part.scores for part in parts if part.scores is not None]
    if len(scores) not in (0, len(parts)):
        raise ValueError(f"{len(scores)} of {len(parts)} batches of boxes have scores; all of them must, or none")
    lengths = torch.cat([part.lengths for part in parts])
    return BoxBatch(
        torch.cat([part.boxes for part in parts]).float(),
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        torch.cat([part.labels for part in parts]),
        torch.cat(scores).float() if scores else None,
    )


def find_candidates(truth: BoxBatch, detections: BoxBatch, *, within: float) -> Candidates:
    """All pairs that any criterion may make.

    Args:
        truth: of all scans, on the CPU; label -1 for objects to be ignored.
        detections: of the same scans.
        within: pairs nearer than this are kept, metres; so are all that overlap.
    """
    boxes, found = truth.boxes.double().numpy(), detections.boxes.double().numpy()
    truth_labels, labels = truth.labels.numpy(), detections.labels.numpy()
    reach, own_reach = (np.hypot(rows[:, 3], rows[:, 4]) / 2 for rows in (boxes, found))
    none = np.zeros(0, np.int64)
    kept = [(none, none, np.zeros(0))]
    for t, d, _ in pairs_in_frames(np.arange(len(boxes)), truth.offsets.numpy(), detections.offsets.numpy()):
        distance = np.hypot(boxes[t, 0] - found[d, 0], boxes[t, 1] - found[d, 1])
        same = (truth_labels[t] == labels[d]) | (truth_labels[t] < 0)
        near = same & (distance < np.maximum(within, reach[t] + own_reach[d]))
        kept.append((t[near], d[near], distance[near]))
    t, d, distance = (np.concatenate(column) for column in zip(*kept))
    pairs = truth.boxes[torch.from_numpy(t)], detections.boxes[torch.from_numpy(d)]
    overlap = {
        "bev": box_iou(*pairs, view="bev", aligned=True).numpy(),
        "3d": box_iou(*pairs, view="3d", aligned=True).numpy(),
    }
    return Candidates(t, d, distance, overlap)


def match(candidates: Candidates, criterion: Criterion, truth: BoxBatch, detections: BoxBatch) -> np.ndarray:
    """(d,) int64: the row of the object that each detection is, or NONE, or EXCUSED; see this module."""
    assert detections.scores is not None
    if criterion.kind == "distance":
        dislike = candidates.distance
        meets = dislike < criterion.limit
    else:
        dislike = -candidates.overlap[criterion.kind]
        meets = dislike < -criterion.limit
    t, d = candidates.truth[meets], candidates.detection[meets]
    counts = truth.labels.numpy()[t] >= 0
    order = np.lexsort((t, dislike[meets], d, -detections.scores.numpy()[d].astype(np.float64)))
    order = order[counts[order]]
    found = np.full(len(detections.scores), NONE)
    found[d[~counts]] = EXCUSED
    taken: set[int] = set()
    done: set[int] = set()
    for object_, detection in zip(t[order].tolist(), d[order].tolist()):
        if object_ not in taken and detection not in done:
            taken.add(object_)
            done.add(detection)
            found[detection] = object_
    return found
