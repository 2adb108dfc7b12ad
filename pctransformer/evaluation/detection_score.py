"""Results of an evaluation of detections: curves, tables, recall by distance.

By falling score, equal scores together, detections give recall, the share of the objects that are found, and precision,
the share of the detections that are objects. Of this curve there are three averages, all between 0 and 1:

- `all_point`: the area under precision made monotone from the right (VOC since 2010).
- `r40`: the mean of that precision at recall 1/40, 2/40, ..., 1, and 0 where recall is not reached (Simonelli et al.,
  2019). Other than KITTI's own rule (`evaluation.kitti`) it takes every score as a threshold, not 41 chosen ones.
- `nuscenes`: precision as it is, interpolated at recall 0, 0.01, ..., 1, is lowered by 0.1, floored at 0, averaged over
  recall above 0.1, and divided by 0.9 (Caesar et al., nuScenes, 2020, section 3.1).

Errors are those of nuScenes: running means over true positives by falling score, averaged over recall above 0.1 as far
as it is reached: of centres seen from above (metres), of sizes (1 - IoU of boxes put on top of each other), and of
headings (radians, in [0, pi]). nuScenes sets them to 1 where recall stays below 0.1; here they are NaN then. Where no
two scores are equal, averages and errors are those of nuscenes-devkit (of 2025) to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pctransformer.evaluation.detection_matching import Criterion
from pctransformer.evaluation.numbers import or_none, percent

ALL = "all"
ERRORS_AT = Criterion("distance", 2.0)
"""What errors are reported for, as nuScenes does."""
LEAST = 0.1
"""Recall and precision below which nuScenes does not look."""
STEPS = np.linspace(0, 1, 101)
"""Of its recall."""
FIRST = round(100 * LEAST) + 1
"""The first of the steps that counts."""


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionCurve:
    """Precision over recall of one class, criterion and band of distances or of numbers of points.

    Attributes:
        class_name, criterion, band: what of; the band `ALL` is everything.
        count: objects that count.
        thresholds: (T,) the scores of detections, falling, each once.
        true_positives, false_positives: (T,) detections of at least that score.
        translation_error, size_error, heading_error: see this module.
    """

    class_name: str
    criterion: Criterion
    band: str
    count: int
    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    translation_error: float
    size_error: float
    heading_error: float

    @property
    def recall(self) -> np.ndarray:
        """(T,) share of the objects that are found; NaN if there are none."""
        return self.true_positives / self.count if self.count else np.full(len(self.thresholds), math.nan)

    @property
    def precision(self) -> np.ndarray:
        """(T,) share of the detections that are objects."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def best_recall(self) -> float:
        """With all detections; NaN without objects."""
        if not self.count:
            return math.nan
        return float(self.recall[-1]) if len(self.recall) else 0.0

    @property
    def all_point(self) -> float:
        """Average precision, the area under the curve; NaN without objects, as the others are."""
        if not self.count:
            return math.nan
        return float((np.diff(self.recall, prepend=0) * _falling(self.precision)).sum())

    @property
    def r40(self) -> float:
        """Average precision over 40 recall steps."""
        if not self.count:
            return math.nan
        # recall is a whole number over count, and so is reached exactly or not at all
        wanted = np.ceil(np.arange(1, 41) * self.count / 40 - 1e-9)
        place = np.searchsorted(self.true_positives, wanted)
        return float(np.append(_falling(self.precision), 0)[place].mean())

    @property
    def nuscenes(self) -> float:
        """Average precision as nuScenes defines it."""
        if not self.count:
            return math.nan
        if not len(self.thresholds):
            return 0.0
        precision = np.interp(STEPS, self.recall, self.precision, right=0)[FIRST:]
        return float(np.maximum(precision - LEAST, 0).mean() / (1 - LEAST))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: averages and errors, without the curve."""
        return {
            "class": self.class_name, "criterion": self.criterion.name, "band": self.band, "count": self.count,
            "all_point": or_none(self.all_point), "R40": or_none(self.r40), "nuscenes": or_none(self.nuscenes),
            "recall": or_none(self.best_recall), "translation_error": or_none(self.translation_error),
            "size_error": or_none(self.size_error), "heading_error": or_none(self.heading_error),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionScore:
    """All curves of an evaluation.

    Attributes:
        curves: by (class, name of the criterion, band).
        class_names: that were evaluated.
        criteria, bands: in their order; the first band is "all".
        num_scans, num_detections: that were evaluated.
    """

    curves: dict[tuple[str, str, str], DetectionCurve]
    class_names: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    bands: tuple[str, ...]
    num_scans: int
    num_detections: int

    def curve(self, class_name: str, criterion: str, band: str = ALL) -> DetectionCurve:
        """Of a class and a criterion, such as "2 m", "BEV 0.5", "3D 0.7"."""
        return self.curves[class_name, criterion, band]

    @property
    def mean_average_precision(self) -> float:
        """mAP of nuScenes: `nuscenes` averaged over the limits of distance, and over classes that have objects."""
        values = [curve.nuscenes for curve in self._of_all("distance") if curve.count]
        return float(np.mean(values)) if values else math.nan

    def _of_all(self, kind: str) -> Iterator[DetectionCurve]:
        return (curve for curve in self.curves.values() if curve.band == ALL and curve.criterion.kind == kind)

    def table(self) -> str:
        """Average precision of each class in percent, errors, and the same by bands."""
        limits = [c for c in self.criteria if c.kind == "distance"]
        overlaps = [c for c in self.criteria if c.kind != "distance"]
        errors = ERRORS_AT if ERRORS_AT in self.criteria else self.criteria[0]
        width = max(len(name) for name in (*self.class_names, "class"))
        head = "".join(f"{c.name:>9}" for c in (*limits, *overlaps))
        lines = [
            f"AP by distance of centres (nuScenes), R40 by overlap, percent; errors of true positives at {errors.name}",
            f"{'class':{width}} {'objects':>8}{head}{'m':>9}{'1 - IoU':>9}{'rad':>9}",
        ]
        for name in self.class_names:
            shares = [self.curve(name, c.name).nuscenes for c in limits]
            shares += [self.curve(name, c.name).r40 for c in overlaps]
            lines.append(f"{name:{width}} {self._row(name, errors.name, ALL, shares)}")
        if limits:
            lines.append(f"mAP {percent(self.mean_average_precision)}")
        if len(self.bands) > 1:
            lines += ["", "by band: all-point AP, percent, and the share of the objects that are found at all"]
            chosen = [errors, *overlaps]
            head = "".join(f"{c.name:>9}{'found':>7}" for c in chosen)
            band_width = max(len(band) for band in self.bands)
            lines.append(f"{'class':{width}} {'band':{band_width}} {'objects':>8}{head}")
            for name in self.class_names:
                for band in self.bands[1:]:
                    curves = [self.curve(name, c.name, band) for c in chosen]
                    cells = "".join(f"{percent(c.all_point):>9}{percent(c.best_recall):>7}" for c in curves)
                    lines.append(f"{name:{width}} {band:{band_width}} {curves[0].count:8}{cells}")
        return "\n".join(lines)

    def _row(self, name: str, errors: str, band: str, shares: Sequence[float]) -> str:
        curve = self.curve(name, errors, band)
        mistakes = (curve.translation_error, curve.size_error, curve.heading_error)
        text = "".join(f"{'-' if math.isnan(value) else f'{value:.3f}':>9}" for value in mistakes)
        return f"{curve.count:8}" + "".join(f"{percent(share):>9}" for share in shares) + text

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "scans": self.num_scans,
            "detections": self.num_detections,
            "mAP": or_none(self.mean_average_precision),
            "curves": [curve.as_dict() for curve in self.curves.values()],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class RecallByDistance:
    """How many objects are found at which distance.

    Attributes:
        criterion: when an object is found.
        edges: (b + 1,) metres from the sensor, seen from above; a lower edge belongs to its bin.
        counts: (b,) objects.
        found: (b,) of them.
    """

    criterion: Criterion
    edges: np.ndarray
    counts: np.ndarray
    found: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """(b,) share that is found; NaN where there are no objects."""
        return np.divide(self.found, self.counts, out=np.full(len(self.counts), math.nan), where=self.counts > 0)

    def table(self) -> str:
        """A line for each bin."""
        lines = [f"{'distance':>12} {'objects':>8} {'found, %':>9}   {self.criterion.name}"]
        for (low, high), count, share in zip(pairwise(self.edges), self.counts, self.recall):
            lines.append(f"{band_name(low, high, 'm'):>12} {count:8} {percent(share):>9}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an open end is None."""
        edges = [None if math.isinf(edge) else float(edge) for edge in self.edges]
        recall = [or_none(value) for value in self.recall.tolist()]
        return {
            "criterion": self.criterion.name, "edges": edges,
            "counts": self.counts.tolist(), "found": self.found.tolist(), "recall": recall,
        }  # fmt: skip


def band_name(low: float, high: float, unit: str) -> str:
    """Of a band from low to below high, which may be open."""
    if math.isinf(high):
        return f"{low:g}+ {unit}"
    return f"{low:g}-{high - 1 if unit == 'points' else high:g} {unit}"


def _falling(precision: np.ndarray) -> np.ndarray:
    """Each the largest from there on."""
    return np.maximum.accumulate(precision[::-1])[::-1]
