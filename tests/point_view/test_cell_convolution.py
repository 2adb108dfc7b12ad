import torch

from pctransformer.point_view.cell_convolution import CellConvolution, ConvolutionalPosition, occupy
from pctransformer.point_view.serialization import coarsen, serialize
from pctransformer.points import PointBatch


def clouds() -> PointBatch:
    generator = torch.Generator().manual_seed(3)
    return PointBatch.from_list([torch.randn(n, 5, generator=generator) for n in (60, 0, 1, 25)])


def by_loop(layer: CellConvolution, points: PointBatch, cells: torch.Tensor) -> torch.Tensor:
    """For each point, over all cells around its own: weight times the mean of the features of the points in them."""
    weight, radius = layer.conv.weight, layer.conv.kernel_size[0] // 2
    out = torch.zeros(len(cells), weight.shape[0])
    for n, (cloud, cell) in enumerate(zip(points.batch_index, cells)):
        if layer.conv.bias is not None:
            out[n] += layer.conv.bias
        for other in torch.unique(cells[points.batch_index == cloud], dim=0):
            x, y, z = (other - cell + radius).tolist()
            if min(x, y, z) >= 0 and max(x, y, z) <= 2 * radius:
                there = (points.batch_index == cloud) & (cells == other).all(1)
                out[n] += weight[:, z, y, x] @ points.features[there].mean(0)
    return out


def test_convolution_by_a_loop():
    """Of kernels of 3 cells, for which rules are at hand, and of 5; points of one cell share the result."""
    torch.manual_seed(0)
    points = clouds()
    level = serialize(points, 0.5, ("morton",)).with_occupied()
    assert len(level.occupied.voxels.coordinates) < len(points.xyz)
    assert level.with_occupied() is level
    for kernel_size, bias in ((3, True), (5, False)):
        layer = CellConvolution(2, 3, kernel_size, bias=bias)
        out = layer(points.features, level.occupied)
        torch.testing.assert_close(out, by_loop(layer, points, level.cells), rtol=1e-4, atol=1e-5)


def test_cells_of_coarser_levels():
    level = serialize(clouds(), 0.25, ("morton", "hilbert"))
    for _ in range(3):
        joined = coarsen(level)
        coarse = joined.coarse.with_occupied()
        assert torch.equal(coarse.cells[joined.parent], level.cells >> 1)
        # one point in each cell, so that rows of cells are points in another order
        assert sorted(coarse.occupied.cell_of_point.tolist()) == list(range(len(coarse.cells)))
        assert torch.equal(coarse.occupied.voxels.offsets, coarse.points.offsets)
        level = joined.coarse


def test_position_by_formula():
    torch.manual_seed(0)
    points = clouds()
    level = serialize(points, 0.5, ("morton",)).with_occupied()
    position = ConvolutionalPosition(2)
    features = position.convolution(points.features, level.occupied)
    expected = position.norm(position.proj(features))
    torch.testing.assert_close(position(points.features, level.occupied), expected)


def test_no_points():
    points = PointBatch.from_list([torch.zeros(0, 5)])
    occupied = occupy(points, torch.zeros(0, 3, dtype=torch.int64))
    assert CellConvolution(2, 3, 3)(points.features, occupied).shape == (0, 3)
