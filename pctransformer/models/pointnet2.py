"""PointNet++. Qi, Yi, Su, Guibas, 2017, arXiv:1706.02413.

No attention, but the hierarchy that later point transformers stand on: sample centres, group the points in a ball
around each, let a small PointNet turn every group into one point with features, and again. The last group is the whole
cloud. Multi-scale grouping looks at balls of several radii around each centre, which keeps it steady where density
varies.

What differs here: clouds of one batch may have different sizes, and a ball with few points is not filled up unless
`pad="first"` asks for it, see `BallPointNet`. Sampling starts at the first point of a cloud and not at random. Balls
take their points by index, so in a crowded ball the order of points matters.

(B, N, 3 + C) -> 512 centres -> 128 centres -> the whole cloud -> perceptron -> logits
For segmentation, from the whole cloud -> 128 -> 512 -> all points -> perceptron -> logits of every point
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.heads.segmentation import SegmentationHead
from pctransformer.models.classifier import Classifier
from pctransformer.models.segmenter import Segmenter, of_each_point
from pctransformer.point_view.set_abstraction import FeaturePropagation, GroupAll, SetAbstraction
from pctransformer.points import PointBatch


class PointNet2(Classifier):
    """The classification network of figure 2.

    Args:
        levels: from the points to fewer and fewer.
        whole: from the last level to one token for each cloud, `num_features` channels.
        num_features: channels of the token.
        dropout: after each of the head's hidden layers.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
    """

    def __init__(
        self,
        *,
        levels: Sequence[SetAbstraction],
        whole: GroupAll,
        num_features: int,
        dropout: tuple[float, float],
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, num_features
        self.levels, self.whole = nn.ModuleList(levels), whole
        hidden = nn.Sequential(
            nn.Linear(num_features, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(dropout[0]),
            nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(dropout[1]),
        )  # fmt: skip
        self.head = ClassificationHead(hidden, 256, num_classes, reduce="max")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        tokens = PointBatch.of(points, self.in_channels)
        for level in self.levels:
            tokens = level(tokens)  # 512 points of each cloud, then 128
        return self.whole(tokens)  # 1 point of each cloud


class PointNet2Segmenter(Segmenter):
    """The part segmentation network of figure 2 and appendix B: down as the classifier, and up again.

    Coordinates are also features of the points, on the way down and again at the end, where the object's category joins
    them.

    Args:
        levels: from the points to fewer and fewer; the first takes `in_channels` features.
        whole: from the last level to one token for each cloud.
        up: from one token of each cloud back to all points; the last takes `num_categories + in_channels` features.
        num_features: channels that the last of these gives.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        num_categories: see `Segmenter`.
    """

    def __init__(
        self,
        *,
        levels: Sequence[SetAbstraction],
        whole: GroupAll,
        up: Sequence[FeaturePropagation],
        num_features: int,
        in_channels: int,
        num_classes: int,
        num_categories: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.num_categories = in_channels, num_features, num_categories
        self.levels, self.whole, self.up = nn.ModuleList(levels), whole, nn.ModuleList(up)
        self.category_columns = (f"up.{len(up) - 1}.layers.0.weight",)
        hidden = nn.Sequential(nn.Linear(num_features, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.5))
        self.head = SegmentationHead(hidden, 128, num_classes)

    def forward_features(
        self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None
    ) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        code = of_each_point(self.category_code(batch, category), batch)
        tokens, finer = batch.replace(features=channels), [batch.replace(features=torch.cat([code, channels], 1))]
        for level in self.levels:
            tokens = level(tokens)  # 512 points of each cloud, then 128
            finer.append(tokens)
        tokens = self.whole(tokens)  # 1 point of each cloud
        for up in self.up:
            tokens = up(tokens, finer.pop())  # 128 points, 512, all
        return tokens


# ---- sizes: appendix B of the paper, dropout of public code ----------------------------------------------------------
def _single_scale(in_dim: int, closed: bool, pad: Literal["none", "first"]) -> tuple[SetAbstraction, SetAbstraction]:
    return (
        SetAbstraction(
            in_dim, num_samples=512, radii=(0.2,), ks=(32,), widths=((64, 64, 128),), closed=closed, pad=pad
        ),
        SetAbstraction(128, num_samples=128, radii=(0.4,), ks=(64,), widths=((128, 128, 256),), closed=closed, pad=pad),
    )


def _small(in_dim: int) -> tuple[SetAbstraction, SetAbstraction]:
    """Half the centres, neighbours and channels of single-scale grouping."""
    return (
        SetAbstraction(in_dim, num_samples=256, radii=(0.2,), ks=(16,), widths=((32, 32, 64),), pad="first"),
        SetAbstraction(64, num_samples=64, radii=(0.4,), ks=(32,), widths=((64, 64, 128),), pad="first"),
    )


def pointnet2_small(num_classes: int = 40, in_channels: int = 3) -> PointNet2:
    """Half the centres, neighbours and channels of `pointnet2_ssg`, for training on a CPU."""
    return PointNet2(
        levels=_small(in_channels - 3), whole=GroupAll(128, (128, 256, 512)), num_features=512, dropout=(0.4, 0.4),
        in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def pointnet2_ssg(
    num_classes: int = 40, in_channels: int = 3, *, closed: bool = False, pad: Literal["none", "first"] = "first"
) -> PointNet2:
    """Single-scale grouping, 1 475 688 parameters for 40 classes. Clouds should fill the unit sphere.

    Balls are padded as published; it matters in training only, where `pad="none"` leaves the padding out of BatchNorm's
    statistics, but makes tensors of ever other sizes, which fragment the memory of a CPU: several times as much of it.
    Public weights of yanx27 were trained with `closed` balls.
    """
    return PointNet2(
        levels=_single_scale(in_channels - 3, closed, pad), whole=GroupAll(256, (256, 512, 1024)), num_features=1024,
        dropout=(0.4, 0.4), in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def pointnet2_msg(
    num_classes: int = 40, in_channels: int = 3, *, closed: bool = False, pad: Literal["none", "first"] = "first"
) -> PointNet2:
    """Multi-scale grouping, 1 747 368 parameters for 40 classes. Otherwise as `pointnet2_ssg`."""
    levels = (
        SetAbstraction(
            in_channels - 3, num_samples=512, radii=(0.1, 0.2, 0.4), ks=(16, 32, 128),
            widths=((32, 32, 64), (64, 64, 128), (64, 96, 128)), closed=closed, pad=pad,
        ),
        SetAbstraction(
            320, num_samples=128, radii=(0.2, 0.4, 0.8), ks=(32, 64, 128),
            widths=((64, 64, 128), (128, 128, 256), (128, 128, 256)), closed=closed, pad=pad,
        ),
    )  # fmt: skip
    return PointNet2(
        levels=levels, whole=GroupAll(640, (256, 512, 1024)), num_features=1024, dropout=(0.4, 0.5),
        in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def pointnet2_ssg_seg(
    num_classes: int = 50,
    in_channels: int = 3,
    *,
    num_categories: int = 0,
    closed: bool = False,
    pad: Literal["none", "first"] = "first",
) -> PointNet2Segmenter:
    """Segmentation with single-scale grouping, 1 410 866 parameters for ShapeNet's 50 parts and 16 categories.

    The public port has 384 more, for it gives coordinates twice to the last layers; its weights load all the same, with
    `num_categories=16, closed=True`.
    """
    up = (
        FeaturePropagation(1024, 256, (256, 256)),
        FeaturePropagation(256, 128, (256, 128)),
        FeaturePropagation(128, num_categories + in_channels, (128, 128, 128)),
    )
    return PointNet2Segmenter(
        levels=_single_scale(in_channels, closed, pad), whole=GroupAll(256, (256, 512, 1024)), up=up,
        num_features=128, in_channels=in_channels, num_classes=num_classes, num_categories=num_categories,
    )  # fmt: skip


def pointnet2_msg_seg(
    num_classes: int = 50,
    in_channels: int = 3,
    *,
    num_categories: int = 0,
    closed: bool = False,
    pad: Literal["none", "first"] = "first",
) -> PointNet2Segmenter:
    """Segmentation with multi-scale grouping, 1 740 574 parameters; otherwise as `pointnet2_ssg_seg`."""
    levels = (
        SetAbstraction(
            in_channels, num_samples=512, radii=(0.1, 0.2, 0.4), ks=(32, 64, 128),
            widths=((32, 32, 64), (64, 64, 128), (64, 96, 128)), closed=closed, pad=pad,
        ),
        SetAbstraction(
            320, num_samples=128, radii=(0.4, 0.8), ks=(64, 128), widths=((128, 128, 256), (128, 196, 256)),
            closed=closed, pad=pad,
        ),
    )  # fmt: skip
    up = (
        FeaturePropagation(1024, 512, (256, 256)),
        FeaturePropagation(256, 320, (256, 128)),
        FeaturePropagation(128, num_categories + in_channels, (128, 128)),
    )
    return PointNet2Segmenter(
        levels=levels, whole=GroupAll(512, (256, 512, 1024)), up=up, num_features=128, in_channels=in_channels,
        num_classes=num_classes, num_categories=num_categories,
    )  # fmt: skip


def pointnet2_small_seg(num_classes: int = 50, in_channels: int = 3, *, num_categories: int = 0) -> PointNet2Segmenter:
    """Half the centres, neighbours and channels of `pointnet2_ssg_seg`, for training on a CPU."""
    up = (
        FeaturePropagation(512, 128, (128, 128)),
        FeaturePropagation(128, 64, (128, 64)),
        FeaturePropagation(64, num_categories + in_channels, (64, 64)),
    )
    return PointNet2Segmenter(
        levels=_small(in_channels), whole=GroupAll(128, (128, 256, 512)), up=up, num_features=64,
        in_channels=in_channels, num_classes=num_classes, num_categories=num_categories,
    )  # fmt: skip


# ---- public checkpoints: yanx27/Pointnet_Pointnet2_pytorch (MIT) -----------------------------------------------------
def convert_yanx27(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of that repository, renamed; 1x1 convolutions become linear layers.

    They want 1024 points, centred and divided by the largest norm, and `closed` balls; sampling there starts at random.
    """
    renamed = {}
    ending = _YANX27_PARTS if "conv2.weight" in weights else _YANX27_CLASSES
    for name, value in weights.items():
        if value.dim() > 2:
            value = value.flatten(1)
        if re.fullmatch(r"sa\d\.conv_blocks\.\d\.0\.weight", name):  # there coordinates come after features
            value = torch.cat([value[:, -3:], value[:, :-3]], 1)
        if name == "fp1.mlp_convs.0.weight":  # 16 categories, coordinates, coordinates again, other features
            value = torch.cat([value[:, :16], value[:, 16:19] + value[:, 19:22], value[:, 22:]], 1)
        for pattern, replacement in (*ending, *_YANX27):
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


_YANX27 = (
    (r"^sa3\.", "whole."),
    (r"^sa(\d)\.mlp", lambda found: f"levels.{int(found[1]) - 1}.scales.0.mlp"),
    (
        r"^sa(\d)\.(conv|bn)_blocks\.(\d)\.",
        lambda found: f"levels.{int(found[1]) - 1}.scales.{found[3]}.mlp_{found[2]}s.",
    ),
    (r"\.mlp_convs\.(\d)\.", lambda found: f".layers.{3 * int(found[1])}."),
    (r"\.mlp_bns\.(\d)\.", lambda found: f".layers.{3 * int(found[1]) + 1}."),
)
_YANX27_CLASSES = (
    (r"^fc1\.", "head.hidden.0."),
    (r"^bn1\.", "head.hidden.1."),
    (r"^fc2\.", "head.hidden.4."),
    (r"^bn2\.", "head.hidden.5."),
    (r"^fc3\.", "head.classifier."),
)
_YANX27_PARTS = (
    (r"^fp(\d)\.", lambda found: f"up.{3 - int(found[1])}."),
    (r"^conv1\.", "head.hidden.0."),
    (r"^bn1\.", "head.hidden.1."),
    (r"^conv2\.", "head.classifier."),
)

PUBLIC_WEIGHTS = {"sa1.mlp_convs.0.weight": convert_yanx27, "sa1.conv_blocks.0.0.weight": convert_yanx27}
