"""Vector attention among neighbours: Point Transformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer
from pctransformer.ops import gather


class VectorAttention(RecordedLayer):
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
