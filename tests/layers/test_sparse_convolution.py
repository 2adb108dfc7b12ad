import copy
import importlib.util
import itertools
import sys

import pytest
import torch
from torch.nn import functional

from pctransformer.layers.sparse_convolution import SparseConv3d, SubmanifoldConv3d
from pctransformer.voxels import Grid, VoxelBatch

GRID = Grid((0, 0, 0), (0.1, 0.1, 0.2), (4, 6, 5))


def cloud(channels: int = 3, shares=(0.3, 0.0, 1.0, 0.02), grid: Grid = GRID, dtype=torch.float32) -> VoxelBatch:
    """Clouds of random cells: some, none, all of the grid, few."""
    generator = torch.Generator().manual_seed(0)
    cells = [torch.rand(grid.shape, generator=generator) < share for share in shares]
    coordinates = torch.stack(cells).nonzero()
    features = torch.randn(len(coordinates), channels, generator=generator, dtype=dtype)
    return VoxelBatch.from_coordinates(coordinates, features, grid, len(shares))


def dense(voxels: VoxelBatch) -> torch.Tensor:
    """(B, C, nz, ny, nx) with zeros where no cell is."""
    out = voxels.features.new_zeros(len(voxels), *voxels.grid.shape, voxels.features.shape[1])
    out[tuple(voxels.coordinates.long().T)] = voxels.features
    return out.permute(0, 4, 1, 2, 3)


def at_cells(grid: torch.Tensor, voxels: VoxelBatch) -> torch.Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(voxels.coordinates.long().T)]


@pytest.fixture(params=["torch", "spconv"])
def backend(request) -> str:
    """Both backends; the second where it is installed."""
    if request.param == "spconv":
        need_spconv()
    return request.param


def need_spconv() -> None:
    if importlib.util.find_spec("spconv") is None:
        pytest.skip("spconv is not installed: pip install 'pctransformer[spconv]'")


@pytest.mark.parametrize("kernel_size", [1, 3, (3, 1, 1), (1, 3, 5), 5])
def test_submanifold_is_dense_convolution_read_at_the_cells(kernel_size, backend):
    """Empty cells are zeros to a dense convolution, of whose output the occupied cells are kept."""
    torch.manual_seed(0)
    conv, voxels = SubmanifoldConv3d(3, 4, kernel_size, backend=backend), cloud()
    padding = [size // 2 for size in conv.kernel_size]
    out = conv(voxels)
    expected = functional.conv3d(dense(voxels), conv.weight.permute(0, 4, 1, 2, 3), conv.bias, padding=padding)
    torch.testing.assert_close(out.features, at_cells(expected, voxels), rtol=1e-4, atol=1e-5)
    assert torch.equal(out.coordinates, voxels.coordinates)
    assert out.grid == voxels.grid


STRIDED = [
    (3, 2, 1),
    (3, 2, (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), 0),
    (2, 2, 0),
    (3, 1, 1),
    (1, 2, 0),
    ((2, 3, 4), (1, 3, 2), (1, 0, 2)),
]


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), STRIDED)
def test_strided_is_dense_convolution(kernel_size, stride, padding, backend):
    torch.manual_seed(0)
    conv = SparseConv3d(3, 4, kernel_size, stride=stride, padding=padding, bias=False, backend=backend)
    voxels = cloud(shares=(0.05, 0.0, 1.0, 0.02))
    out = conv(voxels)
    expected = functional.conv3d(
        dense(voxels), conv.weight.permute(0, 4, 1, 2, 3), stride=conv.stride, padding=conv.padding
    )
    assert out.grid.shape == expected.shape[2:]
    torch.testing.assert_close(dense(out), expected, rtol=1e-4, atol=1e-5)
    # the cells are exactly those from which the kernel sees an occupied one
    reached = functional.conv3d(
        dense(voxels.replace(features=torch.ones(len(voxels.features), 1))),
        torch.ones(1, 1, *conv.kernel_size), stride=conv.stride, padding=conv.padding,
    )  # fmt: skip
    assert torch.equal(out.coordinates.long(), (reached[:, 0] > 0).nonzero())
    assert out.lengths.tolist() == [int((of > 0).sum()) for of in reached]


def test_by_hand():
    """Two neighbours along x and one cell apart; weights 1, 10, 100 for left, middle, right."""
    grid = Grid((0, 0, 0), (1, 1, 1), (1, 1, 5))
    voxels = VoxelBatch.from_coordinates(
        torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 4]]), torch.tensor([[1.0], [2], [3]]), grid, 1
    )
    conv = SubmanifoldConv3d(1, 1, (1, 1, 3), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 10, 100]).view(1, 1, 1, 3, 1))
    assert conv(voxels).features[:, 0].tolist() == [210, 21, 30]
    strided = SparseConv3d(1, 1, (1, 1, 3), stride=(1, 1, 2), padding=(0, 0, 1), bias=False)
    strided.load_state_dict(conv.state_dict())
    out = strided(voxels)
    assert out.coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert out.features[:, 0].tolist() == [210, 2, 30]
    assert out.centers[:, 0].tolist() == [0.5, 2.5, 4.5]  # of the cells in the middle of what each saw


def test_neighbours_do_not_wrap_around_edges_or_clouds():
    """The last cell of a row, plane or cloud and the first of the next are neighbours in memory alone."""
    corners = torch.tensor(list(itertools.product(range(3), (0, 3), (0, 5), (0, 4))))
    voxels = VoxelBatch.from_coordinates(corners, torch.ones(len(corners), 1), GRID, 3)
    for kernel_size in (3, 5):
        conv = SubmanifoldConv3d(1, 1, kernel_size, bias=False)
        middle = conv.weight[0, kernel_size // 2, kernel_size // 2, kernel_size // 2, 0]
        torch.testing.assert_close(conv(voxels).features, middle.expand(24, 1))


@pytest.mark.parametrize("layer", [SubmanifoldConv3d, SparseConv3d])
@pytest.mark.parametrize("count", [0, 1])
def test_no_cells_and_one(layer, count, backend):
    torch.manual_seed(0)
    voxels = VoxelBatch.from_coordinates(
        torch.tensor([[1, 2, 3, 3]])[:count], torch.ones(count, 3, requires_grad=True), GRID, 2
    )
    conv = layer(3, 4, 3, backend=backend)
    out = conv(voxels)
    cells = count if layer is SubmanifoldConv3d else count * 4  # z is even: one cell of two; y and x reach two each
    assert out.features.shape == (cells, 4)
    assert out.lengths.tolist() == [0, cells]
    out.features.sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("layer", [SubmanifoldConv3d, SparseConv3d])
def test_gradients(layer):
    torch.manual_seed(0)
    voxels = cloud(2, shares=(0.1, 0.0, 0.05), dtype=torch.float64)
    conv = layer(2, 3, 3).double()
    rules = conv.rules(voxels)

    def function(features, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(conv, parameters, (voxels.replace(features=features), rules)).features

    inputs = (voxels.features.requires_grad_(), conv.weight, conv.bias)
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("layer", [SubmanifoldConv3d, SparseConv3d])
def test_both_backends_agree_with_their_gradients(layer):
    need_spconv()
    grid = Grid((0, 0, 0), (1, 1, 1), (20, 40, 40))
    voxels = cloud(16, (0.05, 0.0, 0.1), grid)
    results = []
    for backend in ("torch", "spconv"):
        torch.manual_seed(0)
        conv = layer(16, 32, 3, backend=backend)
        features = voxels.features.clone().requires_grad_()
        out = conv(voxels.replace(features=features))
        (out.features * torch.arange(32)).square().mean().backward()
        results.append((out.coordinates, out.offsets, out.features, features.grad, conv.weight.grad, conv.bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rules_are_shared_and_found_once(backend, monkeypatch):
    import pctransformer.layers.sparse_convolution as module

    torch.manual_seed(0)
    voxels = cloud()
    first, second = SubmanifoldConv3d(3, 8, backend=backend), SubmanifoldConv3d(8, 2, backend=backend)
    expected = second(first(voxels)).features
    searches = []
    search = module._submanifold_pairs
    monkeypatch.setattr(module, "_submanifold_pairs", lambda *of: searches.append(of) or search(*of))
    rules = first.rules(voxels)
    torch.testing.assert_close(second(first(voxels, rules), rules).features, expected)
    assert len(searches) == (1 if backend == "torch" else 0)
    assert len(rules.of_spconv) == (0 if backend == "torch" else 1)


def test_rules_that_do_not_fit_are_refused():
    voxels = cloud()
    rules = SubmanifoldConv3d(3, 4, 3).rules(voxels)
    with pytest.raises(ValueError, match=r"kernel of \(3, 3, 3\).*the layer has \(5, 5, 5\)"):
        SubmanifoldConv3d(3, 4, 5)(voxels, rules)
    with pytest.raises(ValueError, match="stride None"):
        SparseConv3d(3, 4, 3)(voxels, rules)
    for other in (cloud(shares=(0.2,)), voxels.replace(coordinates=voxels.coordinates.flip(0))):
        count = len(other.coordinates)
        with pytest.raises(ValueError, match=f"for {len(voxels.coordinates)} cells, these are {count} others"):
            SubmanifoldConv3d(3, 4, 3)(other, rules)
    twin = voxels.replace(coordinates=voxels.coordinates.clone())
    assert torch.equal(SubmanifoldConv3d(3, 4, 3)(twin, rules).coordinates, voxels.coordinates)


def test_half_precision_is_computed_as_float32(backend):
    torch.manual_seed(0)
    conv, voxels = SubmanifoldConv3d(3, 4, backend=backend), cloud()
    half = voxels.replace(features=voxels.features.bfloat16().requires_grad_())
    expected = conv(voxels.replace(features=half.features.float())).features
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(half).features
    out.sum().backward()
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    assert half.features.grad.dtype == torch.bfloat16


def test_results_repeat_exactly_on_any_number_of_threads():
    conv, voxels = SparseConv3d(3, 4), cloud(grid=Grid((0, 0, 0), (1, 1, 1), (8, 30, 30)))
    threads, results = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            features = voxels.features.clone().requires_grad_()
            out = conv(voxels.replace(features=features)).features
            results.append((out, *torch.autograd.grad(out.square().sum(), [features, conv.weight])))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


def test_parameters_start_as_those_of_torch():
    """Within 1 / sqrt(fan in), and nearly up to it; and they are shown, copied and saved as any layer's."""
    torch.manual_seed(0)
    conv = SparseConv3d(8, 32, (3, 1, 3), stride=(2, 1, 2), padding=(1, 0, 1))
    bound = (8 * 9) ** -0.5
    for parameter in conv.parameters():
        assert 0.9 * bound < parameter.abs().max() <= bound
    assert conv.weight.shape == (32, 3, 1, 3, 8)
    assert repr(conv) == (
        "SparseConv3d(8, 32, kernel_size=(3, 1, 3), stride=(2, 1, 2), padding=(1, 0, 1), bias=True, backend='auto')"
    )
    assert torch.equal(copy.deepcopy(conv)(cloud(8)).features, conv(cloud(8)).features)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SubmanifoldConv3d(3, 4, 2), r"odd, got \(2, 2, 2\)"),
        (lambda: SubmanifoldConv3d(3, 4, (3, 3)), "one number or three"),
        (lambda: SubmanifoldConv3d(0, 4), "in_channels"),
        (lambda: SparseConv3d(3, 4, stride=0), "stride must be at least 1"),
        (lambda: SparseConv3d(3, 4, backend="cudnn"), "backend must be one of"),
        (lambda: SubmanifoldConv3d(5, 4)(cloud()), "takes 5 channels, the cells have 3"),
        (lambda: SparseConv3d(3, 4, 7, padding=0)(cloud()), "does not fit into a grid"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_spconv_is_explained_where_it_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    with pytest.raises(ImportError, match=r"pctransformer\[spconv\]"):
        SubmanifoldConv3d(3, 4, backend="spconv")(cloud())
