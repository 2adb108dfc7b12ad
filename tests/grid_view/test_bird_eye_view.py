import pytest
import torch
from torch.nn import functional

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.voxels import BevMap, Grid

GRID = Grid((0, -4, -3), (0.5, 0.5, 4), (1, 16, 8))
SIZES = {"layers": (1, 2), "strides": (2, 2), "widths": (6, 8), "up_strides": (1, 2), "up_widths": (5, 7)}


def backbone(**sizes) -> BevBackbone:
    torch.manual_seed(0)
    return BevBackbone(3, **{**SIZES, **sizes})


def bev(grid: Grid = GRID) -> BevMap:
    generator = torch.Generator().manual_seed(0)
    return BevMap(torch.randn(2, 3, *grid.shape[1:], generator=generator), grid)


def by_the_letter(model: BevBackbone, x: torch.Tensor) -> torch.Tensor:
    """From the weights alone: zeros around the map, convolution, norm over the batch, ReLU; then larger maps."""
    weights = dict(model.named_parameters())

    def normed(y: torch.Tensor, name: str) -> torch.Tensor:
        y = functional.batch_norm(y, None, None, weights[f"{name}.weight"], weights[f"{name}.bias"], True, eps=1e-3)
        return y.relu()

    maps = []
    for b, (count, stride, up) in enumerate(zip((1, 2), (2, 2), (1, 2))):
        for i in range(count + 1):
            x = functional.pad(x, (1, 1, 1, 1))
            x = functional.conv2d(x, weights[f"blocks.{b}.{3 * i}.weight"], stride=stride if i == 0 else 1)
            x = normed(x, f"blocks.{b}.{3 * i + 1}")
        kernel = weights[f"ups.{b}.0.weight"]  # (in, out, up, up): every cell becomes a square of its own
        larger = torch.einsum("bcyx,cduv->bdyuxv", x, kernel).flatten(4, 5).flatten(2, 3)
        assert larger.shape[2] == x.shape[2] * up
        maps.append(normed(larger, f"ups.{b}.1"))
    return torch.cat(maps, 1)


def test_is_the_equation():
    model, given = backbone(), bev()
    out = model(given).features
    assert out.shape == (2, 12, 8, 4)
    torch.testing.assert_close(out, by_the_letter(model, given.features), rtol=1e-4, atol=1e-5)


def test_norms_are_those_of_published_code():
    norms = [layer for layer in backbone().modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert len(norms) == 5 + 2
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("sizes", "grid"),
    [
        # a kernel of three cells around every second one: centred on the first of two, half a cell before their middle
        ({}, Grid((-0.25, -4.25, -3), (1, 1, 4), (1, 8, 4))),
        ({"strides": (1, 2)}, Grid((0, -4, -3), (0.5, 0.5, 4), (1, 16, 8))),
        ({"strides": (1, 2), "up_strides": (2, 4)}, Grid((0, -4, -3), (0.25, 0.25, 4), (1, 32, 16))),
    ],
)
def test_grids(sizes, grid):
    model = backbone(**sizes)
    out = model(bev())
    assert out.grid == model.out_grid(GRID) == grid
    assert out.features.shape[1] == model.out_channels == 12


def test_a_cell_is_where_its_grid_says():
    """With one layer that sums its kernel, what a single input cell becomes is centred on that cell."""
    model = BevBackbone(1, layers=(0,), strides=(2,), widths=(1,), up_strides=(1,), up_widths=(1,)).eval()
    torch.nn.init.ones_(model.blocks[0][0].weight)
    torch.nn.init.ones_(model.ups[0][0].weight)
    features = torch.zeros(1, 1, 16, 8)
    features[0, 0, 6, 4] = 1  # seen by the cell in the middle of whose kernel it is, and by no other
    out = model(BevMap(features, GRID))
    [[_, y, x]] = (out.features[0] > 0.1).nonzero().tolist()
    cells = torch.tensor([[0, y, x]]), torch.tensor([[0, 6, 4]])
    torch.testing.assert_close(out.grid.centers(cells[0]), GRID.centers(cells[1]))


@pytest.mark.parametrize("half", [True, False])
def test_channels_come_last_in_memory(half):
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = backbone()(bev()).features
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype == (torch.bfloat16 if half else torch.float32)


def test_half_precision_is_close():
    model = backbone().eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(bev()).features
    torch.testing.assert_close(out.float(), model(bev()).features, rtol=0.05, atol=0.05)  # 8 bits, five layers


def test_every_weight_has_a_gradient_and_it_repeats(deterministic_algorithms):
    def gradients() -> list[torch.Tensor]:
        model = backbone()
        model(bev()).features.square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))


def test_faults():
    with pytest.raises(ValueError, match="widths must have one number for each of 2 blocks"):
        backbone(widths=(6,))
    with pytest.raises(ValueError, match="one size to be put side by side"):
        backbone(up_strides=(1, 1))
    with pytest.raises(ValueError, match="multiples of 4 cells"):
        backbone()(bev(Grid((0, 0, 0), (1, 1, 1), (1, 6, 8))))
