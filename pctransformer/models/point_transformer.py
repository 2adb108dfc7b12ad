"""Point Transformer. Zhao, Jiang, Jia, Torr, Koltun, 2021, arXiv:2012.09164.

Each point attends to its k nearest neighbours with a weight for every channel (vector attention), and the offset
between two points enters both the weight and the value. Between attention blocks the cloud is thinned to a quarter by
farthest point sampling, and each point that stays takes the maximum over its neighbours.

What differs here: sizes follow the small network of the repository souheib1/Point-Transformer, whose public weights
fit: attention of 64 channels at every level, a layer per point before the neighbours' maximum instead of one per
neighbour, and a perceptron on raw points as stem.

(B, N, 3 + C) -> perceptron -> block -> 4 x (transition down -> block) -> mean over points -> perceptron -> logits
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.recording import RecordedLayer
from pctransformer.models.classifier import Classifier
from pctransformer.ops import gather
from pctransformer.point_view.local_attention import VectorAttention
from pctransformer.point_view.sampling import max_over_neighbors, neighbors, sample_fraction
from pctransformer.points import PointBatch


class PointTransformerBlock(nn.Module):
    """Linear, vector attention among the k nearest points, linear, and the input added (figure 4a)."""

    def __init__(self, dim: int, attention_dim: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.linear_in = nn.Linear(dim, attention_dim)
        self.attention = VectorAttention(attention_dim)
        self.linear_out = nn.Linear(attention_dim, dim)

    def forward(self, batch: PointBatch) -> PointBatch:
        x = batch.features
        assert x is not None
        index = neighbors(batch, batch, self.k)
        return batch.replace(features=x + self.linear_out(self.attention(self.linear_in(x), batch.xyz, index)))


class TransitionDown(RecordedLayer):
    """A quarter of the points, each with the channel-wise maximum over its k nearest of all (figure 4b)."""

    def __init__(self, in_dim: int, out_dim: int, k: int, stride: int = 4) -> None:
        super().__init__()
        self.k, self.stride = k, stride
        self.layer = nn.Sequential(nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU())

    def forward(self, batch: PointBatch) -> PointBatch:
        centers, _ = sample_fraction(batch, self.stride)
        index = neighbors(batch, centers, self.k)
        grouped = gather(self.layer(batch.features), index)  # (M, k, C)
        if self.is_recorded:
            self.record_maximum(grouped, index)
        # a missing neighbour counts 0, which ReLU never undercuts
        return centers.replace(features=max_over_neighbors(grouped))


class PointTransformer(Classifier):
    """The classification network of figure 3.

    Args:
        dims: channels at each level, the first before any thinning.
        attention_dim: channels inside the attention layers.
        k: neighbours, the point itself among them.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
    """

    def __init__(self, *, dims: Sequence[int], attention_dim: int, k: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dims[-1]
        self.stem = nn.Sequential(nn.Linear(in_channels, dims[0]), nn.ReLU(), nn.Linear(dims[0], dims[0]))
        self.down = nn.ModuleList(TransitionDown(a, b, k) for a, b in pairwise(dims))
        self.blocks = nn.ModuleList(PointTransformerBlock(dim, attention_dim, k) for dim in dims)
        hidden = nn.Sequential(nn.Linear(dims[-1], 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.head = ClassificationHead(hidden, 64, num_classes, reduce="mean")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        tokens = self.blocks[0](batch.replace(features=self.stem(channels)))  # N points
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            tokens = block(down(tokens))  # N / 4, N / 16, ...
        return tokens


# ---- sizes -----------------------------------------------------------------------------------------------------------
def point_transformer(num_classes: int = 40, in_channels: int = 6) -> PointTransformer:
    """For 1024 points with normals: levels of 1024, 256, 64, 16 and 4 points, 582 024 parameters for 40 classes."""
    return PointTransformer(
        dims=(32, 64, 128, 256, 512), attention_dim=64, k=16, in_channels=in_channels, num_classes=num_classes
    )


# ---- public checkpoints: souheib1/Point-Transformer, models/best_model.pt (MIT) --------------------------------------
def convert_souheib1(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of that repository, renamed; 1x1 convolutions become linear layers.

    They want xyz and normals of 1024 points, centred and divided by the largest norm.
    """
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in _SOUHEIB1:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.squeeze(-1) if value.dim() == 3 else value
    return renamed


_SOUHEIB1 = (
    (r"^MLP1\.", "stem."),
    (r"^MLP2\.4\.", "head.classifier."),
    (r"^MLP2\.", "head.hidden."),
    (r"^down_blocks\.(\d)\.mlp_convs\.", r"down.\1.layer."),
    (r"^transformer_initial\.", "blocks.0."),
    (r"^transformer_blocks\.(\d)\.", lambda found: f"blocks.{int(found[1]) + 1}."),
    (r"\.linear1\.", ".linear_in."),
    (r"\.linear2\.", ".linear_out."),
    (r"\.keys\.", ".attention.key."),
    (r"\.queries\.", ".attention.query."),
    (r"\.values\.", ".attention.value."),
    (r"\.mapping\.", ".attention.weight."),
    (r"\.positional_encoding\.", ".attention.position."),
)

PUBLIC_WEIGHTS = {"transformer_initial.linear1.weight": convert_souheib1}
