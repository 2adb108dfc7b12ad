"""LiDAR scans with boxes: the sample of detection, which points are in which box, and data sets of scans.

Boxes are x, y, z of the geometric centre, dx, dy, dz, heading, radians counter-clockwise from +x; x forward, y left, z
up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pctransformer import ops
from pctransformer.boxes import BoxBatch
from pctransformer.datasets.samples import generator_for
from pctransformer.points import PointBatch


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """One scan and its boxes, in numpy. Never written into: `dataclasses.replace` makes a changed copy.

    Attributes:
        points: (n, 3 + c) float32: x, y, z in metres, then values that stay as they are when points move.
        boxes: (m, 7) float32.
        labels: (m,) int64 class of each box, -1 for one that is neither to be found nor wrong to find; detectors are
            trained as if it were background, as published ones are with KITTI's vans.
        name: of the frame.
        ground: (4,) float64 a, b, c, d of the plane a x + b y + c z + d = 0 of the road, c > 0, or None.
    """

    points: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    name: str = ""
    ground: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] < 3:
            raise ValueError(f"points of scan {self.name!r} must be (n, 3 or more), got {self.points.shape}")
        if self.boxes.shape != (len(self.labels), 7):
            wanted = (len(self.labels), 7)
            raise ValueError(f"boxes of scan {self.name!r} must be {wanted} for its labels, got {self.boxes.shape}")

    def take_boxes(self, index: np.ndarray) -> Scan:
        """The boxes in these rows, or where a mask is True; all points."""
        return dataclasses.replace(self, boxes=self.boxes[index], labels=self.labels[index])


ScanTransform = Callable[[Scan, torch.Generator], Scan]
_DRAWS = 100


def in_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Rows of the points (n, 3 or more) that lie in a box (7,), its surface included; sorted."""
    return np.flatnonzero(points_in_boxes(points, box[None]) == 0)


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """For each point (n, 3 or more) the first of the boxes (m, 7) that it lies in: (n,) int64, -1 for none."""
    xyz, rows = _float32(points[:, :3]), _float32(boxes)
    return ops.points_in_boxes(xyz, torch.tensor([0, len(xyz)]), rows, torch.tensor([0, len(rows)])).numpy()


def boxes_collide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether boxes overlap seen from above: (n, m) bool for boxes (n, 7) and (m, 7). Touching is not overlapping."""
    return ops.box_iou(_float32(a), _float32(b), view="bev").numpy() > 0


def _float32(values: np.ndarray) -> torch.Tensor:
    """A copy: arrays of files may be read-only, which tensors cannot be."""
    return torch.from_numpy(np.array(values, np.float32, order="C"))


class ScanDataset(torch.utils.data.Dataset[Scan]):
    """Scans with class names, and a transform whose randomness depends on (seed, epoch, index) only.

    So an epoch is the same for any number of workers, in any order, and after a resumed run. Call `set_epoch` before
    each epoch; workers that live on see it, too.

    Args:
        names: of the scans, known without reading them.
        read: gives the scan at an index; picklable, as a `functools.partial` of a module's function is.
        class_names: names of the classes 0, 1, ...
        transform: applied to each scan when it is fetched.
        seed: of the transform.
        only_with_boxes: instead of a scan that has no box of a class after the transform give another one, drawn at
            random, for training; after a hundred draws an empty one is given after all.
        later: an epoch, and the transform from then on.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], Scan],
        class_names: Sequence[str],
        *,
        transform: ScanTransform | None = None,
        seed: int = 0,
        only_with_boxes: bool = False,
        later: tuple[int, ScanTransform | None] | None = None,
    ) -> None:
        self.names, self._read = tuple(names), read
        self.class_names = tuple(class_names)
        self.transform, self.seed, self.only_with_boxes, self.later = transform, seed, only_with_boxes, later
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared, so that living workers see it change

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scan:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} scans")
        index %= len(self)
        epoch = int(self._epoch)
        transform = self.transform if self.later is None or epoch < self.later[0] else self.later[1]
        generator = generator_for(self.seed, epoch, index)
        for _ in range(_DRAWS):
            scan = self._read(index)
            if transform is not None:
                scan = transform(scan, generator)
            if not self.only_with_boxes or (scan.labels >= 0).any():
                break
            index = int(torch.randint(len(self), (), generator=generator))
        return scan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, >= 0, that the transform's randomness is derived from."""
        self._epoch.fill_(epoch)

    def name_of(self, index: int) -> str:
        """The name of a scan, without reading it."""
        return self.names[index]

    def with_transform(
        self,
        transform: ScanTransform | None,
        *,
        seed: int | None = None,
        only_with_boxes: bool = False,
        later: tuple[int, ScanTransform | None] | None = None,
    ) -> ScanDataset:
        """The same scans under another transform; None keeps the seed."""
        return ScanDataset(
            self.names, self._read, self.class_names,
            transform=transform, seed=self.seed if seed is None else seed, only_with_boxes=only_with_boxes, later=later,
        )  # fmt: skip

    def subset(self, indices: Sequence[int]) -> ScanDataset:
        """Some of the scans, in the given order; one may come several times."""
        places = [(self._read, range(len(self))[i]) for i in indices]
        names = [self.names[i] for _, i in places]
        read = functools.partial(_read_place, places)
        return ScanDataset(
            names, read, self.class_names,
            transform=self.transform, seed=self.seed, only_with_boxes=self.only_with_boxes, later=self.later,
        )  # fmt: skip

    def held_out_rows(self, share: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Rows without a share of the scans, and the rows of these, drawn by chance, the same ones for the same seed;
        sorted. Of a share above 0 at least one."""
        order = torch.randperm(len(self), generator=generator_for(seed)).numpy()
        count = max(round(share * len(self)), 1 if share > 0 else 0)
        return np.sort(order[count:]), np.sort(order[:count])


def joined_scans(sets: Sequence[ScanDataset]) -> ScanDataset:
    """Data sets of the same classes, one behind the other, without their transforms.

    Raises:
        ValueError: there is none, or their classes differ.
    """
    if not sets:
        raise ValueError("there are no data sets to join")
    for other in sets[1:]:
        if other.class_names != sets[0].class_names:
            raise ValueError(
                f"data sets that are joined must have the same classes, got {', '.join(sets[0].class_names)} and"
                f" {', '.join(other.class_names)}"
            )
    places = [(one._read, i) for one in sets for i in range(len(one))]
    names = [name for one in sets for name in one.names]
    return ScanDataset(names, functools.partial(_read_place, places), sets[0].class_names)


def _read_place(places: Sequence[tuple[Callable[[int], Scan], int]], index: int) -> Scan:
    read, row = places[index]
    return read(row)


def collate_scans(scans: Sequence[Scan]) -> tuple[PointBatch, BoxBatch]:
    """Pack scans of any sizes: `collate_fn` of a DataLoader.

    Returns:
        points: with what scans have beside coordinates as features.
        boxes: with labels, in the same order; a scan may have none.
    """
    points = PointBatch.from_list([scan.points for scan in scans])
    return points, BoxBatch.from_list([scan.boxes for scan in scans], [scan.labels for scan in scans])
