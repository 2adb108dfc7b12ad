"""BoxBatch: the boxes of a batch of clouds, and the one box convention of the package.

A box is (x, y, z, dx, dy, dz, heading): x, y, z of its geometric centre and its sizes along its own axes in metres, and
the angle from +x to its own x axis, counter-clockwise seen from above, in radians. In the LiDAR frame x points forward,
y left and z up, so a car that drives straight ahead has heading 0 and its length is dx.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pctransformer.ops import _checks

# Signs of the corners of a box in its own frame: front left, rear left, rear right, front right; below, then above.
_CORNERS = ((1, 1), (-1, 1), (-1, -1), (1, -1))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BoxBatch:
    """The boxes of a batch of clouds, stored row after row: annotations, or what a detector found.

    The boxes of cloud b are rows `offsets[b]:offsets[b + 1]`; a cloud may have none. A batch is never written into:
    `replace` makes a changed copy that shares the tensors left alone.

    Attributes:
        boxes: (M, 7) float32: x, y, z of the centre, dx, dy, dz in metres, heading in radians (see this module).
        offsets: (B + 1,) int64 row offsets with a leading 0.
        labels: (M,) int64 class of each box, from 0; -1 for boxes to be ignored.
        scores: (M,) float32 for what was detected; None for annotations.

    Example:
        >>> batch = BoxBatch.from_list([torch.tensor([[10.0, 2, -1, 4, 2, 1.5, 0]]), torch.zeros(0, 7)])
        >>> batch
        BoxBatch(2 clouds, 1 boxes, cpu)
    """

    boxes: Tensor
    offsets: Tensor
    labels: Tensor
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        _checks.boxes(self.boxes)
        _checks.offsets(self.offsets, self.boxes, like_name="boxes")
        _checks.index(self.labels, self.boxes, "labels", "boxes")
        for name, values in (("labels", self.labels), ("scores", self.scores)):
            if values is not None and values.shape != self.boxes.shape[:1]:
                raise ValueError(
                    f"{name} must be (M,), one for each of {self.boxes.shape[0]} boxes, got {tuple(values.shape)}"
                )
        if self.scores is not None:
            if not self.scores.dtype.is_floating_point:
                raise TypeError(f"scores must be of a floating type, got {self.scores.dtype}; convert with .float()")
            _checks.same_device(self.scores, "scores", self.boxes, "boxes")

    # ---- what it holds -----------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.boxes.device

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 boxes of each cloud."""
        return self.offsets.diff()

    @property
    def batch_index(self) -> Tensor:
        """(M,) int64 the cloud of each box."""
        clouds = torch.arange(len(self), device=self.device)
        return torch.repeat_interleave(clouds, self.lengths, output_size=self.boxes.shape[0])

    def __repr__(self) -> str:
        scored = "" if self.scores is None else "with scores, "
        return f"BoxBatch({len(self)} clouds, {self.boxes.shape[0]} boxes, {scored}{self.device})"

    def validate(self) -> BoxBatch:
        """Check values: offsets from 0 to M that never decrease, finite boxes, no negative size, labels from -1.

        `from_list` does this on CPU. On CUDA it waits for the device, so nobody does it unasked.

        Returns:
            the batch itself.

        Raises:
            ValueError: naming the first row or offset that is wrong.
        """
        offsets, rows = self.offsets.tolist(), self.boxes.shape[0]
        if offsets[0] != 0 or offsets[-1] != rows:
            raise ValueError(f"offsets must run from 0 to the number of boxes, {rows}; they are {offsets}")
        for b, (begin, end) in enumerate(pairwise(offsets)):
            if end < begin:
                raise ValueError(f"offsets must not decrease, but offsets[{b}:{b + 2}] = {[begin, end]}")
        for wrong, text in (
            (~self.boxes.isfinite().all(1), "holds NaN or infinity; drop such boxes"),
            ((self.boxes[:, 3:6] < 0).any(1), "has a negative size; sizes are (dx, dy, dz), behind the centre"),
            (self.labels < -1, "has a label below -1; classes count from 0, and -1 is for boxes to be ignored"),
        ):
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise ValueError(f"box {row}, {self.boxes[row].tolist()} of class {int(self.labels[row])}, {text}")
        return self

    def corners(self) -> Tensor:
        """(M, 8, 3) corners of the boxes, as `box_corners` orders them."""
        return box_corners(self.boxes)

    # ---- made, changed, taken apart ----------------------------------------------------------------------------------
    @classmethod
    def from_list(
        cls,
        boxes: Sequence[Tensor | np.ndarray],
        labels: Sequence[Tensor | np.ndarray] | None = None,
        scores: Sequence[Tensor | np.ndarray] | None = None,
    ) -> BoxBatch:
        """Pack the boxes of each cloud.

        Args:
            boxes: (m, 7) for each cloud; torch.zeros(0, 7) for one without boxes.
            labels: (m,) whole numbers for each cloud; None: class 0.
            scores: (m,) for each cloud; None: these are annotations.

        Raises:
            ValueError: the list is empty, boxes are not (m, 7), labels or scores are not as many, values are wrong (see
                `validate`).
        """
        clouds = [_as_tensor(values, f"boxes[{b}]").float() for b, values in enumerate(boxes)]
        if not clouds:
            raise ValueError("boxes must hold those of at least one cloud; a cloud without boxes is torch.zeros(0, 7)")
        for b, cloud in enumerate(clouds):
            _checks.boxes(cloud, f"boxes[{b}]")

        def packed(values: Sequence[Tensor | np.ndarray], name: str) -> Tensor:
            tensors = [_as_tensor(value, f"{name}[{b}]") for b, value in enumerate(values)]
            if [tensor.shape for tensor in tensors] != [cloud.shape[:1] for cloud in clouds]:
                raise ValueError(
                    f"{name} must hold (m,) for each cloud, with m = {[len(cloud) for cloud in clouds]}, got"
                    f" {[tuple(tensor.shape) for tensor in tensors]}"
                )
            return torch.cat(tensors)

        offsets = torch.tensor([0, *(len(cloud) for cloud in clouds)]).cumsum(0).to(clouds[0].device)
        all_boxes = torch.cat(clouds)
        all_labels = offsets.new_zeros(len(all_boxes)) if labels is None else packed(labels, "labels")
        if all_labels.is_floating_point() and all_labels.numel():
            raise TypeError(f"labels must be whole numbers, got {all_labels.dtype}; convert with .long()")
        all_scores = None if scores is None else packed(scores, "scores").float()
        batch = cls(all_boxes, offsets, all_labels.long(), all_scores)
        return batch.validate() if batch.device.type == "cpu" else batch

    def replace(self, **changes: Any) -> BoxBatch:
        """A copy with some attributes changed; the others are shared."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> BoxBatch:
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> BoxBatch:
        """The batch in page-locked memory, from which copies to a GPU can run beside computation."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> BoxBatch:
        scores = None if self.scores is None else change(self.scores)
        return BoxBatch(change(self.boxes), change(self.offsets), change(self.labels), scores)

    def take(self, rows: Tensor, offsets: Tensor) -> BoxBatch:
        """Some of the boxes: those in `rows` (K,), packed with `offsets` (B + 1,), the two that `box_nms` returns."""
        scores = None if self.scores is None else self.scores.index_select(0, rows)
        return BoxBatch(self.boxes.index_select(0, rows), offsets, self.labels.index_select(0, rows), scores)

    def split(self) -> list[BoxBatch]:
        """One batch of one cloud for each cloud. On CUDA this waits for the device."""
        return [
            BoxBatch(
                self.boxes[begin:end],
                torch.tensor([0, end - begin], device=self.device),
                self.labels[begin:end],
                None if self.scores is None else self.scores[begin:end],
            )
            for begin, end in pairwise(self.offsets.tolist())
        ]


def box_corners(boxes: Tensor) -> Tensor:
    """Corners of boxes: the lower four, then the upper four, each counter-clockwise seen from above.

    Args:
        boxes: (..., 7): x, y, z of the centre, dx, dy, dz, heading.

    Returns:
        (..., 8, 3): front left, rear left, rear right and front right below, then above, where front is where the
        heading points. Differentiable.
    """
    if boxes.shape[-1] != 7:
        raise ValueError(f"boxes must be (..., 7), got {tuple(boxes.shape)}")
    signs = boxes.new_tensor([(x, y, z) for z in (-1, 1) for x, y in _CORNERS])  # (8, 3)
    along, across, up = (boxes[..., None, 3:6] * signs / 2).unbind(-1)  # (..., 8) each
    cosine, sine = boxes[..., 6:].cos(), boxes[..., 6:].sin()  # (..., 1)
    turned = torch.stack([along * cosine - across * sine, along * sine + across * cosine, up], -1)
    return boxes[..., None, :3] + turned


def limit_period(angle: Tensor, *, offset: float = 0.5, period: float = 2 * math.pi) -> Tensor:
    """The same angle, up to whole periods, in [-offset * period, (1 - offset) * period).

    Args:
        angle: any shape, radians.
        offset: 0.5 for angles around 0, 0 for angles from 0 up.
        period: radians; pi where a box and its reverse are the same.
    """
    limited = angle - torch.floor(angle / period + offset) * period
    # rounding may end on the upper limit, which is the lower one
    return torch.where(limited >= (1 - offset) * period, limited - period, limited)


def center_from_bottom(boxes: Tensor) -> Tensor:
    """Boxes (..., 7) whose z is that of their bottom, as MMDetection3D stores them, in our convention."""
    return torch.cat([boxes[..., :2], boxes[..., 2:3] + boxes[..., 5:6] / 2, boxes[..., 3:]], -1)


def bottom_from_center(boxes: Tensor) -> Tensor:
    """Boxes (..., 7) of our convention with the z of their bottom."""
    return torch.cat([boxes[..., :2], boxes[..., 2:3] - boxes[..., 5:6] / 2, boxes[..., 3:]], -1)


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold numbers, got an array of {value.dtype}")
        return torch.from_numpy(np.ascontiguousarray(value))
    _checks.tensor(value, name)
    return value
