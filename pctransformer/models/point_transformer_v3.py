"""Point Transformer V3. Wu, Jiang, Wang, Liu, Liu, Qiao, Ouyang, He, Zhao, 2024, arXiv:2312.10035.

No search for neighbours: points are sorted along space-filling curves through a grid, the sequence is cut into patches
of a thousand points, and each patch is plain attention. Curves take turns from block to block, so that a border between
patches in one is none in the next. Cells twice as large join points from level to level, and give them back on the way
up.

How attention knows where points are is a choice. The paper puts a sparse convolution in front of each block, and one
as stem: position="convolution". Its authors' later versions (Sonata, 2025; Utonia, 2026) have a linear stem, the last
of them rotary codes: position="rotary". Or nothing tells: position="none".

What differs here: the curves of a cloud and its patches do not depend on the other clouds of a batch, nor on the
kernel: Hilbert codes always have 16 bits per axis, where public code takes as many as the largest cloud of a batch
needs. So public weights, which are for position="convolution", load, but half of their patches are others than in
training. Points that share a cell stay apart, and share what convolutions say.

(B, N, 3 + C) -> stem -> blocks -> 4 x (grid pooling -> blocks) -> mean over tokens -> perceptron -> logits
For segmentation -> 4 x (unpooling -> blocks) -> linear -> logits of every point
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.heads.segmentation import SegmentationHead
from pctransformer.layers.position import RotaryPosition
from pctransformer.models.classifier import Classifier
from pctransformer.models.segmenter import Segmenter, of_each_point
from pctransformer.point_view.cell_convolution import CellConvolution, ConvolutionalPosition
from pctransformer.point_view.curve_order import Curve
from pctransformer.point_view.serialization import Coarsening, SerializedPoints, serialize
from pctransformer.point_view.serialized_attention import (
    GridPooling,
    GridUnpooling,
    SerializedBlock,
    SerializedBlocks,
    norm_and_activation,
)
from pctransformer.points import PointBatch

CURVES: tuple[Curve, ...] = ("morton", "morton_transposed", "hilbert", "hilbert_transposed")
Position = Literal["rotary", "convolution", "none"]

_HEAD_DIM = 16  # of all levels and sizes in the paper


class SerializedEncoder(nn.Module):
    """From points to the levels of the grid, finest first.

    Args:
        stem: from all channels of a point to those of the first level; or what comes after a convolution.
        down: to each further level.
        blocks: of each level.
        cell_size: of the first level, metres.
        curves: along which points are sorted.
        convolution: in front of the stem, or None.
    """

    def __init__(
        self,
        stem: nn.Module,
        down: Sequence[GridPooling],
        blocks: Sequence[SerializedBlocks],
        *,
        cell_size: float,
        curves: Sequence[Curve],
        convolution: CellConvolution | None = None,
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.cell_size, self.curves = cell_size, tuple(curves)
        self.stem, self.down, self.blocks = stem, nn.ModuleList(down), nn.ModuleList(blocks)

    def forward(self, batch: PointBatch) -> tuple[list[SerializedPoints], list[Coarsening]]:
        """All levels, and how each came from the one before."""
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        level = serialize(batch, self.cell_size, self.curves)
        if self.convolution is not None:
            level = level.with_occupied()
            assert level.occupied is not None
            channels = self.convolution(channels, level.occupied)
        level = level.replace(self.stem(channels))
        levels, joined = [self.blocks[0](level)], []
        for down, blocks in zip(self.down, self.blocks[1:], strict=True):
            level, children = down(levels[-1])
            levels.append(blocks(level))
            joined.append(children)
        return levels, joined


class PointTransformerV3(Classifier):
    """The classifier: encoder, mean over the tokens of the coarsest level, perceptron."""

    def __init__(self, *, encoder: SerializedEncoder, num_features: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.encoder = in_channels, num_features, encoder
        hidden = nn.Sequential(
            nn.Linear(num_features, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.5),
        )  # fmt: skip
        self.head = ClassificationHead(hidden, 128, num_classes, reduce="mean")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        levels, _ = self.encoder(PointBatch.of(points, self.in_channels))
        return levels[-1].points


class PointTransformerV3Segmenter(Segmenter):
    """The U-net for points (figure 5).

    Args:
        encoder: gives the levels.
        up: back from each level to the one before, coarsest first.
        blocks: after each of these.
        coarsest_dim: channels of the coarsest level, where the object's category joins.
        num_features: channels of the points in the end.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        num_categories: see `Segmenter`.
    """

    def __init__(
        self,
        *,
        encoder: SerializedEncoder,
        up: Sequence[GridUnpooling],
        blocks: Sequence[SerializedBlocks],
        coarsest_dim: int,
        num_features: int,
        in_channels: int,
        num_classes: int,
        num_categories: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.num_categories = in_channels, num_features, num_categories
        self.encoder, self.up, self.blocks = encoder, nn.ModuleList(up), nn.ModuleList(blocks)
        self.category = nn.Linear(num_categories, coarsest_dim, bias=False) if num_categories else None
        self.category_columns = ("category.weight",) if num_categories else ()
        self.head = SegmentationHead(nn.Identity(), num_features, num_classes)

    def forward_features(
        self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None
    ) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        code = self.category_code(batch, category)
        (*finer, level), joined = self.encoder(batch)
        if self.category is not None:
            level = level.replace(level.points.features + of_each_point(self.category(code), level.points))
        for up, blocks in zip(self.up, self.blocks, strict=True):
            level, own = up(level, finer.pop(), joined.pop())
            level = blocks(level, own)  # in public code the first convolution does not see what came from below
        return level.points


# ---- sizes: section 5 and the authors' code --------------------------------------------------------------------------
def point_transformer_v3(
    num_classes: int = 40,
    in_channels: int = 6,
    *,
    cell_size: float = 0.01,
    position: Position = "rotary",
    patch_size: int = 1024,
    dims: Sequence[int] = (32, 64, 128, 256, 512),
    depths: Sequence[int] = (2, 2, 2, 6, 2),
    drop_path: float = 0.3,
) -> PointTransformerV3:
    """The encoder of the published configuration; its 38 672 640 parameters if position is "convolution".

    Args:
        num_classes: logits.
        in_channels: channels of the input, 3 + C.
        cell_size: of the finest grid: 0.01 for objects in the unit sphere with some ten thousand points. With fewer
            points give about their distance, or the first levels join nothing.
        position: how attention knows where points are: "convolution" as in the paper, "rotary", or "none".
        patch_size: points that see each other.
        dims: channels of each level, multiples of 16.
        depths: blocks of each level.
        drop_path: share of clouds that the last block leaves as they are in training; less in those before.
    """
    encoder = _encoder(in_channels, cell_size, position, patch_size, dims, depths, drop_path)
    return PointTransformerV3(encoder=encoder, num_features=dims[-1], in_channels=in_channels, num_classes=num_classes)


def point_transformer_v3_seg(
    num_classes: int = 50,
    in_channels: int = 6,
    *,
    num_categories: int = 0,
    cell_size: float = 0.01,
    position: Position = "rotary",
    patch_size: int = 1024,
    dims: Sequence[int] = (32, 64, 128, 256, 512),
    depths: Sequence[int] = (2, 2, 2, 6, 2),
    up_dims: Sequence[int] = (64, 64, 128, 256),
    up_depths: Sequence[int] = (2, 2, 2, 2),
    drop_path: float = 0.3,
) -> PointTransformerV3Segmenter:
    """The published U-net; its 46 166 272 parameters below the head if position is "convolution".

    0.02 m is the authors' cell for rooms, 0.05 m for streets. See `point_transformer_v3`.

    Args:
        up_dims: channels of each level on the way up, finest first.
        up_depths: blocks of each level on the way up, finest first.
    """
    encoder = _encoder(in_channels, cell_size, position, patch_size, dims, depths, drop_path)
    widths = (*up_dims, dims[-1])
    up = [GridUnpooling(coarse, fine, out) for fine, (out, coarse) in zip(dims, pairwise(widths))]
    shares = [of_blocks[::-1] for of_blocks in _shares(up_depths, drop_path)]
    blocks = _blocks(up_dims, shares, cell_size, position, patch_size)
    return PointTransformerV3Segmenter(
        encoder=encoder, up=up[::-1], blocks=blocks[::-1], coarsest_dim=dims[-1], num_features=up_dims[0],
        in_channels=in_channels, num_classes=num_classes, num_categories=num_categories,
    )  # fmt: skip


def point_transformer_v3_small_seg(
    num_classes: int = 50,
    in_channels: int = 6,
    *,
    num_categories: int = 0,
    cell_size: float = 0.05,
    position: Position = "rotary",
    patch_size: int = 128,
    dims: Sequence[int] = (32, 64, 128),
    depths: Sequence[int] = (1, 1, 2),
    up_dims: Sequence[int] = (32, 64),
    up_depths: Sequence[int] = (1, 1),
    drop_path: float = 0.1,
) -> PointTransformerV3Segmenter:
    """Three levels, 4 % of the published weights, for training on a CPU: rooms in cells of 0.05 m, or shapes in the
    unit sphere with a thousand points; of these, 0.03 apart, the second level keeps a third and the third a tenth. See
    `point_transformer_v3_seg`.

    Its norms follow the batches of the last ten steps or so: the hundred of the published ones would leave short
    trainings with the statistics of random weights.
    """
    model = point_transformer_v3_seg(
        num_classes, in_channels, num_categories=num_categories, cell_size=cell_size, position=position,
        patch_size=patch_size, dims=dims, depths=depths, up_dims=up_dims, up_depths=up_depths, drop_path=drop_path,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.1
    return model


def _encoder(
    in_channels: int,
    cell_size: float,
    position: Position,
    patch_size: int,
    dims: Sequence[int],
    depths: Sequence[int],
    drop_path: float,
) -> SerializedEncoder:
    convolution, stem = None, norm_and_activation(dims[0])
    if position == "convolution":
        convolution = CellConvolution(in_channels, dims[0], 5, bias=False)
    else:
        stem = nn.Sequential(nn.Linear(in_channels, dims[0], bias=False), *stem)
    down = [GridPooling(a, b) for a, b in pairwise(dims)]
    blocks = _blocks(dims, _shares(depths, drop_path), cell_size, position, patch_size)
    return SerializedEncoder(stem, down, blocks, cell_size=cell_size, curves=CURVES, convolution=convolution)


def _shares(depths: Sequence[int], drop_path: float) -> list[list[float]]:
    """For the blocks of each level the share of dropped paths, which grows from the first block to the last."""
    shares = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
    return [shares[end - depth : end] for depth, end in zip(depths, accumulate(depths))]


def _blocks(
    dims: Sequence[int], shares: Sequence[Sequence[float]], cell_size: float, position: Position, patch_size: int
) -> list[SerializedBlocks]:
    """Blocks of each level, finest first."""
    if position not in ("rotary", "convolution", "none"):
        raise ValueError(f'position must be "rotary", "convolution" or "none", got {position!r}')
    if any(dim % _HEAD_DIM for dim in dims):
        raise ValueError(f"channels must be multiples of {_HEAD_DIM}, those of a head, got {tuple(dims)}")
    levels = []
    for level, (dim, of_blocks) in enumerate(zip(dims, shares, strict=True)):
        unit = cell_size * 2**level
        blocks = [
            SerializedBlock(
                dim,
                dim // _HEAD_DIM,
                rotary=RotaryPosition(_HEAD_DIM, unit=unit) if position == "rotary" else None,
                position=ConvolutionalPosition(dim) if position == "convolution" else None,
                drop_path=share,
            )
            for share in of_blocks
        ]
        levels.append(SerializedBlocks(blocks, patch_size))
    return levels


# ---- public checkpoints: Pointcept/PointTransformerV3 and Pointcept (MIT) --------------------------------------------
def convert_pointcept(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of either repository's networks, renamed, for position="convolution".

    Their convolutions run over x, y, z, ours over z, y, x. They have to be trained on coordinates and then features,
    as those for nuScenes, Waymo and ModelNet are; those for rooms take colours and normals without coordinates.
    """
    levels_up = [int(number) for number in re.findall(r"\bdec\.dec(\d)\.", " ".join(weights))]
    coarsest = max(levels_up, default=0)
    renamed = {}
    for name, value in weights.items():
        name = re.sub(
            r"^(backbone\.)?dec\.dec(\d)\.", lambda found: f"dec.{coarsest - int(found[2])}.", name
        )  # coarsest first
        for pattern, replacement in _POINTCEPT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.permute(0, 3, 2, 1, 4).contiguous() if value.dim() == 5 else value
    return renamed


_POINTCEPT = (
    (r"^backbone\.", ""),
    (r"^embedding\.stem\.conv\.", "encoder.convolution.conv."),
    (r"^embedding\.stem\.norm\.", "encoder.stem.0."),
    (r"^enc\.enc(\d)\.down\.proj\.", lambda found: f"encoder.down.{int(found[1]) - 1}.proj."),
    (r"^enc\.enc(\d)\.down\.norm\.0\.", lambda found: f"encoder.down.{int(found[1]) - 1}.norm.0."),
    (r"^enc\.enc(\d)\.block(\d+)\.", r"encoder.blocks.\1.blocks.\2."),
    (r"^dec\.(\d)\.up\.proj\.", r"up.\1.coarse."),
    (r"^dec\.(\d)\.up\.proj_skip\.", r"up.\1.fine."),
    (r"^dec\.(\d)\.block(\d+)\.", r"blocks.\1.blocks.\2."),
    (r"\.cpe\.0\.", ".position.convolution.conv."),
    (r"\.cpe\.1\.", ".position.proj."),
    (r"\.cpe\.2\.", ".position.norm."),
    (r"\.norm1\.0\.", ".attention_residual.norm."),
    (r"\.norm2\.0\.", ".mlp_residual.norm."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.0\.", ".mlp."),
    (r"^seg_head\.", "head.classifier."),
    (r"^cls_head\.8\.", "head.classifier."),
    (r"^cls_head\.", "head.hidden."),
)

PUBLIC_WEIGHTS = {
    "backbone.embedding.stem.conv.weight": convert_pointcept,
    "embedding.stem.conv.weight": convert_pointcept,
}
