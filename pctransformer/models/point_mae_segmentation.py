"""Point-MAE for parts of objects. Pang, Wang, Tay, Liu, Tian, Yuan, 2022, arXiv:2203.06604, section 4.2.

The transformer of `models.point_mae`, without a class token, sees patches; points get back what patches have learned by
interpolation, from early layers, which know more of places, and from late ones. What is pretrained without labels
(`point_mae_pretraining`) is what it starts from.

What differs here from the authors' code: the part of a layer that sees what is the same for all points of a cloud is
computed once for the cloud; clouds may have different sizes.

(B, N, 3) -> patches -> tokens -> three layers of the encoder -> interpolation to points -> perceptron -> logits
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.segmentation import SegmentationHead
from pctransformer.layers.transformer import Encoder, init_weights, pre_norm_encoder
from pctransformer.models.point_mae import convert_point_mae, patch_tokenizer
from pctransformer.models.segmenter import Segmenter, of_each_point
from pctransformer.point_view.patches import PatchTokenizer
from pctransformer.point_view.set_abstraction import FeaturePropagation
from pctransformer.points import PointBatch


class PointMAESegmenter(Segmenter):
    """The part segmentation network of the authors' code.

    What the tokens are after a third, two thirds and all of the layers is carried to every point from the three nearest
    patches. Beside it each point gets the maximum and the mean over its cloud's patches, and the object's category.

    Args:
        tokenizer, encoder: as in `PointMAE`, without the class token.
        dim: channels of tokens.
        carried: output channels of the layers on what is carried to points.
        hidden: channels of the two layers of the head.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        num_categories: see `Segmenter`.
        dropout: in the head.
    """

    lacking_in_pretraining = ("category.", "propagation.", "join.", "head.")
    only_in_pretraining = ("decoder.", "head.points.")

    def __init__(
        self,
        *,
        tokenizer: PatchTokenizer,
        encoder: Encoder,
        dim: int,
        carried: tuple[int, int],
        hidden: tuple[int, int],
        in_channels: int,
        num_classes: int,
        num_categories: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.num_categories = in_channels, hidden[0], num_categories
        self.tokenizer, self.encoder = tokenizer, encoder
        depth = len(encoder.layers)
        self.taken = tuple(-(-depth * part // 3) for part in (1, 2, 3))  # 4, 8 and 12 of 12 layers
        self.propagation = FeaturePropagation(3 * dim, in_channels, carried)
        category_dim = 64 if num_categories else 0
        self.category: nn.Module | None = None
        if num_categories:
            linear = nn.Linear(num_categories, category_dim, bias=False)
            self.category = nn.Sequential(linear, nn.BatchNorm1d(category_dim), nn.LeakyReLU(0.2))
            self.category_columns = ("category.0.weight",)
        self.join = BesideCloud(carried[-1], 6 * dim + category_dim, hidden[0])
        tokenizer.apply(init_weights)
        encoder.apply(init_weights)
        layers = nn.Sequential(
            nn.BatchNorm1d(hidden[0]), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(*hidden), nn.BatchNorm1d(hidden[1]), nn.ReLU(),
        )  # fmt: skip
        self.head = SegmentationHead(layers, hidden[1], num_classes)

    def forward_features(
        self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None
    ) -> PointBatch:
        batch = PointBatch.of(points, self.in_channels)
        known = self.category_code(batch, category)
        patches, x, code = self.tokenizer(batch)  # (B, G, C)
        levels = []
        for number, layer in enumerate(self.encoder.layers, 1):
            x = layer(x + code)
            levels += [self.encoder.norm(x)] * self.taken.count(number)
        tokens = torch.cat(levels, 2)  # (B, G, 3 C)
        of_clouds = [tokens.amax(1), tokens.mean(1)]
        if self.category is not None:
            of_clouds.append(self.category(known))
        coarse = patches.centers.replace(features=tokens.flatten(0, 1))
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        carried = self.propagation(coarse, batch.replace(features=channels))  # (N, carried)
        return self.join(carried, torch.cat(of_clouds, 1))


class BesideCloud(nn.Module):
    """A linear layer on what each point has beside what its cloud has; the latter's part is computed once a cloud."""

    def __init__(self, point_dim: int, cloud_dim: int, out_dim: int) -> None:
        super().__init__()
        self.points, self.cloud = nn.Linear(point_dim, out_dim, bias=False), nn.Linear(cloud_dim, out_dim)

    def forward(self, points: PointBatch, of_clouds: Tensor) -> PointBatch:
        """The points with (N, out_dim) features, of points with features and (B, cloud_dim) of their clouds."""
        return points.replace(features=self.points(points.features) + of_each_point(self.cloud(of_clouds), points))


# ---- sizes: the authors' code ----------------------------------------------------------------------------------------
def point_mae_seg(
    num_classes: int = 50,
    in_channels: int = 3,
    *,
    num_categories: int = 0,
    dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    num_patches: int = 128,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
    carried: tuple[int, int] = (1536, 1024),
    hidden: tuple[int, int] = (512, 256),
    drop_path: float = 0.1,
    skip_near_origin: bool = False,
) -> PointMAESegmenter:
    """Part segmentation for 2048 points, 27 063 730 parameters for ShapeNet's 50 parts and 16 categories.

    Args:
        carried: output channels of the layers on what is carried from patches to points.
        hidden: channels of the head's two layers.
    """
    return PointMAESegmenter(
        tokenizer=patch_tokenizer(dim, in_channels, widths, num_patches, patch_size, skip_near_origin),
        encoder=pre_norm_encoder(dim, depth=depth, num_heads=num_heads, qkv_bias=False, drop_path=drop_path),
        dim=dim, carried=carried, hidden=hidden, in_channels=in_channels, num_classes=num_classes,
        num_categories=num_categories,
    )  # fmt: skip


def point_mae_small_seg(num_classes: int = 50, in_channels: int = 3, *, num_categories: int = 0) -> PointMAESegmenter:
    """The layers of `point_mae_small`, on 128 patches."""
    return point_mae_seg(
        num_classes, in_channels, num_categories=num_categories, dim=128, depth=4, num_heads=4, patch_size=16,
        widths=(32, 64), carried=(128, 128), hidden=(128, 64),
    )  # fmt: skip


# ---- public checkpoints: repository Pang-Yatian/Point-MAE ------------------------------------------------------------
def convert_point_mae_parts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the authors' code, renamed: of part segmentation, 192 entries, or of pretraining, 209."""
    renamed = {}
    for name, value in convert_point_mae(weights).items():
        for pattern, replacement in _POINT_MAE_PARTS:
            name = re.sub(pattern, replacement, name)
        if name == "convs1.weight":  # points beside their clouds
            carried = len(weights["propagation_0.mlp_convs.1.bias"])
            renamed["join.points.weight"], renamed["join.cloud.weight"] = value.tensor_split([carried], 1)
        else:
            renamed[name] = value
    return renamed


_POINT_MAE_PARTS = (
    (r"^label_conv\.", "category."),
    (r"^propagation_0\.mlp_convs\.(\d)\.", lambda found: f"propagation.layers.{3 * int(found[1])}."),
    (r"^propagation_0\.mlp_bns\.(\d)\.", lambda found: f"propagation.layers.{3 * int(found[1]) + 1}."),
    (r"^convs1\.bias$", "join.cloud.bias"),
    (r"^bns1\.", "head.hidden.0."),
    (r"^convs2\.", "head.hidden.3."),
    (r"^bns2\.", "head.hidden.4."),
    (r"^convs3\.", "head.classifier."),
)

PUBLIC_WEIGHTS = {
    "encoder.first_conv.0.weight": convert_point_mae_parts,
    "MAE_encoder.encoder.first_conv.0.weight": convert_point_mae_parts,
}
