"""PointGPT: generative pretraining for point clouds, patch after patch. Chen, Wang, Yang, Yu, Yuan, Yue, 2023,
arXiv:2305.11487.

Patches of a cloud are put in order along a Morton curve, and each token sees only those before it. It learns without
labels: from the patches so far, a transformer (the extractor) and a few more layers (the generator), which are told in
which direction the next centre lies, make up the points of the next patch. Besides the causal mask, most of the earlier
tokens are hidden at random, so that there is something left to guess. Later the extractor, still causal, is trained to
classify.

What differs here: the last token, which has seen all, is classified beside the maximum of the others (in the authors'
code a class token in front, which sees none), layers are pre-norm as in Point-MAE, earlier tokens are hidden for each
cloud by itself, and the generator has no part in training to classify. Directions are not divided by their length, as
in the authors' code and unlike in the paper.

classify    (B, N, 3) -> patches in order -> start token, tokens -> extractor -> last token beside maximum -> logits
pretrain    (B, N, 3) -> patches in order -> start token, tokens but the last -> extractor -> generator -> all patches
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.heads.reconstruction import Reconstruction, ReconstructionHead, chamfer_distance, random_split
from pctransformer.layers.position import SinusoidalPosition
from pctransformer.layers.transformer import ClassToken, Encoder, init_weights, pre_norm_encoder
from pctransformer.models.classifier import Classifier
from pctransformer.models.point_mae import patch_head
from pctransformer.models.pretraining import Pretraining
from pctransformer.point_view.patches import PatchEmbedding, PatchTokenizer, beside_class_token
from pctransformer.points import PointBatch


class PointGPT(Classifier):
    """The network that classifies.

    Args:
        tokenizer: from clouds to tokens of `dim` channels in the order of a curve, and the codes of their centres.
        extractor: a causal transformer.
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C.
        num_classes: logits.
        dropout: in the head.
    """

    lacking_in_pretraining = ("head.",)
    only_in_pretraining = ("generator.", "head.points.")

    def __init__(
        self,
        *,
        tokenizer: PatchTokenizer,
        extractor: Encoder,
        dim: int,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dim
        self.tokenizer, self.start, self.extractor = tokenizer, ClassToken(dim), extractor
        self.apply(init_weights)
        self.head = patch_head(dim, num_classes, dropout, "last_max")

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The start token of each cloud, then the tokens of its patches."""
        return _extract(self.tokenizer, self.start, self.extractor, PointBatch.of(points, self.in_channels))


class PointGPTPretraining(Pretraining):
    """The network that learns by making up the next patch.

    Args:
        tokenizer, extractor: as in `PointGPT`, which they are meant for.
        generator: a causal transformer that is told where the next patch lies; of no use later.
        dim: channels of tokens.
        in_channels: channels of the input, 3 + C; only coordinates are made up.
        mask_ratio: share of tokens that are hidden from all but themselves, on top of the causal mask.
        always_seen: first tokens, the start token among them, that are never hidden.
    """

    def __init__(
        self,
        *,
        tokenizer: PatchTokenizer,
        extractor: Encoder,
        generator: Encoder,
        dim: int,
        in_channels: int,
        mask_ratio: float,
        always_seen: int = 10,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = in_channels, dim
        self.mask_ratio, self.always_seen = mask_ratio, always_seen
        self.tokenizer, self.start = tokenizer, ClassToken(dim)
        self.extractor, self.generator = extractor, generator
        self.head = ReconstructionHead(dim, tokenizer.patch_size)
        self.apply(init_weights)

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """The start token of each cloud, then the tokens of its patches."""
        return _extract(self.tokenizer, self.start, self.extractor, PointBatch.of(points, self.in_channels))

    def forward(
        self, points: PointBatch | Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Make up every patch from those before it, some of which are hidden, drawn from the generator."""
        patches, tokens, code = self.tokenizer(PointBatch.of(points, self.in_channels))  # (B, G, C)
        clouds, count, _ = tokens.shape
        tokens, code = self.start(tokens, code)
        tokens, code = tokens[:, :-1], code[:, :-1]  # place i is to make up patch i, and holds the one before it
        seen = self._seen(clouds, count, generator).to(tokens.device)
        extracted = self.extractor(tokens, seen, code=code)  # (B, G, C)
        centers = patches.centers.xyz.view(clouds, count, 3)
        steps = centers.diff(dim=1, prepend=torch.zeros_like(centers[:, :1]))
        made_up = self.generator(extracted, seen, code=self.tokenizer.position(steps))
        return Reconstruction(
            predicted=self.head(made_up),
            target=patches.points[..., :3].unflatten(0, (clouds, count)),
            centers=centers,
            visible=centers.new_zeros(clouds, 0, self.tokenizer.patch_size, 3),
        )

    def loss(self, made_up: Reconstruction) -> dict[str, Tensor]:
        """{"chamfer_1", "chamfer_2"}: the Chamfer distance of all patches, and the squared one (equation 6)."""
        sets = made_up.predicted.flatten(0, 1), made_up.target.flatten(0, 1)
        return {f"chamfer_{power}": chamfer_distance(*sets, power=power).mean() for power in (1, 2)}

    def _seen(self, clouds: int, count: int, generator: torch.Generator | None) -> Tensor:
        """(B, G, G) bool: which tokens each token may see, besides what the causal mask says; itself in any case."""
        always = min(self.always_seen, count)
        _, hidden = random_split(clouds, count - always, self.mask_ratio, generator)
        later = torch.ones(clouds * (count - always), dtype=torch.bool).index_fill(0, hidden.flatten(), False)
        seen = torch.cat([torch.ones(clouds, always, dtype=torch.bool), later.view(clouds, -1)], 1)
        return seen[:, None] | torch.eye(count, dtype=torch.bool)


def _extract(tokenizer: PatchTokenizer, start: ClassToken, extractor: Encoder, points: PointBatch) -> PointBatch:
    patches, tokens, code = tokenizer(points)  # (B, G, C)
    tokens, code = start(tokens, code)  # (B, 1 + G, C)
    return beside_class_token(patches.centers, extractor(tokens, code=code))


# ---- sizes: PointGPT-S of the authors' configurations ----------------------------------------------------------------
def point_gpt(
    num_classes: int = 40,
    in_channels: int = 3,
    *,
    dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
) -> PointGPT:
    """PointGPT-S for 1024 points; 128 patches for 2048."""
    return PointGPT(
        tokenizer=_tokenizer(dim, in_channels, widths, num_patches, patch_size),
        extractor=pre_norm_encoder(dim, depth=depth, num_heads=num_heads, causal=True),
        dim=dim, in_channels=in_channels, num_classes=num_classes,
    )  # fmt: skip


def point_gpt_pretraining(
    in_channels: int = 3,
    *,
    dim: int = 384,
    depth: int = 12,
    generator_depth: int = 4,
    num_heads: int = 6,
    num_patches: int = 64,
    patch_size: int = 32,
    widths: tuple[int, int] = (128, 256),
    mask_ratio: float = 0.7,
) -> PointGPTPretraining:
    """What `point_gpt` of the same sizes is pretrained as."""
    return PointGPTPretraining(
        tokenizer=_tokenizer(dim, in_channels, widths, num_patches, patch_size),
        extractor=pre_norm_encoder(dim, depth=depth, num_heads=num_heads, causal=True),
        generator=pre_norm_encoder(dim, depth=generator_depth, num_heads=num_heads, causal=True),
        dim=dim, in_channels=in_channels, mask_ratio=mask_ratio,
    )  # fmt: skip


def point_gpt_small(num_classes: int = 40, in_channels: int = 3) -> PointGPT:
    """4 layers of 128 channels, 64 patches of 16 points, for training on a CPU."""
    return point_gpt(num_classes, in_channels, dim=128, depth=4, num_heads=4, patch_size=16, widths=(32, 64))


def point_gpt_small_pretraining(in_channels: int = 3) -> PointGPTPretraining:
    """What `point_gpt_small` is pretrained as, with a generator of 2 layers."""
    return point_gpt_pretraining(
        in_channels, dim=128, depth=4, generator_depth=2, num_heads=4, patch_size=16, widths=(32, 64)
    )


def _tokenizer(
    dim: int, in_channels: int, widths: tuple[int, int], num_patches: int, patch_size: int
) -> PatchTokenizer:
    return PatchTokenizer(
        PatchEmbedding(dim, in_channels=in_channels, widths=widths),
        SinusoidalPosition(dim, unit=1 / (2 * math.pi)),  # for shapes of a size of one: wavelengths from 1 to 10000
        num_patches=num_patches, patch_size=patch_size, order="morton",
    )  # fmt: skip
