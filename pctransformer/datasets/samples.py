"""One sample, a data set of samples, and a batch of them: the common form behind every reader and generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pctransformer.points import PointBatch

_SHOWN_NAMES = 5  # of classes, where a data set is printed


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One point cloud with what is known about it. Never written into: `dataclasses.replace` makes a changed copy.

    Attributes:
        xyz: (n, 3) float32 coordinates, metres, or whatever unit the file has.
        normals: (n, 3) float32 unit normals, or None. Apart from the features because they turn with the points.
        features: (n, C) float32 further values of each point that stay as they are when points move, or None.
        point_labels: (n,) int64 part or class of each point, -1 ignored, or None.
        label: class of the whole cloud, an index into the data set's `class_names`; -1 where it is not known.
        name: where it comes from, for messages and galleries.
    """

    xyz: Tensor
    normals: Tensor | None = None
    features: Tensor | None = None
    point_labels: Tensor | None = None
    label: int = -1
    name: str = ""

    def __post_init__(self) -> None:
        if self.xyz.dim() != 2 or self.xyz.shape[1] != 3:
            raise ValueError(f"xyz of sample {self.name!r} must be (n, 3), got {tuple(self.xyz.shape)}")
        for field in ("normals", "features", "point_labels"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self):
                raise ValueError(f"sample {self.name!r} has {len(self)} points, but {len(values)} {field}")

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def __repr__(self) -> str:
        fields = [field for field in ("normals", "features", "point_labels") if getattr(self, field) is not None]
        return f"Sample({', '.join([repr(self.name), f'{len(self)} points', *fields, f'label {self.label}'])})"

    @property
    def points(self) -> Tensor:
        """(n, 3 + C) what a model eats: coordinates, then normals, then features, as far as they exist."""
        return torch.cat([part for part in (self.xyz, self.normals, self.features) if part is not None], dim=1)

    def take(self, index: Tensor) -> Sample:
        """The points in these rows, in this order."""
        per_point = {
            field: values[index]
            for field in ("xyz", "normals", "features", "point_labels")
            if (values := getattr(self, field)) is not None
        }
        return dataclasses.replace(self, **per_point)


Transform = Callable[[Sample, torch.Generator], Sample]


def generator_for(*numbers: int) -> torch.Generator:
    """A generator that depends on these numbers alone: on (seed, epoch, index), never on who asks or in what order."""
    state = np.random.SeedSequence([int(number) for number in numbers]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class CloudDataset(torch.utils.data.Dataset[Sample]):
    """Samples with class names, and a transform whose randomness depends on (seed, epoch, index) only.

    So an epoch is the same for any number of workers, in any order, and after a resumed run. Call `set_epoch` before
    each epoch; workers that live on see it too.

    Args:
        samples: anything with a length that gives the sample at an index; it may read files when asked.
        labels: class of each sample, known without reading it.
        class_names: names of the classes 0, 1, ...
        transform: applied to each sample when it is fetched.
        seed: of the transform.
        part_names: names that `point_labels` index, where there are any.
        up: the axis that stands upright, for pictures.

    Raises:
        ValueError: samples and labels differ in number, or a label has no name.
        IndexError: on fetching an index outside the data set.

    Example:
        >>> data = CloudDataset([Sample(torch.zeros(5, 3), label=0)], [0], ["nothing"])
        >>> data[0].xyz.shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[int] | np.ndarray | Tensor,
        class_names: Sequence[str],
        *,
        transform: Transform | None = None,
        seed: int = 0,
        part_names: Sequence[str] = (),
        up: Literal["y", "z"] = "z",
    ) -> None:
        self.labels = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.part_names = tuple(part_names)
        self.up = up
        if len(samples) != len(self.labels):
            raise ValueError(f"{len(samples)} samples need as many labels, got {len(self.labels)}")
        wrong = (self.labels < 0) | (self.labels >= len(self.class_names))
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"sample {first} has label {self.labels[first]}, but there are {len(self.class_names)} names"
            )
        self.samples = samples
        self.transform = transform
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared, so that living workers see it change

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        names = self.class_names
        shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
        return f"CloudDataset({len(self)} clouds, {len(names)} classes: {shown})"

    def __getitem__(self, index: int) -> Sample:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} samples")
        index %= len(self)
        sample = self.samples[index]
        if self.transform is None:
            return sample
        return self.transform(sample, generator_for(self.seed, int(self._epoch), index))

    def name_of(self, index: int) -> str:
        """The name of a sample, without its transform."""
        return self.samples[index].name

    def facts(self) -> Iterator[list[Any]]:
        """Name, class and number of points of each sample: a digest of them tells whether data has changed."""
        for sample in (self.samples[i] for i in range(len(self))):
            yield [sample.name, sample.label, len(sample)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, >= 0, that the transform's randomness is derived from."""
        self._epoch.fill_(epoch)

    def with_transform(self, transform: Transform | None, *, seed: int | None = None) -> CloudDataset:
        """The same samples under another transform."""
        return self._with(self.samples, self.labels, transform, self.seed if seed is None else seed)

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> CloudDataset:
        """The samples at these indices, in this order."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        return self._with(_Chosen(self.samples, index.tolist()), self.labels[index], self.transform, self.seed)

    def in_memory(self) -> CloudDataset:
        """Read every sample now, so that files are read once and not once per epoch."""
        return self._with([self.samples[i] for i in range(len(self))], self.labels, self.transform, self.seed)

    def hold_out(self, fraction: float, *, seed: int = 0) -> tuple[CloudDataset, CloudDataset]:
        """Split off a part of each class, for validation.

        Args:
            fraction: share of every class that is held out, see `stratified_split`.
            seed: of the choice.

        Returns:
            the rest, and the part held out.
        """
        held = stratified_split(self.labels.numpy(), fraction, seed)
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def _with(self, samples: Sequence[Sample], labels: Tensor, transform: Transform | None, seed: int) -> CloudDataset:
        return CloudDataset(
            samples, labels, self.class_names, transform=transform, seed=seed, part_names=self.part_names, up=self.up
        )


def joined(datasets: Sequence[CloudDataset]) -> CloudDataset:
    """The samples of several data sets as one, set after set, without transforms.

    Args:
        datasets: at least one. Classes of the same name are one class; labels of points, whose names may differ from
            set to set, are left out.
    """
    names = list(dict.fromkeys(name for dataset in datasets for name in dataset.class_names))
    places = []
    for dataset in datasets:
        labels = (names.index(dataset.class_names[label]) for label in dataset.labels.tolist())
        places += [(dataset.samples, i, label) for i, label in enumerate(labels)]
    return CloudDataset(_Joined(places), [label for _, _, label in places], names)


class _Joined(Sequence[Sample]):
    """Samples at places in other sequences, with labels of their own, fetched when asked for."""

    def __init__(self, places: list[tuple[Sequence[Sample], int, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        samples, i, label = self._places[index]
        return dataclasses.replace(samples[i], label=label, point_labels=None)


class _Chosen(Sequence[Sample]):
    """Some samples of a sequence, fetched when asked for."""

    def __init__(self, samples: Sequence[Sample], indices: list[int]) -> None:
        self._samples, self._indices = samples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):
        return self._samples[self._indices[index]]


class LazySamples(Sequence[Sample]):
    """Samples that are read when asked for: `read(i)` gives the sample at index i.

    `read` should be picklable, so that workers can be started in any way: a `functools.partial` of a module's function.
    """

    def __init__(self, count: int, read: Callable[[int], Sample]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        return self._read(index)


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of every class.

    A class of n samples gives round(n * fraction) of them, but keeps at least one on either side if it has two or more;
    the only sample of a class is not chosen. The choice within a class depends on the seed alone.

    Args:
        labels: (n,) class of each sample.
        fraction: share to choose, in [0, 1).
        seed: of the choice.

    Returns:
        chosen (n,) bool.

    Raises:
        ValueError: fraction is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    chosen = np.zeros(len(labels), dtype=bool)
    if fraction == 0:
        return chosen
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        order = torch.randperm(len(rows), generator=generator_for(seed, int(label))).numpy()
        chosen[rows[order[:count]]] = True
    return chosen


def collate(samples: Sequence[Sample]) -> tuple[PointBatch, Tensor]:
    """Pack samples of any sizes: `collate_fn` of a DataLoader.

    Returns:
        points: their coordinates, with normals and features as features.
        labels (B,) int64: class of each cloud.
    """
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return PointBatch.from_list([sample.points for sample in samples]), labels


def collate_parts(samples: Sequence[Sample]) -> tuple[PointBatch, Tensor, Tensor]:
    """Pack samples with labels of points.

    Returns:
        points, labels: as in `collate`.
        point_labels (N,) int64: part or class of each packed point, -1 ignored; all of a sample that has none.
    """
    parts = [torch.full((len(s),), -1) if s.point_labels is None else s.point_labels for s in samples]
    return *collate(samples), torch.cat(parts)
