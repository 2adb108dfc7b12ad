"""Point Transformer as its authors trained it, for clouds and for points. Zhao et al., 2021, arXiv:2012.09164.

The shape of figure 3: five levels, each with a quarter of the points of the one before and twice the channels, and
blocks of vector attention among 8 (first level) or 16 neighbours. For segmentation the way back: the last level learns
what the whole cloud is, then every level adds what is interpolated from the level below to what it had itself.

What differs from the paper follows the code of its authors: attention weights shared by 8 channels, BatchNorm
everywhere (see `GroupedVectorAttention`), several blocks at a level. They published no classifier; ours is the encoder,
the mean over points, and the head that Pointcept gives it. `models.point_transformer` is smaller, with public weights.

(B, N, 3 + C) -> blocks -> 4 x (transition down -> blocks) -> mean over points -> perceptron -> logits
For segmentation -> the whole cloud -> 4 x (transition up -> block) -> perceptron -> logits of every point
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead, pool
from pctransformer.heads.segmentation import SegmentationHead
from pctransformer.layers.recording import RecordedLayer
from pctransformer.models.classifier import Classifier
from pctransformer.models.segmenter import Segmenter, of_each_point
from pctransformer.ops import group, interpolate
from pctransformer.point_view.local_attention import GroupedVectorAttention
from pctransformer.point_view.sampling import max_over_neighbors, neighbors, sample_fraction
from pctransformer.points import PointBatch


def lbr(in_dim: int, out_dim: int, bias: bool = True) -> nn.Sequential:
    """Linear, BatchNorm, ReLU."""
    return nn.Sequential(nn.Linear(in_dim, out_dim, bias), nn.BatchNorm1d(out_dim), nn.ReLU())


class PointTransformerBlock(nn.Module):
    """Linear, vector attention, linear, each with BatchNorm; the input is added before the last ReLU (figure 4a)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_in = lbr(dim, dim, bias=False)
        self.attention = GroupedVectorAttention(dim)
        self.norm = nn.BatchNorm1d(dim)
        self.linear_out = nn.Linear(dim, dim, bias=False)
        self.norm_out = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor, xyz: Tensor, index: Tensor) -> Tensor:
        attended = self.norm(self.attention(self.linear_in(x), xyz, index)).relu()
        return (x + self.norm_out(self.linear_out(attended))).relu()


class Blocks(nn.Module):
    """Blocks of one level, which share the search for neighbours."""

    def __init__(self, dim: int, depth: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.layers = nn.ModuleList(PointTransformerBlock(dim) for _ in range(depth))

    def forward(self, batch: PointBatch) -> PointBatch:
        index = neighbors(batch, batch, self.k)
        x = batch.features
        for layer in self.layers:
            x = layer(x, batch.xyz, index)
        return batch.replace(features=x)


class TransitionDown(RecordedLayer):
    """A quarter of the points; each looks at its k nearest of all, with a layer for each, and takes the maximum."""

    def __init__(self, in_dim: int, out_dim: int, k: int, stride: int = 4) -> None:
        super().__init__()
        self.k, self.stride = k, stride
        self.layer = lbr(3 + in_dim, out_dim, bias=False)

    def forward(self, batch: PointBatch) -> PointBatch:
        centers, _ = sample_fraction(batch, self.stride)
        index = neighbors(batch, centers, self.k)  # (M, k)
        index = torch.where(index < 0, index[:, :1], index)  # a small cloud repeats its nearest point
        grouped = group(batch.xyz, centers.xyz, index, batch.features)  # (M, k, 3 + C)
        values = self.layer(grouped.flatten(0, 1)).view(*index.shape, -1)
        if self.is_recorded:
            self.record_maximum(values, index)
        return centers.replace(features=max_over_neighbors(values))


class WholeCloud(nn.Module):
    """At the turning point: every point also gets the mean of its cloud, and the object's category if it is told."""

    def __init__(self, dim: int, num_categories: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        category_dim = 1024 if num_categories else 0
        self.category = nn.Sequential(nn.Linear(num_categories, category_dim), nn.ReLU()) if num_categories else None
        self.both = lbr(2 * dim + category_dim, dim)

    def forward(self, batch: PointBatch, code: Tensor) -> PointBatch:
        assert batch.features is not None
        of_clouds = self.mean(pool(batch, "mean"))  # (B, dim)
        if self.category is not None:
            of_clouds = torch.cat([of_clouds, self.category(code)], 1)
        return batch.replace(features=self.both(torch.cat([batch.features, of_each_point(of_clouds, batch)], 1)))


class TransitionUp(RecordedLayer):
    """A layer on what the many points had, plus one on what the few have, interpolated to the many (figure 4c). Where
    attention is recorded, both count alike."""

    def __init__(self, coarse_dim: int, fine_dim: int) -> None:
        super().__init__()
        self.fine, self.coarse = lbr(fine_dim, fine_dim), lbr(coarse_dim, fine_dim)

    def forward(self, coarse: PointBatch, fine: PointBatch) -> PointBatch:
        if self.is_recorded:
            self.record_interpolation(coarse, fine, power=1)
        carried = interpolate(coarse.xyz, coarse.offsets, self.coarse(coarse.features), fine.xyz, fine.offsets, power=1)
        return fine.replace(features=self.fine(fine.features) + carried)


class Encoder(nn.Module):
    """Five levels, down: what classification and segmentation share.

    Args:
        in_channels: channels of the input, 3 + C; all of them are features of the first level.
        dims: channels of each level.
        depths: blocks of each level.
        ks: neighbours at each level, the point itself among them.
    """

    def __init__(self, in_channels: int, *, dims: Sequence[int], depths: Sequence[int], ks: Sequence[int]) -> None:
        super().__init__()
        self.stem = lbr(in_channels, dims[0], bias=False)
        self.down = nn.ModuleList(TransitionDown(a, b, k) for a, b, k in zip(dims, dims[1:], ks[1:]))
        self.blocks = nn.ModuleList(Blocks(dim, depth, k) for dim, depth, k in zip(dims, depths, ks, strict=True))

    def forward(self, batch: PointBatch) -> list[PointBatch]:
        """The batch at every level, finest first."""
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        levels = [self.blocks[0](batch.replace(features=self.stem(channels)))]  # N points
        for down, blocks in zip(self.down, self.blocks[1:], strict=True):
            levels.append(blocks(down(levels[-1])))  # N / 4, N / 16, ...
        return levels


class PointTransformerEncoder(Classifier):
    """The classification network of figure 3: encoder, mean over points, head."""

    def __init__(self, *, encoder: Encoder, num_features: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.encoder = in_channels, num_features, encoder
        hidden = nn.Sequential(lbr(num_features, 256), nn.Dropout(0.5), lbr(256, 128), nn.Dropout(0.5))
        self.head = ClassificationHead(hidden, 128, num_classes, reduce="mean")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        return self.encoder(PointBatch.of(points, self.in_channels))[-1]


class PointTransformerUNet(Segmenter):
    """The segmentation network of figure 3: down and up again.

    Args:
        encoder: gives the levels.
        dims: channels of each level.
        ks: neighbours at each level, for the blocks on the way up.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        num_categories: see `Segmenter`; the category joins at the coarsest level.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        dims: Sequence[int],
        ks: Sequence[int],
        in_channels: int,
        num_classes: int,
        num_categories: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.num_categories = in_channels, dims[0], num_categories
        self.encoder = encoder
        self.whole = WholeCloud(dims[-1], num_categories)
        self.category_columns = ("whole.category.0.weight",) if num_categories else ()
        self.up = nn.ModuleList(TransitionUp(b, a) for a, b in pairwise(dims))
        self.blocks = nn.ModuleList(Blocks(dim, 1, k) for dim, k in zip(dims, ks, strict=True))
        self.head = SegmentationHead(lbr(dims[0], dims[0]), dims[0], num_classes)

    def forward_features(
        self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None
    ) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        *finer, tokens = self.encoder(batch)
        tokens = self.blocks[-1](self.whole(tokens, self.category_code(batch, category)))  # N / 256 points
        for up, blocks in zip(reversed(self.up), list(self.blocks)[-2::-1], strict=True):
            tokens = blocks(up(tokens, finer.pop()))  # N / 64, ..., N
        return tokens


# ---- sizes: figure 3, with the depths and neighbours of the authors' code --------------------------------------------
_DIMS, _KS = (32, 64, 128, 256, 512), (8, 16, 16, 16, 16)


def point_transformer_26(num_classes: int = 40, in_channels: int = 6) -> PointTransformerEncoder:
    """One block at each level, as figure 3 draws them; 2 159 778 parameters."""
    return _classifier((1, 1, 1, 1, 1), num_classes, in_channels)


def point_transformer_50(num_classes: int = 40, in_channels: int = 6) -> PointTransformerEncoder:
    """The encoder with which the authors segment; 5 073 362 parameters."""
    return _classifier((1, 2, 3, 5, 2), num_classes, in_channels)


def point_transformer_26_seg(
    num_classes: int = 50, in_channels: int = 6, *, num_categories: int = 0
) -> PointTransformerUNet:
    """One block at each level on the way down; 4 855 366 parameters."""
    return _segmenter((1, 1, 1, 1, 1), num_classes, in_channels, num_categories)


def point_transformer_50_seg(
    num_classes: int = 50, in_channels: int = 6, *, num_categories: int = 0
) -> PointTransformerUNet:
    """The authors' network for S3DIS, 7 767 729 parameters for 6 channels and its 13 classes."""
    return _segmenter((1, 2, 3, 5, 2), num_classes, in_channels, num_categories)


def point_transformer_small_seg(
    num_classes: int = 50, in_channels: int = 3, *, num_categories: int = 0
) -> PointTransformerUNet:
    """The first three levels of `point_transformer_26_seg`, for training on a CPU."""
    return _segmenter((1, 1, 1), num_classes, in_channels, num_categories)


def _classifier(depths: Sequence[int], num_classes: int, in_channels: int) -> PointTransformerEncoder:
    encoder = Encoder(in_channels, dims=_DIMS, depths=depths, ks=_KS)
    return PointTransformerEncoder(
        encoder=encoder, num_features=_DIMS[-1], in_channels=in_channels, num_classes=num_classes
    )


def _segmenter(depths: Sequence[int], num_classes: int, in_channels: int, num_categories: int) -> PointTransformerUNet:
    dims, ks = _DIMS[: len(depths)], _KS[: len(depths)]
    encoder = Encoder(in_channels, dims=dims, depths=depths, ks=ks)
    return PointTransformerUNet(
        encoder=encoder, dims=dims, ks=ks, in_channels=in_channels, num_classes=num_classes,
        num_categories=num_categories,
    )  # fmt: skip


# ---- public checkpoints: POSTECH-CVLab/point-transformer and Pointcept (MIT) -----------------------------------------
def convert_pointcept(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of either repository's segmentation networks, renamed."""
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in _POINTCEPT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


_POINTCEPT = (
    (r"^enc1\.0\.linear\.", "encoder.stem.0."),
    (r"^enc1\.0\.bn\.", "encoder.stem.1."),
    (r"^enc(\d)\.0\.linear\.", lambda found: f"encoder.down.{int(found[1]) - 2}.layer.0."),
    (r"^enc(\d)\.0\.bn\.", lambda found: f"encoder.down.{int(found[1]) - 2}.layer.1."),
    (r"^enc(\d)\.(\d)\.", lambda found: f"encoder.blocks.{int(found[1]) - 1}.layers.{int(found[2]) - 1}."),
    (r"^dec5\.0\.linear1\.", "whole.both."),
    (r"^dec5\.0\.linear2\.", "whole.mean."),
    (r"^dec5\.0\.linear3\.", "whole.category."),
    (r"^dec(\d)\.0\.linear1\.", lambda found: f"up.{int(found[1]) - 1}.fine."),
    (r"^dec(\d)\.0\.linear2\.", lambda found: f"up.{int(found[1]) - 1}.coarse."),
    (r"^dec(\d)\.1\.", lambda found: f"blocks.{int(found[1]) - 1}.layers.0."),
    (r"^cls\.3\.", "head.classifier."),
    (r"^cls\.", "head.hidden."),
    (r"\.linear1\.", ".linear_in.0."),
    (r"\.bn1\.", ".linear_in.1."),
    (r"\.bn2\.", ".norm."),
    (r"\.linear3\.", ".linear_out."),
    (r"\.bn3\.", ".norm_out."),
    (r"\.transformer2?\.linear_q\.", ".attention.query."),
    (r"\.transformer2?\.linear_k\.", ".attention.key."),
    (r"\.transformer2?\.linear_v\.", ".attention.value."),
    (r"\.transformer2?\.linear_p\.", ".attention.position."),
    (r"\.transformer2?\.linear_w\.", ".attention.weight."),
)

PUBLIC_WEIGHTS = {"enc1.0.linear.weight": convert_pointcept}
