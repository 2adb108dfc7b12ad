"""Patch mixer: patches of a cloud as tokens, in one backbone with any token mixer where a transformer has attention.

The model to ask with whether attention is necessary. A cloud is cut into overlapping patches, a small PointNet makes
each a token, and the tokens line up along a Hilbert curve, so that mixers whose weights belong to places in the
sequence, or that carry a state along it, find near what is near in space. Coordinates of the centres enter by a
position code, whatever the mixer: unlike an image's, they cannot be told from the place in the sequence.

With self-attention this is the plain transformer of Point-BERT (Yu et al., 2022, arXiv:2111.14819) and Point-MAE (Pang
et al., 2022, arXiv:2203.06604): the same tokens, position code and blocks. What differs here: the order of patches,
positions are added once and not in front of every block, and the mean over tokens, their maximum, or both as in PCT,
take the place of a class token. For the mixers see `pctransformer.layers.mixers`; the network is `PointViT`.

(B, N, 3 + C) -> patches in Hilbert order -> tokens + position code -> blocks -> norm -> pool -> perceptron -> logits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.mixers import create_block, create_mixer
from pctransformer.layers.position import MLPPosition
from pctransformer.layers.transformer import Encoder, pre_norm_layer
from pctransformer.models.point_vit import PatchStem, PointViT
from pctransformer.point_view.patches import PatchEmbedding

Pool = Literal["mean", "max", "max_mean"]


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
) -> PointViT:
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
        blocks = [pre_norm_layer(create_mixer(mixer, **options), dim) for _ in range(depth)]
    embedding = PatchEmbedding(dim, in_channels=in_channels, widths=widths)
    position = MLPPosition(dim)
    hidden = nn.Sequential(nn.Linear(2 * dim if pool == "max_mean" else dim, dim), nn.GELU(), nn.Dropout(0.5))
    return PointViT(
        stem=PatchStem(embedding, num_patches=num_patches, patch_size=patch_size),
        position=position, class_token=None, encoder=Encoder(blocks, nn.LayerNorm(dim)),
        head=ClassificationHead(hidden, dim, num_classes, reduce=pool), dim=dim, in_channels=in_channels,
    )  # fmt: skip


def patch_mixer_small(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    mixer: str = "self_attention",
    block: Literal["transformer", "published"] = "transformer",
    mixer_options: Mapping[str, Any] | None = None,
    pool: Pool = "mean",
) -> PointViT:
    """4 blocks of 128 channels, 64 patches of 16 points, for training on a CPU."""
    return patch_mixer(
        num_classes, in_channels, mixer=mixer, block=block, mixer_options=mixer_options, pool=pool,
        dim=128, depth=4, patch_size=16, widths=(32, 64),
    )  # fmt: skip
