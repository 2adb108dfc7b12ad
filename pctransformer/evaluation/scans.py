"""What a detector finds in the scans of a data set, and the same in KITTI's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from pctransformer.boxes import BoxBatch
from pctransformer.datasets.kitti import KittiFrame, to_kitti
from pctransformer.datasets.kitti.objects import KittiObjects
from pctransformer.datasets.scans import ScanDataset, collate_scans
from pctransformer.evaluation.detection import count_points
from pctransformer.evaluation.inference import evaluating


class Found(NamedTuple):
    """What a detector found in one scan, on the CPU.

    Attributes:
        row: of the scan in its data set.
        boxes: of one cloud, with labels and scores.
        labelled: the boxes of the scan itself.
        points: (k,) points in each box that was found, (m,) in each that is labelled.
        loss: of the model, by these.
    """

    row: int
    boxes: BoxBatch
    labelled: BoxBatch
    points: tuple[np.ndarray, np.ndarray]
    loss: float


def detect_in_scans(
    model: nn.Module,
    scans: ScanDataset,
    *,
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    rows: Sequence[int] | None = None,
    **limits: Any,
) -> list[Found]:
    """What a detector finds in scans.

    Args:
        model: a `Detector` on that device.
        scans: with the model's classes.
        batch_size: scans that go through the model together; the loss of each is the mean of theirs.
        device: where the model is.
        dtype: of autocast; None for none.
        rows: of the scans; None: all.
        limits: of `Detector.predict`, for instance score_threshold.
    """
    device = torch.device(device)
    rows = range(len(scans)) if rows is None else rows
    found: list[Found] = []
    detector: Any = model  # with the verbs of a Detector, of which this part of the package does not know
    with evaluating(model), torch.inference_mode():
        for begin in range(0, len(rows), batch_size):
            of_batch = rows[begin : begin + batch_size]
            points, labelled = collate_scans([scans[row] for row in of_batch])
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                output = detector(points.to(device))
                loss = detector.loss(output, labelled.to(device))["loss"].item()
                boxes = detector.predict(output, **limits).to("cpu")
            counts = [np.split(count_points(points, of), of.offsets[1:-1].numpy()) for of in (boxes, labelled)]
            found += map(
                Found, of_batch, boxes.split(), labelled.split(), zip(*counts, strict=True), [loss] * len(of_batch)
            )
    return found


def detections_of_frames(
    found: Sequence[Found], frames: Sequence[KittiFrame], class_names: Sequence[str]
) -> list[KittiObjects]:
    """What was found in KITTI's frames, as its evaluation wants it and its files hold it.

    Args:
        frames: of the data set that `found` is of.
        class_names: of the labels.
    """
    detections = []
    for one in found:
        frame, boxes = frames[one.row], one.boxes
        assert boxes.scores is not None
        detections.append(
            to_kitti(
                boxes.boxes.numpy(), boxes.scores.numpy(), boxes.labels.numpy(),
                class_names=class_names, calibration=frame.calibration, image_size=frame.image_size,
            )
        )  # fmt: skip
    return detections
