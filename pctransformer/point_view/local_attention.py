"""Vector attention among neighbours: Point Transformer, as the paper writes it and as its authors' code has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedAttention
from pctransformer.ops import gather, group


class VectorAttention(RecordedAttention):
    """Attention with a weight for every channel, among the neighbours of each point.

        y_i = sum_j softmax_j(gamma(phi(x_i) - psi(x_j) + delta_ij) / sqrt(C)) * (alpha(x_j) + delta_ij)
        delta_ij = theta(p_i - p_j)

    with linear phi, psi and alpha, and two-layer perceptrons gamma and theta. The paper has no 1 / sqrt(C); widely used
    implementations, and the public weights that `models.point_transformer` reads, do.

    Args:
        dim: channels C of input and output.

    Source: Zhao et al., Point Transformer, 2021, eq. 2 to 4, arXiv:2012.09164.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.weight = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.position = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor, xyz: Tensor, index: Tensor) -> Tensor:
        """
        Args:
            x: (N, C) features.
            xyz: (N, 3) coordinates, metres.
            index: (N, k) int64 neighbours of each point, -1 for none; at least one in each row.

        Returns:
            (N, C).
        """
        delta = self.position(xyz[:, None] - gather(xyz, index))  # (N, k, C)
        score = self.weight(self.query(x)[:, None] - gather(self.key(x), index) + delta) / math.sqrt(x.shape[1])
        attention = score.masked_fill((index < 0)[..., None], -torch.inf).softmax(1)  # (N, k, C)
        if self.is_recorded:
            weights = attention.mT[:, :, None]  # (N, C, 1, k): every channel is a head
            self.record(weights, key_index=index)
            attention = weights[:, :, 0].mT
        return (attention * (gather(self.value(x), index) + delta)).sum(1)


class GroupedVectorAttention(RecordedAttention):
    """Vector attention whose weights are shared by several channels: what the authors of Point Transformer trained.

        y_ic = sum_j softmax_j(omega(psi(x_j) - phi(x_i) + delta_ij))_(c mod C / s) * (alpha(x_j) + delta_ij)_c
        delta_ij = theta(p_j - p_i)

    Against `VectorAttention`: the weights are fewer by the factor s, with the linear layers of omega after BatchNorm
    and ReLU; theta is narrow, 3 -> 3 -> C; linear layers have a bias. A neighbour that is missing has no weight; in its
    place BatchNorm sees the first neighbour again.

    Args:
        dim: channels C of input and output.
        shared: s, channels with one weight; divides `dim`.

    Source: Zhao et al., 2021, arXiv:2012.09164, and the code of its authors (POSTECH-CVLab/point-transformer); named
    grouped vector attention by Wu et al., Point Transformer V2, 2022.
    """

    def __init__(self, dim: int, shared: int = 8) -> None:
        super().__init__()
        narrow = dim // shared
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.position = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, dim))
        self.weight = nn.Sequential(
            nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, narrow),
            nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, narrow),
        )  # fmt: skip

    def forward(self, x: Tensor, xyz: Tensor, index: Tensor) -> Tensor:
        """As `VectorAttention.forward`."""
        missing = index < 0  # (N, k)
        index = torch.where(missing, index[:, :1], index)
        delta = self.position(group(xyz, xyz, index).flatten(0, 1)).view(*index.shape, -1)  # (N, k, C)
        relation = gather(self.key(x), index) - self.query(x)[:, None] + delta
        score = self.weight(relation.flatten(0, 1)).view(*index.shape, -1)  # (N, k, C / s)
        attention = score.masked_fill(missing[..., None], -torch.inf).softmax(1)
        if self.is_recorded:
            weights = attention.mT[:, :, None]  # (N, C / s, 1, k): every weight is a head
            self.record(weights, key_index=index.masked_fill(missing, -1))
            attention = weights[:, :, 0].mT
        value = (gather(self.value(x), index) + delta).unflatten(2, (-1, attention.shape[2]))  # (N, k, s, C / s)
        return (value * attention[:, :, None]).sum(1).flatten(1)
