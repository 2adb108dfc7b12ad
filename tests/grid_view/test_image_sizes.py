"""Stages of grid mixers put together as the image classifiers that they come from: published sizes, counted exactly.

Images of 224 x 224 pixels, 1000 classes. Nothing is computed: parameters and maps are on the meta device.
"""

import pytest
import torch
from torch import Tensor, nn

from pctransformer.grid_view.mixer_pyramid import MixerStages, mixer_stages
from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst
from pctransformer.models.cost import Cost, cost

TINY, BASE = (2, 8, 14, 2), (2, 10, 24, 2)
LOCAL = {"scope": "local"}


class ImageClassifier(nn.Module):
    """Stages, a norm, the mean over the last map, logits."""

    def __init__(self, stages: MixerStages, norm: nn.Module, dim: int) -> None:
        super().__init__()
        self.stages, self.norm, self.head = stages, norm, nn.Linear(dim, 1000)

    def forward(self, image: Tensor) -> Tensor:  # (B, 224, 224, 3)
        return self.head(self.norm(self.stages(image)[-1]).mean((1, 2)))


def smlpnet(width: int, depths: tuple[int, ...], **options) -> Cost:
    dims = [width * 2**stage for stage in range(4)]
    with torch.device("meta"):
        stages = mixer_stages(3, (224, 224), patch=4, dims=dims, depths=depths, **options)
        model = ImageClassifier(stages, ChannelsFirst(nn.BatchNorm2d(dims[-1])), dims[-1])
        return cost(model, torch.empty(1, 224, 224, 3))[0]


def reckoned(width: int, depths: tuple[int, ...], ratio: int) -> int:
    """Multiply-adds of sMLPNet, layer by layer."""
    total, side, before = 56 * 56 * 48 * width, 56, None
    for stage, depth in enumerate(depths):
        dim = width * 2**stage
        if before is not None:
            side //= 2
            total += side**2 * 4 * before * dim
        total += depth * side**2 * dim * (9 + 2 * side + 3 * dim + 2 * ratio * dim)
        before = dim
    return total + before * 1000


def test_smlpnet_tiny():
    """Table 6: 24.1 M parameters, 5.0 G."""
    whole = smlpnet(80, TINY)
    assert whole.parameters == 24_123_584
    assert whole.multiply_adds == reckoned(80, TINY, 3)
    assert f"{whole.multiply_adds / 1e9:.2f}" == "4.99"


@pytest.mark.parametrize(
    ("width", "depths", "options", "millions", "billions"),
    [
        # table 6, sMLPNet-B
        (112, BASE, {}, "65.9", "14.0"),
        # table 2: from the first stage on, stages without sMLP
        (112, BASE, {"mixer_options": [LOCAL, LOCAL, {}, {}]}, "64.3", "12.4"),
        (112, BASE, {"mixer_options": [LOCAL, LOCAL, LOCAL, {}]}, "49.9", "9.5"),
        (112, BASE, {"mixer_options": LOCAL}, "45.1", "9.3"),
        # table 3: fusion
        (96, BASE, {"mixer_options": {"fusion": "sum"}}, "33.2", "7.0"),
        (96, BASE, {"mixer_options": {"fusion": "weighted"}}, "33.3", "7.0"),
        # table 1: without the convolution in front; expansion of 2
        (80, TINY, {"mlp_ratio": 2, "mixer_options": {"scope": "global"}}, "19.1", "3.9"),
    ],
)
def test_smlpnet_as_published(width, depths, options, millions, billions):
    whole = smlpnet(width, depths, **options)
    assert f"{whole.parameters / 1e6:.1f}" == millions
    assert f"{whole.multiply_adds / 1e9:.1f}" == billions


def test_smlpnet_tiny_with_an_expansion_of_two():
    """Table 1 says 4.0 G; that is these 3.95 G rounded up, or what is not a product counted too."""
    whole = smlpnet(80, TINY, mlp_ratio=2)
    assert f"{whole.parameters / 1e6:.1f}" == "19.2"
    assert f"{whole.multiply_adds / 1e9:.2f}" == "3.95"


def test_swin_tiny():
    """Its table 1: 29 M parameters, 4.5 G. Attention looks at windows of 49 cells."""
    dims, depths = (96, 192, 384, 768), (2, 2, 6, 2)
    with torch.device("meta"):
        stages = mixer_stages(
            3, (224, 224), patch=4, dims=dims, depths=depths, mixer="window_attention", mlp_ratio=4, merging="linear"
        )
        model = ImageClassifier(stages, nn.LayerNorm(768), 768)
        whole, _ = cost(model, torch.empty(1, 224, 224, 3))
    assert whole.parameters == 28_288_354
    expected, side = 56 * 56 * 48 * 96 + 768 * 1000, 56
    for dim, depth in zip(dims, depths):
        if dim > 96:
            side //= 2
            expected += side**2 * 4 * (dim // 2) * dim
        expected += depth * side**2 * (12 * dim**2 + 2 * 49 * dim)
    assert whole.multiply_adds == expected
    assert f"{whole.multiply_adds / 1e9:.2f}" == "4.49"
