"""What the public functions check before they call an operator: shape, dtype and device, in words for their users.

Every message says what came, what was expected, and how to mend it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"a {type(value).__name__}"


def tensor(value: object, name: str) -> None:
    """A tensor at all."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {_describe(value)}; torch.as_tensor makes one of numbers")


def same_device(value: Tensor, name: str, like: Tensor, like_name: str) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, {like_name} on {like.device}; move one with .to(device)")


def xyz(value: Tensor, name: str = "xyz", *, float64_too: bool = False) -> None:
    """Packed coordinates (N, 3) float32; few operators take float64 too."""
    tensor(value, name)
    if value.dim() == 3:
        raise ValueError(
            f"{name} must be packed (N, 3), got {_describe(value)}; PointBatch.from_dense packs (B, N, 3) clouds"
            " (clouds stored as (B, 3, N) need .transpose(1, 2) first)"
        )
    if value.dim() != 2 or value.shape[1] != 3:
        raise ValueError(
            f"{name} must be packed (N, 3), got {_describe(value)}; features travel apart from coordinates"
        )
    if float64_too and value.dtype == torch.float64:
        return
    if value.dtype != torch.float32 and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(
            f"{name} must be float32, got {_describe(value)}; convert with .float(), after subtracting an origin where"
            " coordinates are large (float32 keeps 7 digits)"
        )


def offsets(value: Tensor, like: Tensor, name: str = "offsets", like_name: str = "xyz") -> None:
    """Row offsets (B + 1,) int64 with a leading 0."""
    tensor(value, name)
    if value.dim() != 1 or value.shape[0] < 1:
        raise ValueError(f"{name} must be (B + 1,) with a leading 0, got {_describe(value)}")
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {_describe(value)}; convert with .long()")
    same_device(value, name, like, like_name)


def same_clouds(a: Tensor, a_name: str, b: Tensor, b_name: str) -> None:
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"{a_name} describes {a.shape[0] - 1} clouds, {b_name} {b.shape[0] - 1}; they must be as many")


def search(
    xyz_: Tensor, offsets_: Tensor, query_xyz: Tensor, query_offsets: Tensor, *, float64_too: bool = False
) -> None:
    """Clouds, and queries into the same number of clouds."""
    xyz(xyz_, float64_too=float64_too)
    offsets(offsets_, xyz_)
    xyz(query_xyz, "query_xyz", float64_too=float64_too)
    if xyz_.dtype != query_xyz.dtype and not torch.is_autocast_enabled(xyz_.device.type):
        raise TypeError(f"xyz is {_describe(xyz_)}, query_xyz {_describe(query_xyz)}; they must have one dtype")
    same_device(query_xyz, "query_xyz", xyz_, "xyz")
    offsets(query_offsets, xyz_, "query_offsets")
    same_clouds(offsets_, "offsets", query_offsets, "query_offsets")


def boxes(value: Tensor, name: str = "boxes") -> None:
    """Packed boxes (M, 7) float32."""
    tensor(value, name)
    if value.dim() != 2 or value.shape[1] != 7:
        raise ValueError(
            f"{name} must be (M, 7), x, y, z of the centre, dx, dy, dz, heading, got {_describe(value)}; velocities,"
            " labels and scores travel apart, and boxes of several clouds are packed"
        )
    if value.dtype != torch.float32 and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(f"{name} must be float32, got {_describe(value)}; convert with .float()")


def index(value: Tensor, like: Tensor, name: str = "index", like_name: str = "features") -> None:
    """Row indices, int64, -1 for none."""
    tensor(value, name)
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {_describe(value)}; convert with .long()")
    same_device(value, name, like, like_name)


def integer(value: object, name: str, low: int, high: int | None = None) -> None:
    """A whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be a whole number, got {_describe(value)}")
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {span}, got {value}")


def positive(value: object, name: str) -> None:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name} must be a number, got {_describe(value)}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")


def choice(value: object, name: str, options: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def under_autocast(like: Tensor) -> bool:
    """Whether half precision will become float32 before it meets an operator on this device."""
    device = like.device.type
    # not torch.amp.is_autocast_available, which the torch.compile of torch 2.11 cannot trace
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
