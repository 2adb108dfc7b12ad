"""Point-MAE: masked autoencoders for point clouds. Pang, Wang, Tay, Liu, Tian, Yuan, 2022, arXiv:2203.06604.

A cloud is cut into patches, a small PointNet makes each a token, and a plain transformer works on the tokens, with a
code of the patches' centres added in front of every layer. It learns without labels: most patches are hidden, the
transformer sees the others only, and a few more layers make up the points of the hidden ones from what it found, given
where their centres are. Later a class token joins the tokens, and the same transformer is trained to classify; for
parts of objects see `models.point_mae_segmentation`.

What differs here: clouds of a batch may have different sizes, and small ones repeat patches; all linear layers of
transformers start from the same distribution.

classify    (B, N, 3) -> patches -> tokens, class token in front -> encoder -> class token beside maximum -> logits
pretrain    (B, N, 3) -> patches -> tokens -> 40 % -> encoder -> mask tokens behind -> decoder -> points of 60 %
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead, Reduce
from pctransformer.heads.reconstruction import Reconstruction, ReconstructionHead, chamfer_distance, random_split
from pctransformer.layers.position import MLPPosition
from pctransformer.layers.transformer import ClassToken, Encoder, init_weights, pre_norm_encoder
from pctransformer.models.classifier import Classifier
from pctransformer.models.pretraining import Pretraining
from pctransformer.point_view.patches import PatchEmbedding, PatchTokenizer, beside_class_token
from pctransformer.points import PointBatch


class PointMAE(Classifier):
    """The network that classifies.

    Args:
        tokenizer: from clouds to tokens of `dim` channels and the codes of their centres.
        encoder: the transformer, called with tokens and codes.
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        dropout: in the head.
    """

    lacking_in_pretraining = ("class_token.", "head.")
    only_in_pretraining = ("decoder.", "head.points.")

    def __init__(
        self,
        *,
        tokenizer: PatchTokenizer,
        encoder: Encoder,
        dim: int,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dim
        self.tokenizer, self.class_token, self.encoder = tokenizer, ClassToken(dim), encoder
        self.apply(init_weights)
        self.head = patch_head(dim, num_classes, dropout, "first_max")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The class token of each cloud, then the tokens of its patches."""
        patches, tokens, code = self.tokenizer(PointBatch.of(points, self.in_channels))  # (B, G, C)
        tokens, code = self.class_token(tokens, code)  # (B, 1 + G, C)
        return beside_class_token(patches.centers, self.encoder(tokens, code=code))

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The tokens of patches alone: the class token is learned with labels only."""
        return _encode(self.tokenizer, self.encoder, PointBatch.of(points, self.in_channels))


def patch_head(dim: int, num_classes: int, dropout: float, reduce: Reduce) -> ClassificationHead:
    """The head of Point-BERT, Point-MAE and PointGPT: two hidden layers on one token beside the maximum of others."""
    hidden = nn.Sequential(
        nn.Linear(2 * dim, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(dropout),
    )  # fmt: skip
    return ClassificationHead(hidden, 256, num_classes, reduce)


class MaskedDecoder(nn.Module):
    """Tokens of hidden patches from those of visible ones and from where the hidden ones are (section 3.2).

    Args:
        layers: a small transformer; sees visible tokens, then one mask token for each hidden patch.
        position: codes of centres, other than those of the encoder.
        dim: channels.
    """

    def __init__(self, layers: Encoder, position: nn.Module, dim: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.position, self.layers = position, layers

    def forward(self, visible: Tensor, visible_xyz: Tensor, hidden_xyz: Tensor) -> Tensor:
        """(B, M, C) from visible tokens (B, V, C) and the centres (B, V, 3) and (B, M, 3) of both kinds of patches."""
        hidden = self.mask_token.expand(*hidden_xyz.shape[:2], -1).type_as(visible)
        code = self.position(torch.cat([visible_xyz, hidden_xyz], 1))
        return self.layers(torch.cat([visible, hidden], 1), code=code)[:, visible.shape[1] :]


class PointMAEPretraining(Pretraining):
    """The network that learns by making up what is hidden from it.

    Args:
        tokenizer, encoder: as in `PointMAE`, which they are meant for.
        decoder: what they are to teach; of no use later.
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C; only coordinates are made up.
        mask_ratio: share of patches that are hidden.
    """

    def __init__(
        self,
        *,
        tokenizer: PatchTokenizer,
        encoder: Encoder,
        decoder: MaskedDecoder,
        dim: int,
        in_channels: int,
        mask_ratio: float,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.mask_ratio = in_channels, dim, mask_ratio
        self.tokenizer, self.encoder, self.decoder = tokenizer, encoder, decoder
        self.head = ReconstructionHead(dim, tokenizer.patch_size)
        self.apply(init_weights)

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The tokens of all patches."""
        return _encode(self.tokenizer, self.encoder, PointBatch.of(points, self.in_channels))

    def forward(
        self, points: PointBatch | Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Hide patches, drawn from the generator, and make them up."""
        patches, tokens, code = self.tokenizer(PointBatch.of(points, self.in_channels))  # (B, G, C)
        shape = tokens.shape[:2]
        seen, hidden = random_split(shape[0], shape[1], self.mask_ratio, generator)
        seen, hidden = seen.to(tokens.device), hidden.to(tokens.device)  # (B, V) and (B, M) rows
        encoded = self.encoder(take(tokens, seen), code=take(code, seen))  # (B, V, C)
        centers = patches.centers.xyz.view(*shape, 3)
        seen_centers, hidden_centers = take(centers, seen), take(centers, hidden)
        true = patches.points[..., :3].unflatten(0, shape)  # (B, G, k, 3)
        return Reconstruction(
            predicted=self.head(self.decoder(encoded, seen_centers, hidden_centers)),
            target=take(true, hidden),
            centers=hidden_centers,
            visible=take(true, seen) + seen_centers[:, :, None],
        )

    def loss(self, made_up: Reconstruction) -> dict[str, Tensor]:
        """{"chamfer": mean squared Chamfer distance of the hidden patches} (equation 6)."""
        distance = chamfer_distance(made_up.predicted.flatten(0, 1), made_up.target.flatten(0, 1))
        return {"chamfer": distance.mean()}


def _encode(tokenizer: PatchTokenizer, encoder: Encoder, points: PointBatch) -> PointBatch:
    patches, tokens, code = tokenizer(points)  # (B, G, C)
    return patches.centers.replace(features=encoder(tokens, code=code).flatten(0, 1))


def take(values: Tensor, rows: Tensor) -> Tensor:
    """(B, M, ...) from (B, S, ...) and rows (B, M) of its first two axes."""
    return values.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


# ---- sizes: section 4.1 and the authors' configurations --------------------------------------------------------------
def point_mae(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
    drop_path: float = 0.1,
    skip_near_origin: bool = False,
) -> PointMAE:
    """Point-MAE for 1024 points, 22 099 752 parameters for 40 classes.

    Public weights were trained with the sampling that `skip_near_origin` repeats, and with `num_patches` 128 for 2048
    points and 512 for 8192.
    """
    tokenizer = patch_tokenizer(dim, in_channels, widths, num_patches, patch_size, skip_near_origin)
    encoder = pre_norm_encoder(dim, depth=depth, num_heads=num_heads, qkv_bias=False, drop_path=drop_path)
    return PointMAE(tokenizer=tokenizer, encoder=encoder, dim=dim, in_channels=in_channels, num_classes=num_classes)


def point_mae_pretraining(
    in_channels: int = 3,
    *,
    dim: int = 384,
    depth: int = 12,
    decoder_depth: int = 4,
    num_heads: int = 6,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
    mask_ratio: float = 0.6,
    drop_path: float = 0.1,
    skip_near_origin: bool = False,
) -> PointMAEPretraining:
    """What `point_mae` of the same sizes is pretrained as: 29 006 432 parameters."""

    def layers(depth: int) -> Encoder:
        return pre_norm_encoder(dim, depth=depth, num_heads=num_heads, qkv_bias=False, drop_path=drop_path)

    return PointMAEPretraining(
        tokenizer=patch_tokenizer(dim, in_channels, widths, num_patches, patch_size, skip_near_origin),
        encoder=layers(depth), decoder=MaskedDecoder(layers(decoder_depth), MLPPosition(dim), dim),
        dim=dim, in_channels=in_channels, mask_ratio=mask_ratio,
    )  # fmt: skip


def point_mae_small(num_classes: int = 40, in_channels: int = 3) -> PointMAE:
    """4 layers of 128 channels, 64 patches of 16 points, for training on a CPU."""
    return point_mae(
        num_classes, in_channels, dim=128, depth=4, num_heads=4, patch_size=16, widths=(32, 64)
    )  # fmt: skip


def point_mae_small_pretraining(in_channels: int = 3) -> PointMAEPretraining:
    """What `point_mae_small` is pretrained as, with a decoder of 2 layers."""
    return point_mae_pretraining(
        in_channels, dim=128, depth=4, decoder_depth=2, num_heads=4, patch_size=16, widths=(32, 64)
    )  # fmt: skip


def patch_tokenizer(
    dim: int, in_channels: int, widths: tuple[int, int], num_patches: int, patch_size: int, skip_near_origin: bool
) -> PatchTokenizer:
    """What cuts clouds into patches and makes tokens of them, for all networks here."""
    return PatchTokenizer(
        PatchEmbedding(dim, in_channels=in_channels, widths=widths), MLPPosition(dim),
        num_patches=num_patches, patch_size=patch_size, skip_near_origin=skip_near_origin,
    )  # fmt: skip


# ---- public checkpoints: repository Pang-Yatian/Point-MAE ------------------------------------------------------------
def convert_point_mae(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the authors' code, renamed: of a classifier, 174 entries, or of pretraining, 209.

    1x1 convolutions become linear layers, and what computes queries, keys and values in one is taken apart.
    """
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in _POINT_MAE:
            name = re.sub(pattern, replacement, name)
        if name.endswith(".qkv.weight"):
            dim = value.shape[1]
            renamed[name.replace("qkv", "query")], renamed[name.replace("qkv", "key_value")] = value.split(
                [dim, 2 * dim]
            )
        elif name in ("class_token.token", "class_token.code", "decoder.mask_token"):
            renamed[name] = value.flatten()
        else:
            renamed[name] = value.squeeze(-1) if value.dim() == 3 else value
    return renamed


_POINT_MAE = (
    (r"^MAE_encoder\.", ""),
    (r"^encoder\.first_conv\.", "tokenizer.embedding.first."),
    (r"^encoder\.second_conv\.", "tokenizer.embedding.second."),
    (r"^pos_embed\.", "tokenizer.position."),
    (r"^cls_token$", "class_token.token"),
    (r"^cls_pos$", "class_token.code"),
    (r"^blocks\.blocks\.", "encoder.layers."),
    (r"^norm\.", "encoder.norm."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_pos_embed\.", "decoder.position."),
    (r"^MAE_decoder\.blocks\.", "decoder.layers.layers."),
    (r"^MAE_decoder\.norm\.", "decoder.layers.norm."),
    (r"^increase_dim\.0\.", "head.points."),
    (r"^cls_head_finetune\.8\.", "head.classifier."),
    (r"^cls_head_finetune\.", "head.hidden."),
    (r"\.norm1\.", ".parts.0.residual.norm."),
    (r"\.norm2\.", ".parts.1.residual.norm."),
    (r"\.attn\.proj\.", ".parts.0.mixer.out."),
    (r"\.attn\.", ".parts.0.mixer."),
    (r"\.mlp\.", ".parts.1.mlp."),
)

PUBLIC_WEIGHTS = {
    "encoder.first_conv.0.weight": convert_point_mae,
    "MAE_encoder.encoder.first_conv.0.weight": convert_point_mae,
}
