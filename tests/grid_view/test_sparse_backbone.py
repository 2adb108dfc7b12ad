import pytest
import torch
from torch.nn import functional

from pctransformer.grid_view.sparse_backbone import SparseBackbone, SparseLayer
from pctransformer.grid_view.voxel_features import MeanVoxelFeatures
from pctransformer.layers import sparse_convolution
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid, VoxelBatch
from tests.grid_view.small import clouds

GRID = Grid((0, 0, 0), (0.5, 0.5, 0.5), (20, 16, 16))
SMALL = {"widths": (4, 6, 8), "z_padding": (1, 0), "out_channels": 10}


def voxels_of(lengths: tuple[int, ...], grid: Grid = GRID) -> VoxelBatch:
    return MeanVoxelFeatures(grid)(clouds(lengths, grid.low, grid.high))


def backbone(**options) -> SparseBackbone:
    """With norms that have learned something."""
    torch.manual_seed(0)
    made = SparseBackbone(4, **{**SMALL, **options})
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.bias)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    return made


def dense_layer(layer: SparseLayer, x: torch.Tensor, occupied: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer on dense grids (B, C, nz, ny, nx), and which of their cells are occupied (B, 1, nz, ny, nx)."""
    conv, norm = layer.conv, layer.norm
    stride = conv.stride or (1, 1, 1)
    x = functional.conv3d(x, conv.weight.permute(0, 4, 1, 2, 3), stride=stride, padding=conv.padding)
    if conv.stride is not None:
        reach = torch.ones(1, 1, *conv.kernel_size)
        occupied = functional.conv3d(occupied, reach, stride=stride, padding=conv.padding).clamp(max=1)
    x = functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    return x.relu() * occupied, occupied


def test_the_published_size():
    """Layer by layer as in OpenPCDet's VoxelBackBone8x: 711 872 weights, 41 heights to 2."""
    model = SparseBackbone(4)
    assert sum(parameter.numel() for parameter in model.parameters()) == 711_872
    grid = model.out_grid(Grid.from_range((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1)))
    assert grid.shape == (2, 200, 176)
    assert grid.voxel_size == pytest.approx((0.4, 0.4, 1.6))
    # a cell is centred on what its kernels see: three strides of two move it by 0.5, 1 and 2 voxels
    assert grid.low == pytest.approx((-3.5 * 0.05, -40 - 3.5 * 0.05, -3 + 0.45))
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_is_dense_convolution_where_cells_are_occupied():
    voxels, model = voxels_of((60, 0, 1, 200)), backbone().eval()
    shape = (len(voxels), 21, 16, 16)  # one more height on top
    x = torch.zeros(*shape, 4)
    x[tuple(voxels.coordinates.long().T)] = voxels.features
    x = x.permute(0, 4, 1, 2, 3)
    occupied = torch.zeros(*shape)
    occupied[tuple(voxels.coordinates.long().T)] = 1
    occupied = occupied[:, None]
    for layer in model.modules():  # in the order of their definition, which is that of data
        if isinstance(layer, SparseLayer):
            x, occupied = dense_layer(layer, x, occupied)
    out = model(voxels)
    assert out.grid == model.out_grid(voxels.grid)
    assert out.grid.shape == x.shape[2:]
    assert torch.equal(out.coordinates, occupied[:, 0].nonzero().int())
    torch.testing.assert_close(BevMap.from_voxels(out).features, x.flatten(1, 2), rtol=1e-4, atol=1e-5)


def test_rules_are_found_once_for_each_stage(monkeypatch):
    found = []
    search = sparse_convolution._submanifold_pairs
    monkeypatch.setattr(
        sparse_convolution, "_submanifold_pairs", lambda voxels, size: found.append(size) or search(voxels, size)
    )
    backbone()(voxels_of((60,)))
    assert len(found) == 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [(0,), (1,), (0, 30, 0)])
def test_clouds_of_next_to_nothing(lengths, training):
    model = backbone().train(training)
    out = model(voxels_of(lengths))
    assert len(out) == len(lengths)
    assert out.features.isfinite().all()
    out.features.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_points_all_outside():
    points = PointBatch.from_list([torch.full((5, 4), 99.0)])
    bev = BevMap.from_voxels(backbone()(MeanVoxelFeatures(GRID)(points)))
    assert torch.equal(bev.features, torch.zeros(1, 20, 4, 4))


def test_every_weight_has_a_gradient_and_it_repeats(deterministic_algorithms):
    def gradients() -> list[torch.Tensor]:
        model = backbone()
        model(voxels_of((100, 50))).features.square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))


def test_autocast_leaves_it_in_float32():
    voxels, model = voxels_of((100,)), backbone().eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(voxels).features
    torch.testing.assert_close(out, model(voxels).features, rtol=1e-6, atol=1e-6)


def test_faults():
    with pytest.raises(ValueError, match="one number for each of 2 strided layers"):
        backbone(z_padding=(1, 1, 0))
    with pytest.raises(ValueError, match="does not fit"):
        backbone()(voxels_of((5,), Grid((0, 0, 0), (1, 1, 1), (2, 8, 8))))
