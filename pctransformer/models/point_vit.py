"""Point ViT: the vision transformer on point clouds. Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner,
Dehghani, Minderer, Heigold, Gelly, Uszkoreit, Houlsby, An Image is Worth 16x16 Words, 2021, arXiv:2010.11929.

An image is cut into patches, a linear layer makes each a token, a learned vector says where it was, a learned token
joins them, and a plain transformer does the rest. Here it is a cloud that is cut, into neighbourhoods of sampled
centres, and a small PointNet that makes tokens of them. Or tokens come out of layers that look at ever larger
neighbourhoods, as the paper's hybrid model has convolutions in front: the stem. The class is read off the class token,
or off all tokens.

What differs here: patches overlap. They line up along a Hilbert curve, so that a learned vector for each place in the
sequence means something; but a place on the curve is not a place in space, which codes of the centres' coordinates
tell. Drop path, which that paper does not have, is DeiT's.

`PointMAE` has the same tokens, and adds positions in front of every layer; `patch_mixer` is this model with other token
mixers in place of attention.

(B, N, 3 + C) -> stem -> tokens + position code, class token in front -> encoder -> class token, or pool -> logits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead, Reduce
from pctransformer.layers.position import (
    FourierPosition,
    LearnedPosition,
    MLPPosition,
    NoPosition,
    SinusoidalPosition,
)
from pctransformer.layers.sparse_stem import SparseStem
from pctransformer.layers.transformer import ClassToken, Encoder, init_weights, pre_norm_encoder
from pctransformer.models.classifier import Classifier
from pctransformer.point_view.patches import PatchEmbedding, beside_class_token, make_patches
from pctransformer.point_view.set_abstraction import SetAbstraction
from pctransformer.points import PointBatch

Stem = Literal["patches", "set_abstraction", "sparse_convolution"]
Position = Literal["learnable", "sinusoidal", "mlp", "fourier", "none"]
Pool = Literal["class_token", "mean", "max", "max_mean"]


class PatchStem(nn.Module):
    """Sampled centres in Hilbert order, each with the token of its nearest points."""

    def __init__(self, embedding: PatchEmbedding, *, num_patches: int, patch_size: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.num_patches, self.patch_size = num_patches, patch_size

    def forward(self, batch: PointBatch) -> PointBatch:
        return self.embedding(make_patches(batch, self.num_patches, self.patch_size, order="hilbert"))


class AbstractionStem(nn.Module):
    """The hybrid: levels of set abstraction, as in PointNet++, and a linear layer from their channels to tokens'. In
    place of the first there may be sparse convolutions."""

    def __init__(self, levels: Sequence[SetAbstraction | SparseStem], dim: int) -> None:
        super().__init__()
        self.levels = nn.Sequential(*levels)
        self.project = nn.Linear(levels[-1].out_dim, dim)

    def forward(self, batch: PointBatch) -> PointBatch:
        tokens = self.levels(batch)
        return tokens.replace(features=self.project(tokens.features))


class PointViT(Classifier):
    """The network of figure 1.

    Args:
        stem: from clouds to tokens with `dim` channels, equally many of each cloud, in the order of a curve.
        position: from coordinates of tokens (B, S, 3) to their codes (B, S, dim), see `layers.position`.
        class_token: stands in front of tokens; None: there is none.
        encoder: the transformer.
        head: for the class token or for the tokens alone, as there is one or not.
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        position: nn.Module,
        class_token: ClassToken | None,
        encoder: Encoder,
        head: ClassificationHead,
        dim: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dim
        self.stem, self.position, self.class_token = stem, position, class_token
        self.encoder, self.head = encoder, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The tokens of each cloud, in front of them its class token where there is one."""
        tokens = self.stem(PointBatch.of(points, self.in_channels))  # S of each of B clouds
        shape = (len(tokens), tokens.max_points, -1)
        x = tokens.features.view(shape)  # (B, S, C)
        code = self.position(tokens.xyz.view(shape))  # (B, S, C)
        if self.class_token is None:
            return tokens.replace(features=self.encoder(x + code).flatten(0, 1))
        x, code = self.class_token(x, code)  # (B, 1 + S, C)
        return beside_class_token(tokens, self.encoder(x + code))


# ---- sizes: table 1 --------------------------------------------------------------------------------------------------
def point_vit(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    stem: Stem = "patches",
    position: Position = "mlp",
    pool: Pool = "class_token",
    dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
    drop_path: float = 0.1,
    layer_scale: float | None = None,
    checkpoint: bool = False,
) -> PointViT:
    """ViT-Base: 12 layers of 768 channels and 12 heads. 85 879 336 parameters, 85 054 464 of them in the layers.

    Args:
        num_classes: logits.
        in_channels: 3 + C.
        stem: "patches" or, for clouds in the unit sphere, "set_abstraction": the two levels of PointNet++, the first
            with four times as many centres as there are tokens; or "sparse_convolution", which has in place of that
            first level three stages of convolutions, on cells of 0.05, 0.1 and 0.2.
        position: "learnable" is a vector for each place along the curve, as published; the others are codes of
            coordinates, see `pctransformer.layers.position`; "none": no code at all.
        pool: "class_token" is the class token alone, as published; with the others there is none, and tokens become
            one vector by their mean, their maximum, or both.
        dim: channels of tokens.
        depth: layers.
        num_heads: heads.
        num_patches: tokens of a cloud.
        patch_size: points of a patch, or at most of a ball.
        widths: of the patch embedding, see `PatchEmbedding`.
        drop_path: share of clouds that the last layer leaves as they are in training; less in those before.
        layer_scale: see `pre_norm_layer`.
        checkpoint: see `Encoder`.
    """
    reduce: Reduce = "first" if pool == "class_token" else pool
    pooled = 2 * dim if pool == "max_mean" else dim
    model = PointViT(
        stem=_stem(stem, dim, in_channels, num_patches, patch_size, widths),
        position=_position(position, dim, num_patches),
        class_token=ClassToken(dim) if pool == "class_token" else None,
        encoder=pre_norm_encoder(
            dim, depth=depth, num_heads=num_heads, drop_path=drop_path, layer_scale=layer_scale, checkpoint=checkpoint
        ),
        head=ClassificationHead(nn.Identity(), pooled, num_classes, reduce),
        dim=dim, in_channels=in_channels,
    )  # fmt: skip
    return model.apply(init_weights)


def point_vit_small(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    stem: Stem = "patches",
    position: Position = "mlp",
    pool: Pool = "class_token",
) -> PointViT:
    """4 layers of 128 channels, 64 patches of 16 points, for training on a CPU."""
    return point_vit(
        num_classes, in_channels, stem=stem, position=position, pool=pool,
        dim=128, depth=4, num_heads=4, patch_size=16, widths=(32, 64),
    )  # fmt: skip


def _stem(
    kind: Stem, dim: int, in_channels: int, num_patches: int, patch_size: int, widths: tuple[int, int]
) -> nn.Module:
    if kind == "patches":
        embedding = PatchEmbedding(dim, in_channels=in_channels, widths=widths)
        return PatchStem(embedding, num_patches=num_patches, patch_size=patch_size)
    fine: SetAbstraction | SparseStem
    if kind == "set_abstraction":
        fine = SetAbstraction(
            in_channels - 3, num_samples=4 * num_patches, radii=(0.2,), ks=(patch_size,), widths=((64, 64, 128),)
        )
    elif kind == "sparse_convolution":
        fine = SparseStem(in_channels, (32, 64, 128), cell_size=0.05)
    else:
        raise ValueError(f'stem must be "patches", "set_abstraction" or "sparse_convolution", got {kind!r}')
    coarse = SetAbstraction(
        128, num_samples=num_patches, radii=(0.4,), ks=(patch_size,), widths=((128, 128, 256),), order="hilbert"
    )
    return AbstractionStem([fine, coarse], dim)


def _position(kind: Position, dim: int, num_tokens: int) -> nn.Module:
    """For clouds in the unit sphere: sines from 0.13 m wavelength up, Fourier features of a cycle per metre."""
    if kind == "learnable":
        return LearnedPosition(num_tokens, dim)
    if kind == "sinusoidal":
        return SinusoidalPosition(dim, unit=0.02)
    if kind == "mlp":
        return MLPPosition(dim)
    if kind == "fourier":
        return FourierPosition(dim, frequency=1.0)
    if kind == "none":
        return NoPosition(dim)
    raise ValueError(f'position must be "learnable", "sinusoidal", "mlp", "fourier" or "none", got {kind!r}')
