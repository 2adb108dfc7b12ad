"""Attention in windows of a map.

Swin: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, Swin Transformer: Hierarchical Vision Transformer using Shifted Windows,
2021, arXiv:2103.14030.
CSWin: Dong, Bao, Chen, Zhang, Yu, Yuan, Chen, Guo, CSWin Transformer: A General Vision Transformer Backbone with
Cross-Shaped Windows, 2021, arXiv:2107.00652.

Cells attend to those of their window, so cost grows with the map as a convolution's does. They hear from beyond it
because every other layer has its windows shifted by half of one, or because windows are stripes: as wide as the map for
half of the heads, as high as the map for the others.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst, GridMixer
from pctransformer.layers.position import WindowBias
from pctransformer.layers.recording import RecordedAttention


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a map is cut into windows.

    Maps that windows do not fill get cells behind their last row and column, which nobody sees. Shifted windows are
    those of the map rolled by `shift`; cells that meet in a window only because the map was rolled do not see each
    other. That is what windows cut at the map's sides give, in windows of one size.

    Attributes:
        map: (H, W).
        window: cells of a window along H and W, at most as many as the map has.
        shift: cells by which windows begin later, along H and W; 0 where one window holds the map.
    """

    map: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]

    @classmethod
    def on(cls, size: tuple[int, int], window: tuple[int, int], *, shifted: bool = False) -> Windows:
        """Windows on a map of (H, W), no larger than it, shifted by half of one where asked for and it has several."""
        fitting = min(window[0], size[0]), min(window[1], size[1])
        shift = [side // 2 if shifted and side < whole else 0 for side, whole in zip(fitting, size)]
        return cls(size, fitting, (shift[0], shift[1]))

    @property
    def count(self) -> tuple[int, int]:
        """Windows along H and W."""
        return -(-self.map[0] // self.window[0]), -(-self.map[1] // self.window[1])

    def cut(self, x: Tensor) -> Tensor:
        """(B, windows, cells, C) from (B, H, W, C)."""
        (nh, nw), (h, w) = self.count, self.window
        missing = (0, 0, 0, nw * w - self.map[1], 0, nh * h - self.map[0])
        if any(missing):
            x = F.pad(x, missing)
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        return x.unflatten(2, (nw, w)).unflatten(1, (nh, h)).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def join(self, windows: Tensor) -> Tensor:
        """(B, H, W, C) from (B, windows, cells, C), the inverse of `cut`."""
        x = windows.unflatten(2, self.window).unflatten(1, self.count)  # (B, nh, nw, h, w, C)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(self.shift):
            x = x.roll(self.shift, (1, 2))
        return x[:, : self.map[0], : self.map[1]]

    def cells(self, device: torch.device) -> Tensor:
        """(windows, cells) int64 place of each cell on the map, row * W + column; -1 for those that fill it up."""
        places = torch.arange(self.map[0] * self.map[1], device=device).view(1, *self.map, 1)
        return self.cut(places + 1)[0, ..., 0] - 1

    def seen(self, device: torch.device) -> Tensor | None:
        """(windows, cells, cells) bool: which cell sees which; None where all of a window see each other.

        Cells that fill up the map see some, so that there is no softmax over nothing.
        """
        (nh, nw), (h, w) = self.count, self.window
        if not any(self.shift) and (nh * h, nw * w) == self.map:
            return None
        rolled = [
            torch.arange(n * side, device=device) >= n * side - shift
            for n, side, shift in zip(self.count, self.window, self.shift)
        ]  # along H and W: whether the cell came from the map's other side
        region = 2 * rolled[0][:, None].long() + rolled[1]  # (nh * h, nw * w)
        region = region.view(nh, h, nw, w).transpose(1, 2).reshape(nh * nw, h * w)
        real = self.cells(device) >= 0
        return (region[:, :, None] == region[:, None]) & (real[:, None] | ~real[:, :, None])


def window_cells(window: tuple[int, int], device: torch.device) -> Tensor:
    """(1, cells, 3) int64 row, column, 0 of each cell of a window, for `WindowBias`."""
    rows, columns = (torch.arange(side, device=device) for side in window)
    return torch.stack(torch.meshgrid(rows, columns, rows.new_zeros(1), indexing="ij"), -1).flatten(0, 2)[None]


class WindowMixer(GridMixer, RecordedAttention):
    """What mixers of windows share: attention of the cells of each."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, windows: Windows, bias: Tensor | None) -> Tensor:
        """softmax(q kᵀ / sqrt(D) + bias) v in each window.

        Args:
            query, key, value: (B, H, W, heads, D).
            windows: of the map.
            bias: (heads, cells, cells) to add to scores, or None.

        Returns:
            (B, H, W, heads * D).
        """
        heads = query.shape[3]
        # windows and heads together, so that what is added to scores is the same for every map of the batch
        query, key, value = (
            windows.cut(x.flatten(3)).unflatten(3, (heads, -1)).transpose(2, 3).flatten(1, 2)
            for x in (query, key, value)
        )  # (B, windows * heads, cells, D)
        added = self._added(windows, bias, heads, query)
        if self.is_recorded:
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            weights = (scores if added is None else scores + added).softmax(-1)
            self._hand_over(weights, windows, heads)
            attended = weights @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
        return windows.join(attended.unflatten(1, (-1, heads)).transpose(2, 3).flatten(3))

    def _added(self, windows: Windows, bias: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
        """(1, windows * heads, cells, cells), -inf where a cell is not seen; None for nothing."""
        seen = windows.seen(like.device)
        if seen is None and bias is None:
            return None
        cells = windows.window[0] * windows.window[1]
        added = like.new_zeros(heads, cells, cells) if bias is None else bias.type_as(like)
        added = added.expand(windows.count[0] * windows.count[1], -1, -1, -1)
        if seen is not None:
            added = added.masked_fill(~seen[:, None], -torch.inf)
        return added.flatten(0, 1)[None]

    def _hand_over(self, weights: Tensor, windows: Windows, heads: int) -> None:
        """Record weights (B, windows * heads, cells, cells): every window of every map is a group."""
        batch = weights.shape[0]
        cells = windows.cells(weights.device)  # (windows, cells)
        first = torch.arange(batch, device=weights.device)[:, None, None] * (windows.map[0] * windows.map[1])
        rows = torch.where(cells >= 0, cells + first, -1).flatten(0, 1)  # (B * windows, cells)
        self.record(weights.unflatten(1, (-1, heads)).flatten(0, 1), query_index=rows, key_index=rows)


class WindowAttention(WindowMixer):
    """Swin's attention: of the cells of a window to each other, with a learned bias for each difference of places.

    Args:
        dim: channels.
        num_heads: divides dim; None: one for each 32 channels, as in Swin, but one at least.
        window: cells along each side of a window; smaller on maps that are smaller.
        shifted: whether windows begin half of one later. Every other layer's do; `create_grid_block` sees to it.

    Source: section 3.2 and equation 4.
    """

    def __init__(self, *, dim: int, num_heads: int | None = None, window: int = 7, shifted: bool = False) -> None:
        super().__init__(dim)
        self.num_heads = _heads(dim, num_heads)
        if window < 1:
            raise ValueError(f"window must be at least 1 cell, got {window}")
        self.window, self.shifted = window, shifted
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = WindowBias(self.num_heads, (window, window, 1))

    def mix(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).unbind(3)  # (B, H, W, heads, D)
        windows = Windows.on((x.shape[1], x.shape[2]), (self.window, self.window), shifted=self.shifted)
        cells = window_cells(windows.window, x.device)
        return self.out(self.attend(query, key, value, windows, self.bias(cells, cells)[0]))


class CrossShapedWindows(WindowMixer):
    """CSWin's attention: half of the heads attend along horizontal stripes, the other half along vertical ones.

        head_i = softmax(q kᵀ / sqrt(D)) v in stripes,   out = FC(heads side by side + DWConv3x3(v))

    The convolution tells where cells are ("locally enhanced positional encoding"). It runs over the whole map; public
    code runs it in each stripe.

    Args:
        dim: channels.
        num_heads: even, divides dim; None: one for each 32 channels, but two at least.
        stripe: cells across a stripe; published are 1, 2, 7 and 7 in the four stages.

    Source: sections 3.2 and 3.3, equations 3 and 7.
    """

    def __init__(self, *, dim: int, num_heads: int | None = None, stripe: int = 2) -> None:
        super().__init__(dim)
        self.num_heads = _heads(dim, num_heads, least=2)
        if self.num_heads % 2:
            raise ValueError(f"half of the heads attend along rows and half along columns; {self.num_heads} is odd")
        if stripe < 1:
            raise ValueError(f"stripe must be at least 1 cell, got {stripe}")
        self.stripe = stripe
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.position = ChannelsFirst(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def mix(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        qkv = self.qkv(x).unflatten(3, (3, self.num_heads, -1))  # (B, H, W, 3, heads, D)
        attended = []
        for heads, window in zip(qkv.chunk(2, 4), ((self.stripe, width), (height, self.stripe))):
            query, key, value = heads.unbind(3)
            attended.append(self.attend(query, key, value, Windows.on((height, width), window), None))
        return self.out(torch.cat(attended, 3) + self.position(qkv[:, :, :, 2].flatten(3)))


def _heads(dim: int, num_heads: int | None, least: int = 1) -> int:
    heads = max(least, dim // 32) if num_heads is None else num_heads
    if heads < 1 or dim % heads:
        raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {heads} heads")
    return heads
