"""Average precision by the rules of KITTI's official evaluator: 2-D boxes, seen from above, 3-D boxes, orientation.

For a class and a difficulty some labels count; others (too small, hidden or truncated, or of a neighbouring class: a
van is nearly a car) may be found or not, and detections that are too low in the image may be wrong, at no cost. At most
41 score thresholds are chosen at which recall grows by steps of 1/40; precision at each is the share of detections that
have a label of their own, made monotone from the right. R40 is the mean of the last 40 of these precisions (Simonelli
et al., 2019; KITTI's rule since October 2019), R11 that of every fourth of the 41.

Recall steps that no threshold reaches count as 0, and there are no more thresholds than labels that count: with n < 41
of them a perfect detector gets R40 = 2.5 (n - 1). So the number of these labels and the bound are reported beside every
R40, and all-point average precision, the area under the whole curve, which knows no such bound.

Source: Geiger et al., 2012, and the C++ evaluator of KITTI's object development kit, version of 2017. One
difference: where no detection counts at a threshold, precision is 0 here, and 0/0 there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pctransformer.datasets.kitti.objects import KittiObjects, concatenate
from pctransformer.evaluation.kitti_matching import (
    COUNTED,
    IGNORED,
    OTHER,
    Pairs,
    assign,
    ground_pairs,
    image_pairs,
    largest_share_in,
)

Metric = Literal["bbox", "bev", "3d", "aos"]
METRICS: tuple[Metric, ...] = ("bbox", "bev", "3d", "aos")
DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)
"""Pixels by difficulty. A label counts if it is higher, a detection if it is at least as high."""
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.30, 0.50)
CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
MIN_OVERLAP = {
    "strict": {"Car": (0.7, 0.7, 0.7), "Pedestrian": (0.5, 0.5, 0.5), "Cyclist": (0.5, 0.5, 0.5)},
    "loose": {"Car": (0.7, 0.5, 0.5), "Pedestrian": (0.5, 0.25, 0.25), "Cyclist": (0.5, 0.25, 0.25)},
}
"""Overlap that a detection must exceed, in the image, seen from above, in space. "strict" is KITTI's own."""
RECALL_STEPS = 41


# ---- results ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Precision over recall of one class, metric, difficulty and overlap. Shares of 1; the averages are percent.

    Attributes:
        class_name, metric, difficulty: what of; for "aos", precision is orientation similarity (1 + cos) / 2.
        min_overlap: that a detection must exceed.
        count: labels that count.
        precision: (41,) at recall 0, 1/40, ..., 1, each the largest from there on; 0 where no threshold was found.
        thresholds: (T,) scores, falling, T <= min(41, count).
        true_positives, false_positives, false_negatives: (T,) at each threshold.
        all_point: average precision with a threshold at every true positive, the area under the curve, percent; NaN if
            nothing counts. For it each label takes its detection of highest score; precision is made monotone, too.
    """

    class_name: str
    metric: Metric
    difficulty: str
    min_overlap: float
    count: int
    precision: np.ndarray
    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    all_point: float

    @property
    def r40(self) -> float:
        """Average precision over 40 recall steps, percent."""
        return 100 * float(self.precision[1:].mean())

    @property
    def r11(self) -> float:
        """Average precision over 11 recall steps, percent, as in the years before 2019."""
        return 100 * float(self.precision[::4].mean())

    @property
    def r40_bound(self) -> float:
        """R40 of a perfect detector, percent: 2.5 (n - 1) for n < 41 labels that count, else 100."""
        return 2.5 * min(max(self.count - 1, 0), RECALL_STEPS - 1)

    @property
    def recall(self) -> np.ndarray:
        """(T,) share of the labels that are found, of those that are found or missed."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "class": self.class_name, "metric": self.metric, "difficulty": self.difficulty,
            "min_overlap": self.min_overlap, "R40": self.r40, "R11": self.r11,
            "all_point": None if math.isnan(self.all_point) else self.all_point,
            "count": self.count, "R40_bound": self.r40_bound,
            "precision": self.precision.tolist(), "recall": self.recall.tolist(),
            "thresholds": self.thresholds.tolist(),
            "true_positives": self.true_positives.tolist(), "false_positives": self.false_positives.tolist(),
            "false_negatives": self.false_negatives.tolist(),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class KittiScore:
    """All curves of an evaluation.

    Attributes:
        curves: by (class, metric, difficulty, "strict" or "loose"). "bbox" and "aos" are strict only; "aos" is absent
            if any detection has alpha -10, which says that orientations are not given.
        num_frames: frames that were evaluated.
        num_detections: of all classes.
    """

    curves: dict[tuple[str, Metric, str, str], Curve]
    num_frames: int
    num_detections: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key[0] for key in self.curves))

    def average_precision(
        self, class_name: str, metric: Metric, difficulty: str = "moderate", *, overlap: str = "strict"
    ) -> float:
        """R40 in percent; NaN where there is no orientation."""
        curve = self.curves.get((class_name, metric, difficulty, overlap))
        return math.nan if curve is None else curve.r40

    def table(self) -> str:
        """The text by which detectors are compared, easy, moderate and hard side by side; then what it hides."""
        blocks = []
        for name in self.class_names:
            for overlap in MIN_OVERLAP:
                limits = ", ".join(f"{limit:.2f}" for limit in MIN_OVERLAP[overlap][name])
                for title, kind in (("AP_R40", "r40"), ("AP_R11", "r11")):
                    lines = [f"{name} {title}@{limits}:"]
                    lines += [f"{metric:4} AP: {self._row(name, metric, overlap, kind)}" for metric in METRICS]
                    blocks.append("\n".join(lines))
        lines = ["class       difficulty  objects  R40 at most   all-point AP: bbox     bev      3d"]
        for name in self.class_names:
            for difficulty in DIFFICULTIES:
                curve = self.curves[name, "bbox", difficulty, "strict"]
                averages = [self.curves[name, metric, difficulty, "strict"].all_point for metric in METRICS[:3]]
                text = " ".join("       -" if math.isnan(value) else f"{value:8.4f}" for value in averages)
                lines.append(f"{name:11} {difficulty:10} {curve.count:8} {curve.r40_bound:12.2f} {'':13}{text}")
        return "\n\n".join([*blocks, "\n".join(lines)])

    def _row(self, name: str, metric: Metric, overlap: str, kind: str) -> str:
        own = "strict" if metric in ("bbox", "aos") else overlap
        curves = [self.curves.get((name, metric, difficulty, own)) for difficulty in DIFFICULTIES]
        return ", ".join("-" if curve is None else f"{getattr(curve, kind):.4f}" for curve in curves)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything that there is."""
        return {
            "frames": self.num_frames,
            "detections": self.num_detections,
            "curves": [{**curve.as_dict(), "overlap": key[3]} for key, curve in self.curves.items()],
        }


# ---- evaluation ------------------------------------------------------------------------------------------------------
def evaluate_kitti(
    labels: Sequence[KittiObjects], detections: Sequence[KittiObjects], *, classes: Sequence[str] = CLASSES
) -> KittiScore:
    """Evaluate detections of all frames together.

    Classes are compared without regard to upper and lower case.

    Args:
        labels: of each frame, with all classes and DontCare.
        detections: of each frame, in the same order, with scores; boxes in the image as well as in space.
        classes: among Car, Pedestrian, Cyclist.

    Raises:
        ValueError: another number of frames, detections without scores, an unknown class.
    """
    if len(labels) != len(detections):
        raise ValueError(f"there are labels of {len(labels)} frames, but detections of {len(detections)}")
    unknown = [name for name in classes if name not in CLASSES]
    if unknown:
        raise ValueError(f"KITTI evaluates {', '.join(CLASSES)}, not {', '.join(unknown)}")
    if any(len(frame) and frame.scores is None for frame in detections):
        raise ValueError("detections must have scores; with_scores(numpy.ones(n)) makes detections of labels")
    scene = _Scene(labels, detections)
    curves: dict[tuple[str, Metric, str, str], Curve] = {}
    for name in classes:
        for number, difficulty in enumerate(DIFFICULTIES):
            label_state, detection_state = scene.states(name, number)
            for overlap, limits in MIN_OVERLAP.items():
                for metric, limit in zip(METRICS, limits[name]):
                    if metric == "bbox" and overlap == "loose":
                        continue
                    orientation = metric == "bbox" and scene.has_orientation
                    for curve in scene.curves(metric, limit, label_state, detection_state, orientation=orientation):
                        named = dataclasses.replace(curve, class_name=name, difficulty=difficulty)
                        curves[name, curve.metric, difficulty, overlap] = named
    return KittiScore(curves, len(labels), len(scene.detections))


class _Scene:
    """Objects of all frames, and which of them overlap: what does not depend on class and difficulty."""

    def __init__(self, labels: Sequence[KittiObjects], detections: Sequence[KittiObjects]) -> None:
        self.labels, label_offsets = concatenate(labels)
        self.detections, detection_offsets = concatenate(detections)
        self.label_types = np.char.lower(self.labels.types)
        self.detection_types = np.char.lower(self.detections.types)
        assert self.detections.scores is not None
        self.scores = self.detections.scores
        self.has_orientation = bool((self.detections.alpha != -10).all())
        frames = (self.labels, label_offsets, self.detections, detection_offsets)
        evaluated = np.isin(self.label_types, [name.lower() for name in (*CLASSES, *NEIGHBOURS.values())])
        limits = np.array([list(by_class.values()) for by_class in MIN_OVERLAP.values()])
        rows = np.flatnonzero(evaluated)
        above, volumes = ground_pairs(*frames, rows, limits[..., 1:].min())
        self.pairs = {"bbox": image_pairs(*frames, rows, limits[..., 0].min()), "bev": above, "3d": volumes}
        self.share_in_dont_care = largest_share_in(np.flatnonzero(self.label_types == "dontcare"), *frames)

    def states(self, name: str, difficulty: int) -> tuple[np.ndarray, np.ndarray]:
        """What each label and each detection is to a class and a difficulty: COUNTED, IGNORED or OTHER."""
        labels, boxes = self.labels, self.detections.boxes_2d
        own = self.label_types == name.lower()
        out = (labels.occluded > MAX_OCCLUSION[difficulty]) | (labels.truncated > MAX_TRUNCATION[difficulty])
        out |= labels.boxes_2d[:, 3] - labels.boxes_2d[:, 1] <= MIN_HEIGHT[difficulty]
        neighbour = self.label_types == NEIGHBOURS.get(name, "").lower()
        label_state = np.where(own & ~out, COUNTED, np.where(own | neighbour, IGNORED, OTHER))
        # a low detection is ignored whatever its class is: it may take a label that would else be missed
        low = np.abs(boxes[:, 3] - boxes[:, 1]) < MIN_HEIGHT[difficulty]
        detection_state = np.where(low, IGNORED, np.where(self.detection_types == name.lower(), COUNTED, OTHER))
        return label_state, detection_state

    def curves(
        self, metric: Metric, limit: float, label_state: np.ndarray, detection_state: np.ndarray, *, orientation: bool
    ) -> list[Curve]:
        """The curve of a metric and, if wanted, that of orientation; their class and difficulty are left open."""
        pairs = self.pairs[metric]
        pairs = pairs.take(
            (pairs.overlap > limit) & (label_state[pairs.label] != OTHER) & (detection_state[pairs.detection] != OTHER)
        )
        count = int((label_state == COUNTED).sum())
        may_be_false = detection_state == COUNTED
        if metric == "bbox":  # DontCare has no box in space
            may_be_false &= self.share_in_dont_care <= limit

        true, false, _, _ = self._counts(
            pairs, np.array([-np.inf]), label_state, detection_state, may_be_false, "score"
        )
        thresholds = choose_thresholds(true, count)
        all_point = _all_point(true, false, count)
        _, _, tp_fp_fn, similarity = self._counts(
            pairs, thresholds, label_state, detection_state, may_be_false, "overlap"
        )
        tp, fp, fn = tp_fp_fn
        rest = (thresholds, tp, fp, fn)
        found = [Curve("", metric, "", limit, count, _steps(_ratio(tp, tp + fp)), *rest, all_point)]
        if orientation:
            found.append(Curve("", "aos", "", limit, count, _steps(_ratio(similarity, tp + fp)), *rest, math.nan))
        return found

    def _counts(
        self,
        pairs: Pairs,
        thresholds: np.ndarray,
        label_state: np.ndarray,
        detection_state: np.ndarray,
        may_be_false: np.ndarray,
        by: str,
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """Assign and count.

        Returns:
            scores of the true positives, and of the false ones, both at the lowest threshold.
            true positives, false positives and false negatives, each (T,).
            similarity (T,): sum of (1 + cos of the difference in alpha) / 2 over true positives.
        """
        assigned = assign(pairs, detection_state, self.scores, thresholds, by=by)
        pairs, counted = assigned.pairs, label_state[assigned.label] == COUNTED
        has = assigned.pair >= 0  # (T, m)
        # a label that counts and was given an ignored detection is neither found nor missed
        true = has & counted & (detection_state[pairs.detection[assigned.pair]] == COUNTED) if len(pairs.label) else has
        tp = true.sum(axis=1)
        fn = int((label_state == COUNTED).sum()) - (has & counted).sum(axis=1)
        # detections without any pair are false at every threshold that they reach
        alone = may_be_false.copy()
        alone[assigned.detection] = False
        scores_alone = np.sort(self.scores[alone])
        paired = may_be_false[assigned.detection]
        scores_paired = self.scores[assigned.detection]
        false_paired = (scores_paired >= thresholds[:, None]) & paired & ~assigned.taken  # (T, k)
        fp = false_paired.sum(axis=1) + len(scores_alone) - np.searchsorted(scores_alone, thresholds)
        angle = self.labels.alpha[pairs.label] - self.detections.alpha[pairs.detection]
        alike = (1 + np.cos(angle)) / 2
        similarity = np.where(true, alike[assigned.pair], 0).sum(axis=1) if len(alike) else np.zeros(len(thresholds))
        if not len(thresholds):
            return np.zeros(0), np.zeros(0), (tp, fp, fn), similarity
        true_scores = self.scores[pairs.detection[assigned.pair[-1][true[-1]]]]
        false_scores = np.concatenate([scores_alone, scores_paired[false_paired[-1]]])
        return true_scores, false_scores, (tp, fp, fn), similarity


def choose_thresholds(true_scores: np.ndarray, count: int) -> np.ndarray:
    """Scores at which recall is nearest to 0, 1/40, 2/40, ...: the official choice.

    Args:
        true_scores: (t,) of all true positives.
        count: labels that count, >= t.

    Returns:
        (T,) falling, T <= 41. The lowest score is always among them.
    """
    scores = np.sort(true_scores)[::-1]
    chosen, wanted = [], 0.0
    for i in range(len(scores)):
        last = i == len(scores) - 1
        recall, next_recall = (i + 1) / count, (i + 2) / count
        if not last and next_recall - wanted < wanted - recall:
            continue
        chosen.append(scores[i])
        wanted += 1 / (RECALL_STEPS - 1)
    return np.array(chosen, np.float64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _steps(values: np.ndarray) -> np.ndarray:
    """(41,) each the largest from there on, 0 beyond the last threshold."""
    steps = np.zeros(RECALL_STEPS)
    steps[: len(values)] = np.maximum.accumulate(values[::-1])[::-1]
    return steps


def _all_point(true_scores: np.ndarray, false_scores: np.ndarray, count: int) -> float:
    """Percent; detections of equal score come in together."""
    if not count:
        return math.nan
    true, false = np.sort(true_scores), np.sort(false_scores)
    tp = len(true) - np.searchsorted(true, true[::-1])  # from the highest score down
    fp = len(false) - np.searchsorted(false, true[::-1])
    precision = np.maximum.accumulate((tp / (tp + fp))[::-1])
    return 100 * float(precision.sum()) / count
