"""Detectors of OpenPCDet (github.com/open-mmlab/OpenPCDet): names and shapes of their weights as its code makes them,
and what they compute, in plain dense tensors from those names alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pctransformer.points import PointBatch

Blocks = list[tuple[int, int, int, int]]
"""Channels in and out, convolutions behind the first, stride."""


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.weight": (channels,),
        f"{name}.bias": (channels,),
        f"{name}.running_mean": (channels,),
        f"{name}.running_var": (channels,),
        f"{name}.num_batches_tracked": (),
    }


HEAD_OF_384 = {
    "dense_head.conv_cls.weight": (18, 384, 1, 1),
    "dense_head.conv_cls.bias": (18,),
    "dense_head.conv_box.weight": (42, 384, 1, 1),
    "dense_head.conv_box.bias": (42,),
    "dense_head.conv_dir_cls.weight": (12, 384, 1, 1),
    "dense_head.conv_dir_cls.bias": (12,),
}
HEAD_OF_512 = {name: (shape[0], 512, 1, 1) if len(shape) == 4 else shape for name, shape in HEAD_OF_384.items()}

POINTPILLAR_BLOCKS: Blocks = [(64, 64, 3, 2), (64, 128, 5, 2), (128, 256, 5, 2)]
SECOND_BLOCKS: Blocks = [(256, 128, 5, 1), (128, 256, 5, 2)]
POINTPILLAR_UPS = [(64, 128, 1), (128, 128, 2), (256, 128, 4)]
SECOND_UPS = [(128, 256, 1), (256, 256, 2)]


def bev_shapes(blocks: Blocks, ups: list[tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    """BaseBEVBackbone: layer 0 of a block pads, then come convolution, norm, ReLU, again and again."""
    shapes: dict[str, tuple[int, ...]] = {}
    for b, (before, after, count, _) in enumerate(blocks):
        for i in range(count + 1):
            shapes[f"backbone_2d.blocks.{b}.{1 + 3 * i}.weight"] = (after, before if i == 0 else after, 3, 3)
            shapes |= norm(f"backbone_2d.blocks.{b}.{2 + 3 * i}", after)
    for b, (before, after, up) in enumerate(ups):
        shapes[f"backbone_2d.deblocks.{b}.0.weight"] = (before, after, up, up)
        shapes |= norm(f"backbone_2d.deblocks.{b}.1", after)
    return shapes


POINTPILLAR = {
    "global_step": (1,),
    "vfe.pfn_layers.0.linear.weight": (64, 10),
    **norm("vfe.pfn_layers.0.norm", 64),
    **bev_shapes(POINTPILLAR_BLOCKS, POINTPILLAR_UPS),
    **HEAD_OF_384,
}

# name, channels in and out, kernel, stride (None: submanifold), padding along z
SPARSE: list[tuple[str, int, int, tuple[int, int, int], tuple[int, int, int] | None, int]] = [
    ("conv_input", 4, 16, (3, 3, 3), None, 1),
    ("conv1.0", 16, 16, (3, 3, 3), None, 1),
    ("conv2.0", 16, 32, (3, 3, 3), (2, 2, 2), 1),
    ("conv2.1", 32, 32, (3, 3, 3), None, 1),
    ("conv2.2", 32, 32, (3, 3, 3), None, 1),
    ("conv3.0", 32, 64, (3, 3, 3), (2, 2, 2), 1),
    ("conv3.1", 64, 64, (3, 3, 3), None, 1),
    ("conv3.2", 64, 64, (3, 3, 3), None, 1),
    ("conv4.0", 64, 64, (3, 3, 3), (2, 2, 2), 0),
    ("conv4.1", 64, 64, (3, 3, 3), None, 1),
    ("conv4.2", 64, 64, (3, 3, 3), None, 1),
    ("conv_out", 64, 128, (3, 1, 1), (2, 1, 1), 0),
]


def second_shapes(spconv: int) -> dict[str, tuple[int, ...]]:
    """SECONDNet, its sparse weights as spconv of version 1 or 2 has them."""
    shapes: dict[str, tuple[int, ...]] = {"global_step": (1,)}
    for name, before, after, kernel, *_ in SPARSE:
        layout = (*kernel, before, after) if spconv == 1 else (after, *kernel, before)
        shapes |= {f"backbone_3d.{name}.0.weight": layout, **norm(f"backbone_3d.{name}.1", after)}
    return {**shapes, **bev_shapes(SECOND_BLOCKS, SECOND_UPS), **HEAD_OF_512}


def weights_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights as a training might leave them, the same each time."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name == "global_step" or name.endswith("num_batches_tracked"):
            weights[name] = torch.full(shape, 9280)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            weights[name] = torch.randn(shape, generator=generator) * (0.1 if len(shape) > 1 else 0.2)
    return weights


def file_content(weights: dict[str, Tensor]) -> dict[str, object]:
    """As OpenPCDet saves them."""
    return {"epoch": 80, "it": 37120, "model_state": weights, "optimizer_state": None, "version": "pcdet+0.3.0+0642cf0"}


# ---- what they compute -----------------------------------------------------------------------------------------------
def normed(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    keys = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(weights[f"{name}.{key}"] for key in keys), eps=1e-3).relu()


def pillar_map(
    points: PointBatch, weights: dict[str, Tensor], low: Tensor, size: Tensor, shape: tuple[int, int]
) -> Tensor:
    """(B, 64, ny, nx): PillarVFE on pillars of 32 rows, zeros behind the points, and PointPillarScatter."""
    ny, nx = shape
    bev = torch.zeros(len(points), 64, ny, nx)
    for b, (cell, rows) in cells_of(points, low, size, (1, ny, nx)):
        rows = rows[:32]
        middle = low + (torch.tensor(cell).flip(0) + 0.5) * size
        channels = torch.cat([rows, rows[:, :3] - rows[:, :3].mean(0), rows[:, :3] - middle], 1)
        padded = functional.pad(channels, (0, 0, 0, 32 - len(rows)))
        hidden = normed(padded @ weights["vfe.pfn_layers.0.linear.weight"].T, weights, "vfe.pfn_layers.0.norm")
        bev[b, :, cell[1], cell[2]] = hidden.amax(0)
    return bev


def voxel_map(
    points: PointBatch, weights: dict[str, Tensor], low: Tensor, size: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """(B, 256, ny / 8, nx / 8): MeanVFE of five points, VoxelBackBone8x by dense convolutions, HeightCompression.

    Weights are those of spconv 2."""
    nz, ny, nx = shape
    x = torch.zeros(len(points), 4, nz + 1, ny, nx)
    occupied = torch.zeros(len(points), 1, nz + 1, ny, nx)
    for b, (cell, rows) in cells_of(points, low, size, shape):
        z, y, column = cell
        x[b, :, z, y, column] = rows[:5].mean(0)
        occupied[b, :, z, y, column] = 1
    for name, _, _, kernel, stride, z_padding in SPARSE:
        padding = (z_padding, kernel[1] // 2, kernel[2] // 2)
        dense = weights[f"backbone_3d.{name}.0.weight"].permute(0, 4, 1, 2, 3)
        x = functional.conv3d(x, dense, stride=stride or 1, padding=padding)
        if stride is not None:
            occupied = functional.conv3d(occupied, torch.ones(1, 1, *kernel), stride=stride, padding=padding).clamp(
                max=1
            )
        x = normed(x, weights, f"backbone_3d.{name}.1") * occupied
    return x.flatten(1, 2)


def head_maps(x: Tensor, weights: dict[str, Tensor], blocks: Blocks, ups: list[tuple[int, int, int]]) -> list[Tensor]:
    """Classes (B, A, 3), boxes (B, A, 7), directions (B, A, 2): BaseBEVBackbone and AnchorHeadSingle."""
    maps = []
    for b, (_, _, count, stride) in enumerate(blocks):
        x = functional.pad(x, (1, 1, 1, 1))
        for i in range(count + 1):
            conv = weights[f"backbone_2d.blocks.{b}.{1 + 3 * i}.weight"]
            x = functional.conv2d(x, conv, stride=stride if i == 0 else 1, padding=0 if i == 0 else 1)
            x = normed(x, weights, f"backbone_2d.blocks.{b}.{2 + 3 * i}")
        larger = functional.conv_transpose2d(x, weights[f"backbone_2d.deblocks.{b}.0.weight"], stride=ups[b][2])
        maps.append(normed(larger, weights, f"backbone_2d.deblocks.{b}.1"))
    bev, outputs = torch.cat(maps, 1), []
    for name, channels in (("conv_cls", 3), ("conv_box", 7), ("conv_dir_cls", 2)):
        y = functional.conv2d(bev, weights[f"dense_head.{name}.weight"], weights[f"dense_head.{name}.bias"])
        outputs.append(y.permute(0, 2, 3, 1).reshape(len(y), -1, channels))
    return outputs


def cells_of(points: PointBatch, low: Tensor, size: Tensor, shape: tuple[int, int, int]):
    """Of each cloud and each of its occupied cells (z, y, x) the points, in their order."""
    rows = torch.cat([points.xyz, points.features], 1).split(points.lengths.tolist())
    for b, cloud in enumerate(rows):
        found: dict[tuple[int, ...], list[Tensor]] = {}
        for row in cloud:
            cell = tuple(((row[:3] - low) / size).floor().int().flip(0).tolist())
            if all(0 <= place < count for place, count in zip(cell, shape)):
                found.setdefault(cell, []).append(row)
        for cell, members in found.items():
            yield b, (cell, torch.stack(members))
