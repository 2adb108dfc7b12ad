"""Batch norm as the published detectors have it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
MOMENTUM = 0.01
"""Of SECOND and of all that followed it: running statistics of some hundred steps."""


def batch_norm_rows(channels: int) -> nn.BatchNorm1d:
    """For rows (N, C) of points or cells; call it by `normalized`."""
    return nn.BatchNorm1d(channels, eps=EPSILON, momentum=MOMENTUM)


def batch_norm_map(channels: int) -> nn.BatchNorm2d:
    """For maps (B, C, ny, nx)."""
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


def normalized(norm: nn.Module, rows: Tensor) -> Tensor:
    """Rows (N, C) through a batch norm, however few they are.

    One row has no variance, and none has no mean, so in training such a batch, as of clouds without points in the
    range, is normalised by the running statistics, which it leaves alone. A norm that several processes share sees to
    that itself.
    """
    if isinstance(norm, nn.BatchNorm1d) and len(rows) < 2:
        return functional.batch_norm(
            rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    normal: Tensor = norm(rows)
    return normal
