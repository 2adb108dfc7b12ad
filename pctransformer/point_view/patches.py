"""Patches: a cloud as a few dozen overlapping neighbourhoods, each of which becomes one token."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer
from pctransformer.ops import group
from pctransformer.point_view.sampling import Order, max_over_neighbors, neighbors, sample
from pctransformer.points import PointBatch


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """The patches of a batch of clouds, equally many from each: G patches of k points.

    Attributes:
        centers: B * G points without features, a dense batch; what is computed for patches has its rows.
        points: (B * G, k, 3 + C) points of each patch, nearest first: coordinates less the centre's, then features.
        index: (B * G, k) int64 rows of these points in the batch that was cut; -1 where its cloud is empty.
    """

    centers: PointBatch
    points: Tensor
    index: Tensor

    @property
    def xyz(self) -> Tensor:
        """(B * G, k, 3) points of each patch where they stood in their cloud, metres."""
        return self.points[..., :3] + self.centers.xyz[:, None]


def make_patches(
    batch: PointBatch,
    num_patches: int,
    patch_size: int,
    *,
    order: Order = "sampled",
    skip_near_origin: bool = False,
) -> Patches:
    """Cut each cloud into patches: centres by farthest point sampling, and the nearest points of each.

    Patches overlap, and together cover the cloud as far as `num_patches * patch_size` exceeds its points. A cloud with
    fewer points than patches gives the same patches again, and one with fewer points than a patch repeats the point
    nearest to the centre: every cloud has equally many tokens, and what repeats counts in means and in the statistics
    of BatchNorm. An empty cloud gives patches of zeros at the origin.

    Args:
        batch: clouds; features go along.
        num_patches: G, patches of each cloud.
        patch_size: k, points of each patch, 1 to 256.
        order: of patches, see `sample`.
        skip_near_origin: see `pctransformer.ops.farthest_point_sample`; public Point-BERT and Point-MAE weights want
            it.

    Source: Yu et al., Point-BERT, 2022, section 3.1; Pang et al., Masked Autoencoders for Point Cloud Self-supervised
    Learning, 2022, section 3.1; order after Chen et al., PointGPT, 2023.
    """
    centers, _ = sample(batch, num_patches, skip_near_origin=skip_near_origin, order=order)
    index = neighbors(batch, centers, patch_size)  # (B * G, k)
    index = torch.where(index < 0, index[:, :1], index)
    return Patches(centers, group(batch.xyz, centers.xyz, index, batch.features), index)


class PatchEmbedding(RecordedLayer):
    """A small PointNet from the points of each patch to its token.

    Two layers per point, the maximum over the patch beside each point, two more layers, the maximum again. Names and
    order of layers are those of public Point-BERT and Point-MAE weights, so that `first_conv.0` there is `first.0` here
    (with a kernel axis of length one that linear layers lack).

    Args:
        dim: channels of a token.
        in_channels: channels of the points, 3 + C.
        widths: channels of the first two layers; the third has twice the second.

    Source: Yu et al., Point-BERT, 2022; Pang et al., 2022: widths (128, 256), dim 384; PointNet after Qi et al., 2017.
    """

    def __init__(self, dim: int, *, in_channels: int = 3, widths: tuple[int, int] = (128, 256)) -> None:
        super().__init__()
        narrow, wide = widths
        self.first = nn.Sequential(
            nn.Linear(in_channels, narrow), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, wide)
        )
        self.second = nn.Sequential(
            nn.Linear(2 * wide, 2 * wide), nn.BatchNorm1d(2 * wide), nn.ReLU(), nn.Linear(2 * wide, dim)
        )

    def forward(self, patches: Patches) -> PointBatch:
        """Tokens: the centres of the patches, with `dim` channels each."""
        count, size, _ = patches.points.shape
        local = self.first(patches.points.flatten(0, 1)).view(count, size, -1)  # (B * G, k, wide)
        whole = max_over_neighbors(local)  # (B * G, wide)
        # The next layer sees (whole, local). It is linear, so the part of the whole patch is computed once and not k
        # times.
        linear, rest = self.second[0], self.second[1:]
        assert isinstance(linear, nn.Linear)
        of_whole, of_local = linear.weight.chunk(2, 1)
        hidden = local @ of_local.T + nn.functional.linear(whole, of_whole, linear.bias)[:, None]
        points = rest(hidden.flatten(0, 1)).view(count, size, -1)
        if self.is_recorded:
            self.record_maximum(points, patches.index)
        return patches.centers.replace(features=max_over_neighbors(points))  # (B * G, dim)


class PatchTokenizer(nn.Module):
    """Clouds to tokens for a transformer: patches, a token for each, and a code of where its centre is.

    Args:
        embedding: from patches to tokens.
        position: from coordinates (..., 3) to codes with as many channels, as in `layers.position`.
        num_patches, patch_size, order, skip_near_origin: see `make_patches`.
    """

    def __init__(
        self,
        embedding: PatchEmbedding,
        position: nn.Module,
        *,
        num_patches: int,
        patch_size: int,
        order: Order = "sampled",
        skip_near_origin: bool = False,
    ) -> None:
        super().__init__()
        self.embedding, self.position = embedding, position
        self.num_patches, self.patch_size, self.order = num_patches, patch_size, order
        self.skip_near_origin = skip_near_origin

    def forward(self, batch: PointBatch) -> tuple[Patches, Tensor, Tensor]:
        """Patches of B clouds, their tokens (B, G, C), and codes of their centres (B, G, C)."""
        patches = make_patches(
            batch, self.num_patches, self.patch_size, order=self.order, skip_near_origin=self.skip_near_origin
        )
        shape = (len(batch), self.num_patches, -1)
        tokens = self.embedding(patches).features.view(shape)
        return patches, tokens, self.position(patches.centers.xyz.view(shape))


def beside_class_token(centers: PointBatch, x: Tensor) -> PointBatch:
    """Tokens (B, 1 + G, C) of which the first stands for the whole cloud, as a batch: it is put in the middle.

    Args:
        centers: B * G centres of patches, a dense batch.
        x: the class token of each cloud, then the tokens of its patches.
    """
    xyz = centers.xyz.view(len(centers), -1, 3)
    xyz = torch.cat([xyz.mean(1, keepdim=True), xyz], 1)
    count = xyz.shape[1]
    offsets = torch.arange(len(centers) + 1, device=xyz.device) * count
    return PointBatch(xyz.flatten(0, 1), offsets, x.flatten(0, 1), count, centers.origin)
