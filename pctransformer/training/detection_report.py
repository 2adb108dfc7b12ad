"""How good detections are, by KITTI's rules where there is a camera, and what that leaves in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pctransformer.datasets.box_files import NamedBoxes, write_boxes
from pctransformer.datasets.kitti import KittiObjects, write_objects
from pctransformer.evaluation.detection import evaluate_detection, recall_by_distance
from pctransformer.evaluation.detection_score import DetectionScore, RecallByDistance
from pctransformer.evaluation.kitti import CLASSES, KittiScore, evaluate_kitti
from pctransformer.evaluation.scans import Found, detections_of_frames
from pctransformer.training.scans import ScanPart

_PICTURES = 3
_SHOWN_SCORE = 0.3  # what is less certain clutters pictures
_OVERLAPS = (0.5, 0.7)


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What was found in scans, and how good it is.

    Attributes:
        found: of every scan, in order.
        part: the scans.
        plain: without regard to any camera.
        official: by KITTI's rules; None where a camera is missing or no class is one of KITTI's.
        detections: in KITTI's terms; none where a camera is missing.
    """

    found: Sequence[Found]
    part: ScanPart
    plain: DetectionScore
    official: KittiScore | None
    detections: Sequence[KittiObjects]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.part.scans.class_names

    def average_precision(self, view: Literal["bev", "3d"]) -> float:
        """Mean over the classes of the all-point average precision, percent.

        Of moderate objects by KITTI's rules, or else of all objects that are overlapped by half.
        """
        if self.official is not None:
            curves = self.official.curves
            values = [curves[name, view, "moderate", "strict"].all_point for name in self.official.class_names]
        else:
            values = [100 * self.plain.curve(name, f"{view.upper()} 0.5").all_point for name in self.class_names]
        known = [value for value in values if np.isfinite(value)]
        return float(np.mean(known)) if known else 0.0

    def r40(self) -> dict[str, dict[str, float]]:
        """R40 of each class from above and in space, percent: {"Car": {"bev": ..., "3d": ...}, ...}.

        Of moderate objects by KITTI's rules, or else of all objects that are overlapped by half. Classes of which there
        is no such object are left out.
        """
        found: dict[str, dict[str, float]] = {}
        views: tuple[Literal["bev", "3d"], ...] = ("bev", "3d")
        for view in views:
            if self.official is not None:
                of = {
                    name: self.official.curves[name, view, "moderate", "strict"] for name in self.official.class_names
                }
                values = {name: curve.r40 for name, curve in of.items() if curve.count}
            else:
                plain = {name: self.plain.curve(name, f"{view.upper()} 0.5") for name in self.class_names}
                values = {name: 100 * curve.r40 for name, curve in plain.items() if curve.count}
            for name, value in values.items():
                found.setdefault(name, {})[view] = value
        return found

    def in_short(self) -> dict[str, float]:
        """By which epochs are compared."""
        return {"ap_bev": self.average_precision("bev"), "ap_3d": self.average_precision("3d")}

    def recalls(self) -> dict[str, dict[float, RecallByDistance]]:
        """How many objects of each class are found at which distance, by the overlap in space that is asked."""
        truth, boxes = [one.labelled for one in self.found], [one.boxes for one in self.found]
        return {
            name: {overlap: recall_by_distance(truth, boxes, overlap, label=label) for overlap in _OVERLAPS}
            for label, name in enumerate(self.class_names)
        }

    def table(self) -> str:
        """What people compare detectors by."""
        plain = self.plain.table()
        return plain if self.official is None else f"{self.official.table()}\n\nwithout regard to the camera\n{plain}"

    def line(self) -> str:
        """The main numbers."""
        parts = []
        if self.official is None:
            for name in self.class_names:
                bev, space = (100 * self.plain.curve(name, f"{view} 0.5").r40 for view in ("BEV", "3D"))
                parts.append(f"{name} {bev:.1f} / {space:.1f}")
            return "AP R40, from above / in space, overlap 0.5: " + ", ".join(parts)
        for name in self.official.class_names:
            numbers = [
                self.official.average_precision(name, metric, overlap=overlap)
                for overlap in ("strict", "loose")
                for metric in ("bev", "3d")
            ]
            parts.append(f"{name} {numbers[0]:.1f} / {numbers[1]:.1f} ({numbers[2]:.1f} / {numbers[3]:.1f})")
        return "KITTI's AP R40, moderate, from above / in space (loose overlap): " + ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        recalls = {
            name: {str(overlap): recall.as_dict() for overlap, recall in of_class.items()}
            for name, of_class in self.recalls().items()
        }
        official = {} if self.official is None else {"kitti": self.official.as_dict()}
        return {
            "count": len(self.found),
            **self.in_short(),
            "r40": self.r40(),
            **official,
            "plain": self.plain.as_dict(),
            "recall_by_distance": recalls,
        }


def judge(found: Sequence[Found], part: ScanPart) -> Judged:
    """Judge what was found in all scans of a part."""
    names = part.scans.class_names
    in_found, in_objects = (np.concatenate([one.points[i] for one in found]) for i in (0, 1))
    truth, boxes = [one.labelled for one in found], [one.boxes for one in found]
    plain = evaluate_detection(truth, boxes, names, points=(in_objects, in_found))
    detections = detections_of_frames(found, part.frames, names) if part.frames else []
    known = [name for name in names if name in CLASSES]
    official = None
    if part.frames and known:
        official = evaluate_kitti([frame.labels for frame in part.frames], detections, classes=known)
    return Judged(found, part, plain, official, detections)


def report(judged: Judged, folder: Path, figures: Path) -> None:
    """Boxes as text, and pictures.

    Args:
        judged: of some scans.
        folder: that exists; gets detections/NAME.txt, in KITTI's form where there is a camera.
        figures: that exists; gets curves-bev.png, curves-3d.png, recall-CLASS.png, scan-1.png and so on.
    """
    from pctransformer.visualization.detection import precision_recall_figure, scan_figure
    from pctransformer.visualization.detection_scores import recall_figure

    (folder / "detections").mkdir(exist_ok=True)
    scans = judged.part.scans
    for row, name in enumerate(scans.names):
        file = folder / "detections" / f"{Path(name).stem}.txt"
        if judged.detections:
            write_objects(file, judged.detections[row])
            continue
        boxes = judged.found[row].boxes
        assert boxes.scores is not None
        types = np.array(scans.class_names, np.str_)[boxes.labels.numpy()]
        write_boxes(file, NamedBoxes(types, boxes.boxes.numpy(), boxes.scores.numpy()))
    if judged.official is not None:
        for metric in ("bev", "3d"):
            figure = precision_recall_figure(judged.official, metric)
            figure.savefig(figures / f"curves-{metric}.png", dpi=150)
    for name, of_class in judged.recalls().items():
        lines = {f"overlap > {overlap:g}": recall for overlap, recall in of_class.items()}
        figure = recall_figure(lines, title=f"{name}: objects found, by distance")
        figure.savefig(figures / f"recall-{name}.png", dpi=150)
    for number, row in enumerate(_spread(len(scans), _PICTURES), 1):
        scan, boxes = scans[row], judged.found[row].boxes
        assert boxes.scores is not None
        shown = (boxes.scores >= _SHOWN_SCORE).numpy()
        figure = scan_figure(
            scan.points, scan.boxes, scan.labels, scans.class_names, title=scan.name,
            predicted=(boxes.boxes.numpy()[shown], boxes.labels.numpy()[shown], boxes.scores.numpy()[shown]),
        )  # fmt: skip
        figure.savefig(figures / f"scan-{number}.png", dpi=110)


def _spread(count: int, limit: int) -> list[int]:
    """So many rows from all over."""
    limit = min(count, limit)
    return [i * count // limit for i in range(limit)]
