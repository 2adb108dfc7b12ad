"""Attention inside patches of a curve, and the grid that thins tokens: the parts of Point Transformer V3.

Source of the whole file: Wu et al., Point Transformer V3, 2024, arXiv:2312.10035, section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import RotaryPosition
from pctransformer.layers.recording import RecordedAttention, RecordedLayer
from pctransformer.layers.residual import Residual
from pctransformer.ops import gather, ragged_attention, segment
from pctransformer.point_view.cell_convolution import ConvolutionalPosition
from pctransformer.point_view.serialization import Coarsening, Patches, SerializedPoints, coarsen, cut
from pctransformer.points import pad_packed, padded_rows, unpad


class SerializedAttention(RecordedAttention):
    """Multi-head attention of points to those in their patch of a curve.

    Args:
        dim: channels, a multiple of num_heads.
        num_heads: heads.
        rotary: turns queries and keys by the coordinates of their points, or None.
    """

    def __init__(self, dim: int, num_heads: int, *, rotary: RotaryPosition | None = None) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads, self.rotary = num_heads, rotary
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, xyz: Tensor, order: Tensor, patches: Patches) -> Tensor:
        """
        Args:
            x: (N, C) features of points.
            xyz: (N, 3) their coordinates, metres.
            order: (N,) int64 rows along a curve, cloud by cloud.
            patches: how that sequence is cut, see `cut`.

        Returns:
            (N, C), rows as in x.
        """
        qkv = gather(self.qkv(x), order).unflatten(1, (3, self.num_heads, -1))  # (N, 3, H, D) along the curve
        query, key, value = qkv.unbind(1)
        if self.rotary is not None:
            place = xyz.index_select(0, order)
            query, key = self.rotary(query, place), self.rotary(key, place)
        if len(patches.key_places) > len(x):  # a last patch sees points of the patch before
            key = gather(key.flatten(1), patches.key_places).view(-1, *key.shape[1:])
            value = gather(value.flatten(1), patches.key_places).view(-1, *value.shape[1:])
        if self.is_recorded:
            heads = self._explicit(query, key, value, order, patches)
        else:
            heads = ragged_attention(query, key, value, patches.offsets, patches.key_offsets)
        back = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        return gather(self.proj(heads.flatten(1)), back)

    def _explicit(self, query: Tensor, key: Tensor, value: Tensor, order: Tensor, patches: Patches) -> Tensor:
        """The same, (N, H, D), by weights that are handed over."""
        rows, key_rows = padded_rows(patches.offsets), padded_rows(patches.key_offsets)  # (P, Q), (P, K)
        query, key, value = (
            pad_packed(of, at).transpose(1, 2) for of, at in ((query, rows), (key, key_rows), (value, key_rows))
        )  # (P, H, Q or K, D)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        weights = scores.masked_fill((key_rows < 0)[:, None, None], -torch.inf).softmax(-1)
        points = gather(order[:, None], rows)[..., 0].masked_fill(rows < 0, -1)
        seen = gather(order.index_select(0, patches.key_places)[:, None], key_rows)[..., 0]
        self.record(weights, query_index=points, key_index=seen.masked_fill(key_rows < 0, -1))
        return unpad((weights @ value).transpose(1, 2), rows)


class SerializedBlock(nn.Module):
    """Attention inside patches, then a perceptron for each point, both with LayerNorm in front (figure 4).

    Where points are enters by a convolution over their cells in front, as in the paper, or by rotary codes in attention
    itself, or not at all.

    Args:
        dim: channels.
        num_heads: heads.
        rotary: see `SerializedAttention`.
        position: what is added to points in front, or None.
        drop_path: share of clouds that each half leaves as they are, in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        rotary: RotaryPosition | None = None,
        position: ConvolutionalPosition | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.position = position
        self.attention = SerializedAttention(dim, num_heads, rotary=rotary)
        self.mlp = MLP(dim, 4 * dim)
        self.attention_residual = Residual(nn.LayerNorm(dim), drop_path=drop_path)
        self.mlp_residual = Residual(nn.LayerNorm(dim), drop_path=drop_path)

    def forward(
        self, level: SerializedPoints, curve: int, patches: Patches, convolved: Tensor | None = None
    ) -> SerializedPoints:
        """
        Args:
            level: points with features, and with their occupied cells if there is a convolution.
            curve: which of its orders.
            patches: how that is cut.
            convolved: (N, C) what the convolution sees; None: the features.
        """
        points, order, x = level.points, level.orders[curve], level.points.features
        assert x is not None
        if self.position is not None:
            assert level.occupied is not None
            x = x + self.position(x if convolved is None else convolved, level.occupied)
        x = self.attention_residual(x, lambda x: self.attention(x, points.xyz, order, patches), points.offsets)
        return level.replace(self.mlp_residual(x, self.mlp, points.offsets))


class SerializedBlocks(nn.Module):
    """Blocks of one level, one curve after the other.

    In training the curves take turns in a random order, drawn anew for each call from torch's own generator; otherwise
    in theirs. (Public code shuffles in evaluation too.)

    Args:
        blocks: the blocks.
        patch_size: points of a patch.
    """

    def __init__(self, blocks: list[SerializedBlock], patch_size: int) -> None:
        super().__init__()
        self.blocks, self.patch_size = nn.ModuleList(blocks), patch_size

    def forward(self, level: SerializedPoints, convolved: Tensor | None = None) -> SerializedPoints:
        """
        Args:
            level: points with features.
            convolved: (N, C) what the convolution in front of the first block sees; None: the features.
        """
        patches = cut(level.points.offsets, self.patch_size)
        if any(block.position is not None for block in self.blocks):
            level = level.with_occupied()  # once for all blocks, and for those of the same level on the way up
        curves = len(level.orders)
        turns = torch.randperm(curves).tolist() if self.training else list(range(curves))
        for i, block in enumerate(self.blocks):
            level = block(level, turns[i % curves], patches, convolved if i == 0 else None)
        return level


def norm_and_activation(dim: int) -> nn.Sequential:
    """BatchNorm with the constants of public code, and GELU."""
    return nn.Sequential(nn.BatchNorm1d(dim, eps=1e-3, momentum=0.01), nn.GELU())


class GridPooling(RecordedLayer):
    """One point for each cell twice as large: the maximum of a linear layer over the points in it (section 4.3)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, out_dim)
        self.norm = norm_and_activation(out_dim)

    def forward(self, level: SerializedPoints) -> tuple[SerializedPoints, Coarsening]:
        """The coarser level, and which points went where."""
        joined = coarsen(level)
        values = gather(self.proj(level.points.features), joined.members)
        if self.is_recorded:
            rows = padded_rows(joined.offsets)  # (M, most points of a cell)
            members = gather(joined.members[:, None], rows)[..., 0].masked_fill(rows < 0, -1)
            self.record_maximum(pad_packed(values, rows), members)
        return joined.coarse.replace(self.norm(segment(values, joined.offsets, "max"))), joined


class GridUnpooling(RecordedLayer):
    """Back to the points of the finer level: what they had, plus what their cell has now, a layer on each. Where a
    model's attention is recorded, both count alike."""

    def __init__(self, coarse_dim: int, fine_dim: int, out_dim: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Linear(coarse_dim, out_dim), *norm_and_activation(out_dim))
        self.fine = nn.Sequential(nn.Linear(fine_dim, out_dim), *norm_and_activation(out_dim))

    def forward(
        self, coarse: SerializedPoints, fine: SerializedPoints, joined: Coarsening
    ) -> tuple[SerializedPoints, Tensor]:
        """The points of `fine` with `out_dim` features, and (N, out_dim) what of these the points had themselves."""
        if self.is_recorded:
            self.record(
                torch.full((len(joined.parent), 1, 1, 1), 0.5, device=joined.parent.device),
                "children",
                key_index=joined.parent[:, None],
            )
            self.record_skip(len(joined.parent), 0.5)
        own = self.fine(fine.points.features)
        return fine.replace(own + gather(self.coarse(coarse.points.features), joined.parent)), own
