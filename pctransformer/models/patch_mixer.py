"""Patch mixer: patches of a cloud as tokens, in one backbone with any token mixer where a transformer has attention.

The model to ask with whether attention is necessary. A cloud is cut into overlapping patches, a small PointNet makes
each a token, and the tokens line up along a Hilbert curve, so that mixers whose weights belong to places in the
sequence, or that carry a state along it, find near what is near in space. Coordinates of the centres enter by a
position code, whatever the mixer: unlike an image's, they cannot be told from the place in the sequence.

With self-attention this is the plain transformer of Point-BERT (Yu et al., 2022, arXiv:2111.14819) and Point-MAE (Pang
et al., 2022, arXiv:2203.06604): the same tokens, position code and blocks. What differs here: the order of patches,
positions are added once and not in front of every block, and the mean over tokens, their maximum, or both as in PCT,
take the place of a class token. For the mixers see `pctransformer.layers.mixers`.

(B, N, 3 + C) -> patches in Hilbert order -> tokens + position code -> blocks -> norm -> pool -> perceptron -> logits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.mixers import create_block, create_mixer
from pctransformer.layers.mixers.blocks import Block, transformer_block
from pctransformer.layers.position import MLPPosition
from pctransformer.models.classifier import Classifier
from pctransformer.point_view.patches import PatchEmbedding, make_patches
from pctransformer.points import PointBatch

Pool = Literal["mean", "max", "max_mean"]


class PatchMixer(Classifier):
    """Patches as tokens, then blocks.

    Args:
        num_patches: tokens of a cloud, whatever its size.
        patch_size: points of a patch.
        embedding: from patches to tokens with `dim` channels.
        blocks: called as mixers are, with tokens (B, num_patches, dim).
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        pool: how tokens become one vector.
        dropout: in the head.
    """

    def __init__(
        self,
        *,
        num_patches: int,
        patch_size: int,
        embedding: PatchEmbedding,
        blocks: Sequence[Block],
        dim: int,
        in_channels: int,
        num_classes: int,
        pool: Pool,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dim
        self.num_patches, self.patch_size = num_patches, patch_size
        self.embedding = embedding
        self.position = MLPPosition(dim)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        pooled = 2 * dim if pool == "max_mean" else dim
        hidden = nn.Sequential(nn.Linear(pooled, dim), nn.GELU(), nn.Dropout(dropout))
        self.head = ClassificationHead(hidden, dim, num_classes, reduce=pool)

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        patches = make_patches(batch, self.num_patches, self.patch_size, order="hilbert")
        embedded = self.embedding(patches).features  # (B * K, C)
        assert embedded is not None
        x = (embedded + self.position(patches.centers.xyz)).view(len(batch), self.num_patches, -1)  # (B, K, C)
        for block in self.blocks:
            x = block(x)
        return patches.centers.replace(features=self.norm(x).flatten(0, 1))


# ---- sizes -----------------------------------------------------------------------------------------------------------
def patch_mixer(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    mixer: str = "self_attention",
    block: Literal["transformer", "published"] = "transformer",
    mixer_options: Mapping[str, Any] | None = None,
    pool: Pool = "mean",
    dim: int = 384,
    depth: int = 12,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
) -> PatchMixer:
    """Point-MAE's size: 12 blocks of 384 channels, 64 patches of 32 points; 22 002 088 parameters with self-attention.

    Args:
        num_classes: logits.
        in_channels: 3 + C.
        mixer: one of `pctransformer.layers.mixers.list_mixers()`.
        block: "transformer" puts the mixer in place of attention and leaves everything else alone, for comparisons;
            "published" takes the whole block that the mixer was published in.
        mixer_options: further arguments of `create_mixer` or `create_block`.
        pool: how tokens become one vector, "max_mean" by both; what serves attention best need not serve others.
        dim: channels of tokens.
        depth: blocks.
        num_patches: tokens of a cloud.
        patch_size: points of a patch.
        widths: see `PatchEmbedding`.
    """
    options = {"dim": dim, "num_tokens": num_patches, **(mixer_options or {})}
    if block == "published":
        blocks = [create_block(mixer, **options) for _ in range(depth)]
    else:
        blocks = [transformer_block(create_mixer(mixer, **options)) for _ in range(depth)]
    return PatchMixer(
        num_patches=num_patches, patch_size=patch_size, blocks=blocks, dim=dim,
        embedding=PatchEmbedding(dim, in_channels=in_channels, widths=widths),
        in_channels=in_channels, num_classes=num_classes, pool=pool,
    )  # fmt: skip


def patch_mixer_small(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    mixer: str = "self_attention",
    block: Literal["transformer", "published"] = "transformer",
    mixer_options: Mapping[str, Any] | None = None,
    pool: Pool = "mean",
) -> PatchMixer:
    """4 blocks of 128 channels, 64 patches of 16 points, for training on a CPU."""
    return patch_mixer(
        num_classes, in_channels, mixer=mixer, block=block, mixer_options=mixer_options, pool=pool,
        dim=128, depth=4, patch_size=16, widths=(32, 64),
    )  # fmt: skip
