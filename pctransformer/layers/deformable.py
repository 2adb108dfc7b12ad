"""Deformable attention: tokens look at a few places of maps at several resolutions, and choose the places themselves.

    maps -> MapLevels -> DeformableEncoder: cells look around themselves, on all levels
    queries, MapLevels -> DeformableDecoder: (queries at each other, then at the maps, perceptron) x depth

Its cost grows with the tokens, not with tokens times cells, so that every cell of a map can look at others. Source: Zhu
et al., Deformable DETR, 2021, arXiv:2010.04159.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.recording import RecordedAttention
from pctransformer.layers.residual import Residual
from pctransformer.ops import _checks, deformable_attention
from pctransformer.ops.deformable import cells_of_samples
from pctransformer.voxels import BevMap, Grid

_START = 1e-3  # standard deviation of the weights that choose places


@dataclasses.dataclass(frozen=True, eq=False)
class MapLevels:
    """Maps of the same scenes at several resolutions, their cells in one sequence.

    Attributes:
        cells: (B, S, C) level after level, each row by row.
        grids: of the levels; they need not cover the same range.
    """

    cells: Tensor
    grids: tuple[Grid, ...]

    @classmethod
    def from_maps(cls, maps: Sequence[BevMap]) -> MapLevels:
        """Maps with as many channels each."""
        cells = torch.cat([bev.features.flatten(2).transpose(1, 2) for bev in maps], 1)
        return cls(cells, tuple(bev.grid.flattened() for bev in maps))

    def to_maps(self) -> list[BevMap]:
        """The levels as maps (B, C, ny, nx) again."""
        parts = self.cells.split([ny * nx for ny, nx in self.shapes], 1)
        return [
            BevMap(part.transpose(1, 2).unflatten(2, shape), grid)
            for part, shape, grid in zip(parts, self.shapes, self.grids, strict=True)
        ]

    def __len__(self) -> int:
        """How many clouds."""
        return self.cells.shape[0]

    @property
    def features(self) -> Tensor:
        """(B * S, C) the cells as packed tokens, cloud after cloud."""
        return self.cells.flatten(0, 1)

    def replace(self, cells: Tensor) -> MapLevels:
        """The same levels with other cells (B, S, C')."""
        return MapLevels(cells, self.grids)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(ny, nx) of each level."""
        return [grid.shape[1:] for grid in self.grids]

    def centers(self) -> Tensor:
        """(S, 3) the centres of all cells, at half the height of their grid, metres."""
        device, centers = self.cells.device, []
        for grid in self.grids:
            ranges = [torch.arange(n, device=device) for n in grid.shape]
            centers.append(grid.centers(torch.cartesian_prod(*ranges)))
        return torch.cat(centers)

    def places(self, xyz: Tensor) -> Tensor:
        """(..., L, 2) where points (..., 3), metres, are on each level: x and y, 0 to 1 from border to border."""
        sizes = [[high - low for low, high in zip(grid.low, grid.high)][:2] for grid in self.grids]
        low = xyz.new_tensor([grid.low[:2] for grid in self.grids])
        return (xyz[..., None, :2] - low) / xyz.new_tensor(sizes)


class MultiScaleDeformableAttention(RecordedAttention):
    """Every query becomes a weighted sum of values at places around it, on all levels.

        output = [head_1 ... head_H] W_o,   head_h = sum over l, p of A_hlp v_h(place + offset_hlp)
        offsets = q W_f, in cells of the level;   A_h = softmax over l and p of q W_a;   v = cells W_v

    No keys: weights, and where to look, follow from the query alone. Before training each head looks along a ray of its
    own, point p at p + 1 cells on the square ring around the query, all with the same weight, but for thousandths: the
    authors' W_f and W_a are 0, so that what is in front of them learns nothing from the first step. They train W_f ten
    times more slowly than the rest.

    While it is recorded, its keys are the four cells around each place, -1 outside of the maps, with their shares of
    the weight: places outside are what a head's weights lack to a sum of 1.

    Args:
        dim: channels of queries and cells, a multiple of num_heads.
        num_heads: H.
        num_levels: L.
        num_points: places of each head on each level.

    Source: Zhu et al., 2021, equation 3; start of training: appendix A.4.
    """

    def __init__(self, dim: int, num_heads: int, *, num_levels: int, num_points: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        _checks.integer(num_levels, "num_levels", 1)
        _checks.integer(num_points, "num_points", 1)
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        places = num_heads * num_levels * num_points
        self.offsets, self.weights = nn.Linear(dim, 2 * places), nn.Linear(dim, places)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for layer in (self.offsets, self.weights):
            nn.init.normal_(layer.weight, std=_START)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.value, self.out):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(_rays(num_heads, num_levels, num_points).flatten())

    def forward(
        self, x: Tensor, places: Tensor, levels: MapLevels, *, keys: Literal["tokens", "context"] = "context"
    ) -> Tensor:
        """
        Args:
            x: queries (B, Q, C).
            places: (B, Q, L, 2) around which they look, as `levels.places` gives them.
            levels: maps with C channels.
            keys: what is recorded as: "tokens" where the queries are the cells of the levels themselves.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: there are not num_levels levels.
        """
        if len(levels.grids) != self.num_levels:
            raise ValueError(f"this layer looks at {self.num_levels} levels, got {len(levels.grids)}")
        shape = (*x.shape[:2], self.num_heads, self.num_levels, self.num_points)
        sides = places.new_tensor([(nx, ny) for ny, nx in levels.shapes])
        offsets = self.offsets(x).view(*shape, 2) / sides[:, None]
        locations = places[:, :, None, :, None] + offsets  # (B, Q, H, L, P, 2)
        weights = self.weights(x).view(*shape[:3], -1).softmax(-1).view(shape)
        value = self.value(levels.cells).unflatten(2, (self.num_heads, -1))  # (B, S, H, D)
        if self.is_recorded:
            self._record(levels, locations, weights, keys)
        return self.out(deformable_attention(value, levels.shapes, locations, weights).type_as(value))

    def _record(
        self, levels: MapLevels, locations: Tensor, weights: Tensor, keys: Literal["tokens", "context"]
    ) -> None:
        clouds, cells = levels.cells.shape[:2]
        index, share = cells_of_samples(levels.shapes, locations, weights)  # (B, Q, H, 4LP)
        first = cells * torch.arange(clouds, device=index.device).view(-1, 1, 1, 1)
        row = torch.where(index < 0, -1, first + index)
        self.record(share.flatten(0, 1)[:, :, None], keys, key_index=row.flatten(0, 1))  # a group for each query


class DeformableEncoderLayer(nn.Module):
    """Cells look around themselves on all levels, then each at itself.

    Args:
        attention: of the cells.
        mlp: cells -> cells.
        residual: makes the `Residual` around each of them.
    """

    def __init__(
        self, attention: MultiScaleDeformableAttention, mlp: nn.Module, residual: Callable[[], Residual]
    ) -> None:
        super().__init__()
        self.attention, self.residual = attention, residual()
        self.mlp, self.mlp_residual = mlp, residual()

    def forward(self, levels: MapLevels, places: Tensor) -> MapLevels:
        """
        Args:
            levels: maps with C channels.
            places: (B, S, L, 2) of the cells.
        """

        def look(cells: Tensor) -> Tensor:
            return self.attention(cells, places, levels.replace(cells), keys="tokens")

        cells = self.residual(levels.cells, look)
        return levels.replace(self.mlp_residual(cells, self.mlp))


class DeformableEncoder(nn.Module):
    """Cells of all levels exchange what they know, layer by layer.

    Args:
        layers: of one number of levels.
        dim: channels of the maps.
        position: xyz (S, 3) -> code (S, dim).
        norm: behind the last layer; pre-norm layers want one. None: there is none.

    A cell knows where it is, and its level by a learned code: both are added at the start, where the paper adds them to
    the queries of every layer.

    Source: Zhu et al., 2021, section 4.1.
    """

    def __init__(
        self,
        layers: Iterable[DeformableEncoderLayer],
        dim: int,
        *,
        position: nn.Module,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        stack = list(layers)
        if not stack:
            raise ValueError("an encoder has at least one layer")
        self.layers = nn.ModuleList(stack)
        self.position, self.norm = position, norm or nn.Identity()
        self.level_code = nn.Parameter(torch.empty(stack[0].attention.num_levels, dim))
        nn.init.trunc_normal_(self.level_code, std=0.02)

    def forward(self, levels: MapLevels) -> MapLevels:
        """The same maps, knowing each other."""
        xyz = levels.centers()
        level_codes = [code.expand(ny * nx, -1) for code, (ny, nx) in zip(self.level_code, levels.shapes, strict=True)]
        code = self.position(xyz) + torch.cat(level_codes)  # (S, dim)
        places = levels.places(xyz).expand(len(levels), -1, -1, -1)
        levels = levels.replace(levels.cells + code)
        for layer in self.layers:
            levels = layer(levels, places)
        return levels.replace(self.norm(levels.cells))


class DeformableDecoderLayer(nn.Module):
    """Queries look at each other, then at places of maps, then each at itself.

    Args:
        self_attention: among queries.
        cross_attention: of queries to maps.
        mlp: queries -> queries.
        residual: makes the `Residual` around each of them.
    """

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiScaleDeformableAttention,
        mlp: nn.Module,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attention, self.self_residual = self_attention, residual()
        self.cross_attention, self.cross_residual = cross_attention, residual()
        self.mlp, self.mlp_residual = mlp, residual()

    def forward(self, x: Tensor, references: Tensor, levels: MapLevels) -> Tensor:
        """
        Args:
            x: queries (B, N, C).
            references: (B, N, 3) the point that each query is about, metres.
            levels: maps with C channels.
        """
        places = levels.places(references)
        x = self.self_residual(x, lambda x: self.self_attention(x, positions=references))
        x = self.cross_residual(x, lambda x: self.cross_attention(x, places, levels))
        return self.mlp_residual(x, self.mlp)


class DeformableDecoder(nn.Module):
    """Queries look at the same maps, layer after layer, and may move between them.

    Args:
        layers: in the order in which queries pass them.

    Source: Zhu et al., 2021, sections 4.1 and, for the moves, 4.2.
    """

    def __init__(self, layers: Iterable[DeformableDecoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        x: Tensor,
        references: Tensor,
        levels: MapLevels,
        locate: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """
        Args:
            x: queries (B, N, C).
            references: (B, N, 3) the point that each is about, metres.
            levels: maps with C channels.
            locate: (x, references) -> references (B, N, 3): where queries see their objects now. The next layer looks
                around there; no gradient goes through the move. None: they stay.

        Returns:
            what comes out of each layer (B, N, C), and the references (B, N, 3) that it was told.
        """
        seen = []
        for layer in self.layers:
            x = layer(x, references, levels)
            seen.append((x, references))
            if locate is not None:
                references = locate(x, references).detach()
        return seen


def _rays(num_heads: int, num_levels: int, num_points: int) -> Tensor:
    """(H, L, P, 2) offsets in cells: head h at an angle of 2 pi h / H, point p on the square p + 1 cells away."""
    angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, num_points + 1)[:, None]
    return (direction[:, None, None] * distance).expand(-1, num_levels, -1, -1)
