"""Position codes: how tokens know where they are.

All but rotary codes and biases are modules from coordinates to channels, `code(xyz (..., 3)) -> (..., dim)`, so that a
model takes any of them. `RotaryPosition` and `WindowBias` act inside of attention, on pairs of tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_code(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of geometrically growing wavelengths.

        code[2 i] = sin(position / 10000^(2 i / dim)),   code[2 i + 1] = cos(position / 10000^(2 i / dim))

    Args:
        positions: (...), numbers of any kind.
        dim: channels, even.

    Returns:
        (..., dim) float32, or float64 for float64 positions.

    Source: Vaswani et al., Attention is all you need, 2017, section 3.5.
    """
    if dim % 2:
        raise ValueError(f"dim must be even, a sine and a cosine for each wavelength, got {dim}")
    dtype = torch.float64 if positions.dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, dim, 2, device=positions.device, dtype=dtype) / max(dim, 1)
    angle = positions.to(dtype)[..., None] / 10_000**exponent  # (..., dim / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


class SinusoidalPosition(nn.Module):
    """The sinusoidal code of each coordinate, side by side: x, y, z, a third of the channels each.

    Fixed, without parameters. Channels that three even parts leave over stay zero.

    Args:
        dim: channels.
        unit: metres that count as one position: distances below it look alike, and those above 10000 of it do again.

    Source: `sinusoidal_code` on each axis.
    """

    def __init__(self, dim: int, *, unit: float) -> None:
        super().__init__()
        self.dim, self.unit = dim, unit

    def forward(self, xyz: Tensor) -> Tensor:
        code = sinusoidal_code(xyz / self.unit, 2 * (self.dim // 6)).flatten(-2)  # (..., 3 * dim / 3)
        return nn.functional.pad(code, (0, self.dim - code.shape[-1]))


class FourierPosition(nn.Module):
    """Sines and cosines of random projections: sin(2 pi B x), then cos(2 pi B x).

    Fixed: B is drawn once and travels with the weights.

    Args:
        dim: channels, even.
        frequency: standard deviation of the entries of B, cycles per metre.
        generator: where B is drawn from.

    Source: Tancik et al., Fourier features let networks learn high frequency functions, 2020, section 5.
    """

    projection: Tensor

    def __init__(self, dim: int, *, frequency: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim must be even, a sine and a cosine for each projection, got {dim}")
        self.register_buffer("projection", frequency * torch.randn(3, dim // 2, generator=generator))

    def forward(self, xyz: Tensor) -> Tensor:
        # not a matrix product, in which autocast would round coordinates to 8 bits
        angle = 2 * math.pi * (xyz[..., None] * self.projection).sum(-2)
        return torch.cat([angle.sin(), angle.cos()], -1)


class MLPPosition(nn.Sequential):
    """Two learned layers from coordinates to channels.

    Source: Point-BERT and Point-MAE, 2022: 128 hidden channels, GELU.
    """

    def __init__(self, dim: int, *, hidden: int = 128) -> None:
        super().__init__(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, dim))


class LearnedPosition(nn.Module):
    """A learned code for each place in the sequence, whatever the coordinates there.

    Of use where the order of tokens says something: along a space-filling curve, or on a grid.

    Args:
        num_tokens: places; shorter sequences take the first ones.
        dim: channels.

    Source: Dosovitskiy et al., An image is worth 16x16 words, 2021, equation 1.
    """

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_tokens, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, xyz: Tensor) -> Tensor:
        """(..., S, dim) from (..., S, 3)."""
        tokens = xyz.shape[-2]
        if tokens > len(self.table):
            raise ValueError(f"there are learned codes for {len(self.table)} places, got {tokens} tokens")
        return self.table[:tokens].expand(*xyz.shape[:-1], -1)


class NoPosition(nn.Module):
    """Zeros, for tokens that are not told where they are.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, xyz: Tensor) -> Tensor:
        return xyz.new_zeros(*xyz.shape[:-1], self.dim)


class RotaryPosition(nn.Module):
    """Rotates queries and keys by angles that grow with their coordinates, so that scores know differences of position.

    The channels of a head are cut into pairs, a third of them for each axis. Pair i of an axis is rotated by the angle
    base^(-i / n) * coordinate / unit, with n pairs per axis. The product of a rotated query and a rotated key then
    depends on their coordinates only through the difference. Channels that three even parts leave over stay as they
    are. Differences are exact as far as float32 resolves the coordinates themselves: keep them within some thousand
    units.

    Args:
        head_dim: channels of a head, at least 6.
        unit: metres per radian of the fastest pair.
        base: how many times slower the slowest pair of an axis is, about.

    Source: Su et al., RoFormer, 2021, equation 34, on each of three axes.
    """

    frequency: Tensor

    def __init__(self, head_dim: int, *, unit: float, base: float = 100.0) -> None:
        super().__init__()
        pairs = head_dim // 6
        if pairs < 1:
            raise ValueError(f"head_dim must be at least 6, a pair of channels for each axis, got {head_dim}")
        frequency = base ** -(torch.arange(pairs, dtype=torch.float64) / pairs) / unit
        self.register_buffer("frequency", frequency.float(), persistent=False)

    def forward(self, heads: Tensor, positions: Tensor) -> Tensor:
        """
        Args:
            heads: queries or keys (..., H, D).
            positions: (..., 3) metres.

        Returns:
            (..., H, D).
        """
        rotated = 6 * len(self.frequency)
        a, b = heads[..., :rotated].float().unflatten(-1, (3, -1, 2)).unbind(-1)  # (..., H, 3, n)
        angle = positions.float()[..., None, :, None] * self.frequency  # (..., 1, 3, n)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-3)
        return torch.cat([turned.type_as(heads), heads[..., rotated:]], -1)


class WindowBias(nn.Module):
    """A learned number for every difference of two places in a window, for each head, added to their score.

    Args:
        num_heads: H.
        window: places along each axis, (w0, w1, w2); w2 = 1 in two dimensions.

    Source: Liu et al., Swin Transformer, 2021, equation 4.
    """

    def __init__(self, num_heads: int, window: tuple[int, int, int]) -> None:
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.empty(num_heads, *(2 * w - 1 for w in window)))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, query_cells: Tensor, key_cells: Tensor) -> Tensor:
        """
        Args:
            query_cells: (B, Sq, 3) integers, 0 <= cell < window along each axis.
            key_cells: (B, Sk, 3).

        Returns:
            (B, H, Sq, Sk): [b, h, i, j] is table[h, query_cells[b, i] - key_cells[b, j] + window - 1].
        """
        x, y, z = (query_cells[:, :, None].long() - key_cells[:, None].long()).unbind(-1)  # (B, Sq, Sk)
        w0, w1, w2 = self.window
        place = ((x + w0 - 1) * (2 * w1 - 1) + y + w1 - 1) * (2 * w2 - 1) + z + w2 - 1
        bias = self.table.flatten(1).index_select(1, place.flatten())  # (H, B * Sq * Sk)
        return bias.unflatten(1, place.shape).transpose(0, 1)
