"""PointBatch: packed point clouds, the form in which points travel through the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pctransformer.ops import _checks, gather

# From here on float32 no longer resolves half a millimetre, so float64 input is stored around an origin.
_LARGE_COORDINATE = 4096.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PointBatch:
    """A batch of point clouds of any sizes, stored row after row.

    Cloud b is rows `offsets[b]:offsets[b + 1]`. Nothing is padded; empty clouds are allowed. A batch is never written
    into: `replace` makes a changed copy that shares the tensors left alone. Make one with `from_dense`, `from_list`,
    `from_offsets`, `from_pointcept`, `from_batch_index` or `from_open3d`, which check what they are given.

    Attributes:
        xyz: (N, 3) float32 coordinates of all clouds, metres.
        offsets: (B + 1,) int64 row offsets with a leading 0.
        features: (N, C) further values of each point (intensity, colour, normal, ...), or None.
        max_points: points of the largest cloud where the host knows it, else None.
        origin: (B, 3) float64 or None. Where coordinates were too large for float32 (UTM, LAS), `xyz` is relative to
            it: the position of point n of cloud b is `origin[b] + xyz[n]`.

    Example:
        >>> batch = PointBatch.from_list([torch.zeros(5, 3), torch.ones(2, 3)])
        >>> batch
        PointBatch(2 clouds, 7 points, largest 5, cpu)
        >>> batch.lengths
        tensor([5, 2])
    """

    xyz: Tensor
    offsets: Tensor
    features: Tensor | None = None
    max_points: int | None = None
    origin: Tensor | None = None

    def __post_init__(self) -> None:
        _checks.xyz(self.xyz)
        _checks.offsets(self.offsets, self.xyz)
        if self.features is not None:
            if self.features.dim() != 2 or self.features.shape[0] != self.xyz.shape[0]:
                raise ValueError(
                    f"features must be (N, C) with one row for each of {self.xyz.shape[0]} points,"
                    f" got {tuple(self.features.shape)}"
                )
            _checks.same_device(self.features, "features", self.xyz, "xyz")
        if self.origin is not None and self.origin.shape != (len(self), 3):
            raise ValueError(f"origin must be (B, 3) with B = {len(self)} clouds, got {tuple(self.origin.shape)}")

    # ---- what it holds -----------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.xyz.device

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 points of each cloud."""
        return self.offsets.diff()

    @property
    def is_dense(self) -> bool:
        """Whether all clouds are known to have the same number of points, so that `xyz.view(B, -1, 3)` is the batch."""
        return self.max_points is not None and len(self) * self.max_points == self.xyz.shape[0]

    @property
    def batch_index(self) -> Tensor:
        """(N,) int64 the cloud of each point (PyG's `batch`)."""
        clouds = torch.arange(len(self), device=self.device)
        return torch.repeat_interleave(clouds, self.lengths, output_size=self.xyz.shape[0])

    def __repr__(self) -> str:
        parts = [f"{len(self)} clouds", f"{self.xyz.shape[0]} points"]
        if self.max_points is not None:
            parts.append(f"largest {self.max_points}")
        if self.features is not None:
            parts.append(f"features {tuple(self.features.shape)}")
        return f"PointBatch({', '.join(parts)}, {self.device})"

    def validate(self) -> PointBatch:
        """Check values: offsets from 0 to N that never decrease, a true `max_points`, finite coordinates.

        `from_*` do this on CPU, but for what `torch.compile` and `torch.export` make of them. On CUDA it waits for the
        device, so nobody does it unasked.

        Returns:
            the batch itself.

        Raises:
            ValueError: naming the first row or offset that is wrong.
        """
        offsets, rows = self.offsets.tolist(), self.xyz.shape[0]
        if offsets[0] != 0:
            raise ValueError(
                f"offsets must start with 0, they start with {offsets[0]}; cumulative counts without the leading 0"
                " become a batch with PointBatch.from_pointcept"
            )
        for b, length in enumerate(self.lengths.tolist()):
            if length < 0:
                raise ValueError(f"offsets must not decrease, but offsets[{b}:{b + 2}] = {offsets[b : b + 2]}")
        if offsets[-1] != rows:
            raise ValueError(f"offsets must end with the number of points, {rows}; they end with {offsets[-1]}")
        largest = max(self.lengths.tolist(), default=0)
        if self.max_points is not None and self.max_points != largest:
            raise ValueError(f"max_points is {self.max_points}, but the largest cloud has {largest} points")
        bad = ~self.xyz.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {rows} points have NaN or infinite coordinates, first in row"
                f" {int(bad.nonzero()[0])}; drop such rows, for instance with xyz[xyz.isfinite().all(1)]"
            )
        return self

    # ---- made from what people have ----------------------------------------------------------------------------------
    @classmethod
    def from_dense(
        cls, points: Tensor | np.ndarray, features: Tensor | None = None, *, valid: Tensor | None = None
    ) -> PointBatch:
        """Pack clouds of equal size, or padded clouds with a mask.

        Args:
            points: (B, N, 3 + C) coordinates in metres; the C further channels, if any, become features.
            features: (B, N, C) instead of further channels in `points`.
            valid: (B, N) bool, True = a real point; the others are left out. None: all are real.

        Raises:
            ValueError: the shape is not (B, N, 3 + C); points stored channels first, (B, 3, N), are named as such.
        """
        points = _as_tensor(points, "points")
        if points.dim() != 3 or points.shape[2] < 3:
            hint = _channels_first_hint(points)
            raise ValueError(f"points must be (B, N, 3 + C), got {tuple(points.shape)}{hint}")
        if points.shape[1] == 3 and points.shape[2] > 3 and features is None:
            raise ValueError(f"points must be (B, N, 3 + C), got {tuple(points.shape)}{_channels_first_hint(points)}")
        clouds, count, _ = points.shape
        if features is not None:
            features = _as_tensor(features, "features")
            if features.shape[:2] != points.shape[:2] or features.dim() != 3 or points.shape[2] != 3:
                raise ValueError(
                    f"features must be (B, N, C) beside points (B, N, 3), got {tuple(features.shape)} and"
                    f" {tuple(points.shape)}"
                )
            points = torch.cat([points, features.to(points)], 2)
        if valid is not None:
            if valid.shape != points.shape[:2] or valid.dtype != torch.bool:
                raise ValueError(f"valid must be (B, N) bool, got {tuple(valid.shape)} {valid.dtype}")
            offsets = torch.nn.functional.pad(valid.sum(1).cumsum(0), (1, 0))
            return cls._checked(points[valid], offsets, None)
        offsets = torch.arange(clouds + 1, device=points.device) * count
        return cls._checked(points.flatten(0, 1), offsets, count if clouds else 0)

    @classmethod
    def from_list(cls, clouds: Sequence[Tensor | np.ndarray]) -> PointBatch:
        """Pack a list of (n, 3 + C) clouds of any sizes; channels beyond the third become features.

        Raises:
            ValueError: the list is empty, or a cloud is not (n, 3 + C) with the same C as the first one.
        """
        tensors = [_as_tensor(cloud, f"clouds[{b}]") for b, cloud in enumerate(clouds)]
        if not tensors:
            raise ValueError("clouds must hold at least one cloud; an empty cloud is torch.zeros(0, 3)")
        for b, cloud in enumerate(tensors):
            if cloud.dim() != 2 or cloud.shape[1] < 3:
                hint = "; a single cloud is a list of one" if cloud.dim() == 1 else _channels_first_hint(cloud)
                raise ValueError(f"every cloud must be (n, 3 + C), but clouds[{b}] is {tuple(cloud.shape)}{hint}")
            if cloud.shape[1] != tensors[0].shape[1]:
                raise ValueError(
                    f"every cloud must be (n, 3 + C) with the same C, but clouds[{b}] is {tuple(cloud.shape)}"
                    f" and clouds[0] {tuple(tensors[0].shape)}{_channels_first_hint(cloud)}"
                )
        lengths = [cloud.shape[0] for cloud in tensors]
        offsets = torch.tensor([0, *lengths]).cumsum(0).to(tensors[0].device)
        return cls._checked(torch.cat(tensors), offsets, max(lengths))

    @classmethod
    def of(cls, points: PointBatch | Tensor | np.ndarray | Sequence[Tensor], channels: int = 3) -> PointBatch:
        """What a model calls on its input: a batch from a batch, a (B, N, channels) tensor, or a list of (n, channels).

        Raises:
            ValueError: the points do not have that many channels, coordinates included.
        """
        if isinstance(points, PointBatch):
            batch = points
        elif isinstance(points, (Tensor, np.ndarray)):
            if points.ndim == 3 and points.shape[1] == channels != points.shape[2]:
                raise ValueError(
                    f"points must be (B, N, {channels}), got {tuple(points.shape)}; this looks like channels first,"
                    f" (B, {channels}, N): use .transpose(1, 2)"
                )
            batch = cls.from_dense(points)
        else:
            batch = cls.from_list(points)
        found = 3 + (0 if batch.features is None else batch.features.shape[1])
        if found != channels:
            raise ValueError(
                f"the model takes {channels} channels (3 coordinates and {channels - 3} features), the points have"
                f" {found}; drop or add features, or make the model with in_channels={found}"
            )
        return batch

    @classmethod
    def from_offsets(cls, points: Tensor, offsets: Tensor, features: Tensor | None = None) -> PointBatch:
        """Packed points (N, 3 + C) with row offsets (B + 1,) that have a leading 0.

        Args:
            points: (N, 3 + C); channels beyond the third become features.
            offsets: (B + 1,) integers with a leading 0 and N at the end.
            features: (N, C) instead of further channels in `points`.
        """
        points = _as_tensor(points, "points")
        if features is not None:
            points = torch.cat([points, _as_tensor(features, "features").to(points)], 1)
        return cls._checked(points, _as_tensor(offsets, "offsets").long(), None)

    @classmethod
    def from_pointcept(cls, point: Mapping[str, Any]) -> PointBatch:
        """From Pointcept's dictionary: `coord (N, 3)`, optional `feat (N, C)`, `offset (B,)` without a leading 0."""
        absent = {"coord", "offset"} - point.keys()
        if absent:
            raise ValueError(f"the dictionary must hold 'coord' and 'offset', it has only {sorted(point)}")
        offset = _as_tensor(point["offset"], "offset").long()
        return cls.from_offsets(point["coord"], torch.nn.functional.pad(offset, (1, 0)), point.get("feat"))

    @classmethod
    def from_batch_index(
        cls, points: Tensor, batch: Tensor, features: Tensor | None = None, *, num_clouds: int | None = None
    ) -> PointBatch:
        """From points with the cloud of each one, as PyG's `pos, batch` or the first column of OpenPCDet's points.

        Args:
            points: (N, 3 + C).
            batch: (N,) the cloud of each point, ascending. Points are not reordered behind your back: sort them with
                `order = batch.argsort(stable=True)` if need be.
            features: (N, C) instead of further channels in `points`.
            num_clouds: B, for batches whose last clouds are empty. None: the last index plus one (on CUDA this waits
                for the device).
        """
        points, batch = _as_tensor(points, "points"), _as_tensor(batch, "batch").long()
        if batch.dim() != 1 or batch.shape[0] != points.shape[0]:
            raise ValueError(f"batch must be (N,) with N = {points.shape[0]}, got {tuple(batch.shape)}")
        if batch.device.type == "cpu" and batch.numel():
            if batch[0] < 0 or (batch.diff() < 0).any():
                raise ValueError("batch must be ascending from 0; sort points by `batch.argsort(stable=True)` first")
            if num_clouds is not None and batch[-1] >= num_clouds:
                raise ValueError(f"batch names cloud {int(batch[-1])}, but num_clouds is {num_clouds}")
        if num_clouds is None:
            num_clouds = int(batch[-1]) + 1 if batch.numel() else 0
        offsets = torch.searchsorted(batch, torch.arange(num_clouds + 1, device=batch.device))
        return cls.from_offsets(points, offsets, features)

    @classmethod
    def from_open3d(cls, clouds: Any, features: Sequence[str] = ()) -> PointBatch:
        """From one Open3D point cloud or a list of them, of the legacy or the tensor kind.

        Args:
            clouds: `open3d.geometry.PointCloud` or `open3d.t.geometry.PointCloud`, or a list.
            features: attributes to take along, for example ("colors", "normals").

        Raises:
            ValueError: a cloud lacks one of the attributes.
        """
        arrays = []
        for cloud in clouds if isinstance(clouds, (list, tuple)) else [clouds]:
            if hasattr(cloud, "point"):  # the tensor kind keeps attributes in a map whose coordinates are "positions"
                named = {name: np.asarray(cloud.point[name].cpu().numpy()) for name in cloud.point}
            else:
                named = {name: np.asarray(getattr(cloud, name)) for name in ("points", "colors", "normals")}
                named["positions"] = named.pop("points")
            xyz = named.get("positions", np.zeros((0, 3)))
            columns = [xyz]
            for name in features:
                if name not in named or len(named[name]) != len(xyz):
                    raise ValueError(f"the Open3D cloud has no {name!r} for its {len(xyz)} points; it has {[*named]}")
                columns.append(named[name])
            arrays.append(np.concatenate(columns, 1))
        return cls.from_list(arrays)

    @classmethod
    def _checked(cls, points: Tensor, offsets: Tensor, max_points: int | None) -> PointBatch:
        """Split coordinates from features, move large coordinates to an origin, check values where that is free."""
        if points.dim() != 2 or points.shape[1] < 3:
            raise ValueError(f"points must be (N, 3 + C), got {tuple(points.shape)}{_channels_first_hint(points)}")
        if not points.dtype.is_floating_point:
            points = points.double()  # whole numbers of any size stay exact
        xyz, features = points[:, :3], points[:, 3:].float().contiguous() if points.shape[1] > 3 else None
        on_host = points.device.type == "cpu"
        origin = None
        if xyz.dtype == torch.float64 and on_host:
            xyz, origin = _around_origin(xyz, offsets)
        if max_points is None and on_host:
            max_points = int(offsets.diff().max()) if offsets.numel() > 1 else 0
        batch = cls(xyz.float().contiguous(), offsets, features, max_points, origin)
        # a graph that is being traced has no values yet
        return batch.validate() if on_host and not torch.compiler.is_compiling() else batch

    # ---- changed copies ----------------------------------------------------------------------------------------------
    def replace(self, **changes: Any) -> PointBatch:
        """A copy with some attributes changed; the others are shared. New `offsets` forget `max_points`."""
        if "offsets" in changes:
            changes.setdefault("max_points", None)
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> PointBatch:
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PointBatch:
        """The batch in page-locked memory, from which copies to a GPU can run beside computation."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PointBatch:
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return PointBatch(
            change(self.xyz), change(self.offsets), changed(self.features), self.max_points, changed(self.origin)
        )

    # ---- taken apart -------------------------------------------------------------------------------------------------
    def split(self) -> list[PointBatch]:
        """One batch of one cloud for each cloud. On CUDA this waits for the device."""
        rows = self.offsets.tolist()
        return [
            PointBatch(
                self.xyz[begin:end],
                torch.tensor([0, end - begin], device=self.device),
                None if self.features is None else self.features[begin:end],
                end - begin,
                None if self.origin is None else self.origin[b : b + 1],
            )
            for b, (begin, end) in enumerate(pairwise(rows))
        ]

    def pad(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Lay the clouds side by side, filled up with zeros to the largest.

        Where `max_points` is not known, finding it waits for the device.

        Returns:
            xyz (B, P, 3), features (B, P, C) or None, valid (B, P) bool with True for real points; P = `max_points`.
        """
        rows = padded_rows(self.offsets, self.max_points)
        features = None if self.features is None else gather(self.features, rows)
        return gather(self.xyz, rows), features, rows >= 0


def padded_rows(offsets: Tensor, longest: int | None = None) -> Tensor:
    """Where packed rows go when their sequences are laid side by side.

    Args:
        offsets: (B + 1,) int64.
        longest: rows of the longest sequence where the host knows it; None: finding it waits for the device.

    Returns:
        (B, longest) int64: [b, i] is the row of token i in sequence b, -1 where the sequence has ended.
    """
    lengths = offsets.diff()
    if longest is None:
        longest = int(lengths.max()) if len(lengths) else 0
    place = torch.arange(longest, device=offsets.device)
    return torch.where(place < lengths[:, None], offsets[:-1, None] + place, -1)


def pad_packed(packed: Tensor, rows: Tensor) -> Tensor:
    """Packed values (N, ...) side by side, (B, S, ...), by `padded_rows` (B, S); zeros where a sequence has ended."""
    return gather(packed.flatten(1), rows).unflatten(-1, packed.shape[1:])


def unpad(padded: Tensor, rows: Tensor) -> Tensor:
    """The packed values (N, ...) in padded ones (B, S, ...): what `pad_packed` did, undone. Waits for the device."""
    return padded.flatten(0, 1).index_select(0, (rows.flatten() >= 0).nonzero()[:, 0])


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers, got an array of {value.dtype}")
        return torch.from_numpy(np.ascontiguousarray(value))
    _checks.tensor(value, name)
    return value


def _channels_first_hint(points: Tensor) -> str:
    if points.dim() >= 2 and points.shape[-2] == 3:
        return "; this looks like channels first, (B, 3, N): use .transpose(-2, -1)"
    return ""


def _around_origin(xyz: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor | None]:
    """float64 coordinates relative to a whole-number origin per cloud, if any is too large for float32."""
    if not xyz.numel() or not xyz.abs().max() > _LARGE_COORDINATE:
        return xyz, None
    bounds = offsets.tolist()
    origin = torch.zeros(len(bounds) - 1, 3, dtype=torch.float64)
    moved = xyz.clone()
    for b, (begin, end) in enumerate(pairwise(bounds)):
        cloud = xyz[begin:end]
        if end > begin and cloud.isfinite().all():
            origin[b] = ((cloud.amin(0) + cloud.amax(0)) / 2).round()
            moved[begin:end] -= origin[b]
    return moved, origin
