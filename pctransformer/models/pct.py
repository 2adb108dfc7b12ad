"""PCT: Point Cloud Transformer. Guo, Cai, Liu, Mu, Martin, Hu, 2021, arXiv:2012.09688.

Every point is a token and attends to all others. Attention is normalised twice, over the keys by a softmax and over the
queries by their sum, and the offset form feeds the difference between a token and what it attended to through the next
layer, x + LBR(x - attention(x)): a Laplacian instead of an adjacency matrix. In front of four such layers stands an
embedding: two layers on coordinates (naive), or two steps of sampling and grouping that look at 32 neighbours (full).

What differs here: clouds of one batch may have different sizes; in the full form a cloud with fewer than 512 points
repeats them. Query and key share their weights, as in the authors' code.

(B, N, 3) -> embedding -> 4 x attention, outputs side by side -> LBR to 1024 -> max over tokens -> perceptron -> logits
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.mixers.pct_attention import double_normalized, lbr
from pctransformer.layers.recording import RecordedAttention, RecordedLayer
from pctransformer.models.classifier import Classifier
from pctransformer.ops import gather
from pctransformer.point_view.sampling import max_over_neighbors, neighbors, sample
from pctransformer.points import PointBatch, pad_packed, padded_rows, unpad


class PointEmbedding(nn.Module):
    """Naive embedding: every point by itself."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(lbr(in_channels, dim), lbr(dim, dim))

    def forward(self, batch: PointBatch) -> PointBatch:
        return batch.replace(features=self.layers(_all_channels(batch)))


class NeighborEmbedding(RecordedLayer):
    """One step of sampling and grouping: fewer points, each with the features of its neighbourhood (figure 4)."""

    def __init__(self, in_dim: int, out_dim: int, num_samples: int, k: int, skip_near_origin: bool) -> None:
        super().__init__()
        self.num_samples, self.k, self.skip_near_origin = num_samples, k, skip_near_origin
        self.first = lbr(2 * in_dim, out_dim)
        self.second = lbr(out_dim, out_dim)

    def forward(self, batch: PointBatch) -> PointBatch:
        centers, chosen = sample(batch, self.num_samples, skip_near_origin=self.skip_near_origin)
        index = neighbors(batch, centers, self.k)  # (M, k)
        index = torch.where(index < 0, index[:, :1], index)  # a small cloud repeats its nearest point
        x = _features(batch)
        # The layer sees (x_j - x_i, x_i). It is linear: W (x_j - x_i, x_i) = W_a x_j + (W_b - W_a) x_i, which is
        # computed once per point and not once per neighbour.
        linear, rest = self.first[0], self.first[1:]
        assert isinstance(linear, nn.Linear)
        of_neighbor, of_center = linear.weight.chunk(2, 1)
        center = gather(x, chosen) @ (of_center - of_neighbor).T  # (M, C)
        grouped = gather(x @ of_neighbor.T, index) + center[:, None]  # (M, k, C)
        hidden = self.second(rest(grouped.flatten(0, 1))).view(*index.shape, -1)  # (M, k, C)
        if self.is_recorded:
            self.record_maximum(hidden, index)
        return centers.replace(features=max_over_neighbors(hidden))


class SelfAttention(RecordedAttention):
    """PCT's self-attention, or with `offset` its offset-attention, over all tokens of a cloud.

    `layers.mixers.pct_attention` has the same layer for patches of equal size, and says how weights are normalised.
    """

    def __init__(self, dim: int, offset: bool) -> None:
        super().__init__()
        self.offset = offset
        self.query_key = nn.Linear(dim, dim // 4, bias=False)
        self.value = nn.Linear(dim, dim)
        self.transform = lbr(dim, dim, bias=True)

    def forward(self, batch: PointBatch) -> PointBatch:
        x = _features(batch)
        attended = self.attend(batch, self.query_key(x), self.value(x))
        return batch.replace(features=x + self.transform(x - attended if self.offset else attended))

    def attend(self, batch: PointBatch, query_key: Tensor, value: Tensor) -> Tensor:
        rows, valid = None, None
        if batch.is_dense:
            shape = (len(batch), batch.max_points or 0, -1)
            query_key, value = query_key.view(shape), value.view(shape)
        else:
            rows = padded_rows(batch.offsets, batch.max_points)
            query_key, value, valid = pad_packed(query_key, rows), pad_packed(value, rows), rows >= 0
        weights = double_normalized(query_key, valid)[:, None]  # (B, one head, N, N)
        if self.is_recorded:
            self.record(weights, query_index=rows, key_index=rows)
        attended = (weights @ value[:, None])[:, 0]
        return attended.flatten(0, 1) if rows is None else unpad(attended, rows)


class NeighborStem(nn.Module):
    """Points to a few hundred tokens: two layers per point, then two steps of sampling and grouping (figure 2)."""

    def __init__(self, in_channels: int, dim: int, tokens: tuple[int, int], k: int, skip_near_origin: bool) -> None:
        super().__init__()
        self.points = PointEmbedding(in_channels, dim // 4)
        self.groups = nn.Sequential(
            NeighborEmbedding(dim // 4, dim // 2, tokens[0], k, skip_near_origin),
            NeighborEmbedding(dim // 2, dim, tokens[1], k, skip_near_origin),
        )

    def forward(self, batch: PointBatch) -> PointBatch:
        return self.groups(self.points(batch))


class PCT(Classifier):
    """The classification network of figure 2.

    Args:
        embedding: from the input to tokens with `dim` channels.
        project: from the embedding to the first attention layer; the embedding's own channels then join the attention
            outputs. None: neither.
        dim: channels of the attention layers.
        width: channels of the tokens after the attention outputs are fused.
        offset: offset-attention instead of self-attention.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        dropout: in the head.
    """

    def __init__(
        self,
        *,
        embedding: nn.Module,
        project: nn.Module | None,
        dim: int,
        width: int,
        offset: bool,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, width
        self.embedding, self.project = embedding, project
        self.attention = nn.ModuleList(SelfAttention(dim, offset) for _ in range(4))
        self.fuse = lbr((4 if project is None else 5) * dim, width, nn.LeakyReLU(0.2))
        hidden = nn.Sequential(
            lbr(width, width // 2, nn.LeakyReLU(0.2)),
            nn.Dropout(dropout),
            lbr(width // 2, width // 4, nn.LeakyReLU(0.2), bias=True),
            nn.Dropout(dropout),
        )
        self.head = ClassificationHead(hidden, width // 4, num_classes, reduce="max")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        tokens = self.embedding(PointBatch.of(points, self.in_channels))  # N tokens, or 256 of each cloud
        embedded = _features(tokens)
        if self.project is not None:
            tokens = tokens.replace(features=self.project(embedded))
        outputs = []
        for layer in self.attention:
            tokens = layer(tokens)
            outputs.append(_features(tokens))
        if self.project is not None:
            outputs.append(embedded)
        return tokens.replace(features=self.fuse(torch.cat(outputs, 1)))


def _features(batch: PointBatch) -> Tensor:
    assert batch.features is not None
    return batch.features


def _all_channels(batch: PointBatch) -> Tensor:
    return batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)


# ---- sizes: section 4.1, figure 2 and the authors' code --------------------------------------------------------------
def npct(num_classes: int = 40, in_channels: int = 3, *, dim: int = 128, width: int = 1024) -> PCT:
    """Naive PCT: point embedding and self-attention, 1 360 552 parameters."""
    embedding = PointEmbedding(in_channels, dim)
    return PCT(
        embedding=embedding, project=None, dim=dim, width=width, offset=False,
        in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def spct(num_classes: int = 40, in_channels: int = 3, *, dim: int = 128, width: int = 1024) -> PCT:
    """Simple PCT: point embedding and offset-attention, 1 360 552 parameters."""
    embedding = PointEmbedding(in_channels, dim)
    return PCT(
        embedding=embedding, project=None, dim=dim, width=width, offset=True,
        in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def pct(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    dim: int = 256,
    width: int = 1024,
    tokens: tuple[int, int] = (512, 256),
    k: int = 32,
    skip_near_origin: bool = False,
) -> PCT:
    """PCT: neighbour embedding and offset-attention, 2 876 136 parameters.

    Public weights were trained with the sampling that `skip_near_origin` repeats.
    """
    embedding = NeighborStem(in_channels, dim, tokens, k, skip_near_origin)
    return PCT(
        embedding=embedding, project=nn.Sequential(lbr(dim, dim), lbr(dim, dim)), dim=dim, width=width, offset=True,
        in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def pct_small(num_classes: int = 40, in_channels: int = 3) -> PCT:
    """PCT with half the channels and neighbours and 128 tokens, for training on a CPU."""
    return pct(num_classes, in_channels, dim=128, width=512, tokens=(256, 128), k=16)


# ---- public checkpoints: PCT_Pytorch ---------------------------------------------------------------------------------
def convert_pct_pytorch(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the PyTorch port of the authors' code (repository Strawberry-Eat-Mango/PCT_Pytorch), renamed.

    113 entries, each with the prefix `module.`: 1x1 convolutions become linear layers, and key weights, which are the
    query weights again, are checked to be so and left out.
    """
    old = {name.removeprefix("module."): value for name, value in weights.items()}
    renamed = {}
    for name, value in old.items():
        if name.endswith(".k_conv.weight"):
            if not torch.equal(value, old[name.replace("k_conv", "q_conv")]):
                raise ValueError(f"{name} differs from its q_conv; PCT shares them, so this is another model")
            continue
        for pattern, replacement in _PCT_PYTORCH:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.squeeze(-1) if value.dim() == 3 else value
    return renamed


_PCT_PYTORCH = (
    (r"^conv_fuse\.", "fuse."),
    (r"^pt_last\.sa(\d)\.", lambda found: f"attention.{int(found[1]) - 1}."),
    (r"\.q_conv\.", ".query_key."),
    (r"\.v_conv\.", ".value."),
    (r"\.trans_conv\.", ".transform.0."),
    (r"\.after_norm\.", ".transform.1."),
    (r"^pt_last\.conv1\.", "project.0.0."),
    (r"^pt_last\.bn1\.", "project.0.1."),
    (r"^pt_last\.conv2\.", "project.1.0."),
    (r"^pt_last\.bn2\.", "project.1.1."),
    (r"^gather_local_(\d)\.conv1\.", r"embedding.groups.\1.first.0."),
    (r"^gather_local_(\d)\.bn1\.", r"embedding.groups.\1.first.1."),
    (r"^gather_local_(\d)\.conv2\.", r"embedding.groups.\1.second.0."),
    (r"^gather_local_(\d)\.bn2\.", r"embedding.groups.\1.second.1."),
    (r"^conv1\.", "embedding.points.layers.0.0."),
    (r"^bn1\.", "embedding.points.layers.0.1."),
    (r"^conv2\.", "embedding.points.layers.1.0."),
    (r"^bn2\.", "embedding.points.layers.1.1."),
    (r"^linear1\.", "head.hidden.0.0."),
    (r"^bn6\.", "head.hidden.0.1."),
    (r"^linear2\.", "head.hidden.2.0."),
    (r"^bn7\.", "head.hidden.2.1."),
    (r"^linear3\.", "head.classifier."),
)

PUBLIC_WEIGHTS = {"pt_last.sa1.q_conv.weight": convert_pct_pytorch}
