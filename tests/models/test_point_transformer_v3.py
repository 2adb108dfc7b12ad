import pytest
import torch

from pctransformer.models import create_model
from pctransformer.points import PointBatch

DIMS = [32] * 2 + [64] * 2 + [128] * 2 + [256] * 6 + [512] * 2
UP_DIMS = [64] * 4 + [128] * 2 + [256] * 2


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(dims: list[int]) -> int:
    """What the published network has on top: in front of each block a convolution of 3^3 cells with bias, a linear
    layer and a LayerNorm; and a stem of 5^3 cells in place of a linear layer."""
    return sum(27 * c * c + c + c * c + c + 2 * c for c in dims) + (5**3 - 1) * 6 * 32


def test_published_sizes_less_their_convolutions():
    """Counted in Pointcept for 6 channels: 38 672 640 down, 46 166 272 down and up, without heads."""
    classifier = create_model("point_transformer_v3")
    assert size(classifier) == 11_912_616
    assert size(classifier.encoder) + convolutions(DIMS) == 38_672_640
    segmenter = create_model("point_transformer_v3_seg")
    assert size(segmenter) - size(segmenter.head) + convolutions(DIMS + UP_DIMS) == 46_166_272


def small(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"dims": (16, 32, 48), "depths": (1, 2, 1), "patch_size": 16, "cell_size": 0.1}
    return create_model("point_transformer_v3", num_classes=5, in_channels=3, **(shape | options)).eval()


def test_levels_join_cells_of_twice_the_size():
    points = torch.rand(2, 300, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels, joined = small().encoder(PointBatch.from_dense(points))
    for level, found in enumerate(levels):
        cells = ((points / 0.1).floor() - (points / 0.1).floor().amin(1, keepdim=True)).long() >> level
        expected = [300, 300] if level == 0 else [len(torch.unique(cloud, dim=0)) for cloud in cells]
        assert found.points.lengths.tolist() == expected
    assert len(joined) == 2


def test_evaluation_repeats_and_training_shuffles():
    points = torch.rand(2, 100, 3, generator=torch.Generator().manual_seed(0))
    model = small(depths=(2, 2, 2), drop_path=0.0)
    assert torch.equal(model(points), model(points))
    model.encoder.train()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.eval()
    outputs = [model(points) for _ in range(4)]
    assert any(not torch.allclose(outputs[0], other) for other in outputs[1:])


def test_position_makes_the_difference():
    """The same points a little apart: attention without positions sees it in the stem only."""
    assert size(small(position="none")) == size(small())
    points = torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(small(position="none")(points), small()(points))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"position": "sparse_convolution"}, "the sparse convolutions of the paper are not there"),
        ({"dims": (16, 40, 48)}, "multiples of 16"),
        ({"cell_size": -1.0}, "cell_size"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        small(**options)(torch.rand(1, 10, 3))


def test_gradients_repeat_exactly():
    points = torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(0))

    def gradient() -> list[torch.Tensor]:
        model = small()
        model(points).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, gradient(), gradient()))
    finally:
        torch.use_deterministic_algorithms(False)
