import dataclasses

import pytest
import torch

from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid, VoxelBatch, cell_key, cells_of_key, occupied_cells, offsets_of_key

GRID = Grid.from_range((0, -2, -1, 4, 2, 1), (1, 2, 0.5))


def clouds() -> PointBatch:
    generator = torch.Generator().manual_seed(0)
    low, size = torch.tensor([-0.5, -2.5, -1.2]), torch.tensor([5, 5, 2.4])
    return PointBatch.from_list(
        [torch.cat([low + size * torch.rand(n, 3, generator=generator), torch.rand(n, 2)], 1) for n in (200, 0, 1, 30)]
    )


class TestGrid:
    def test_axes(self):
        assert GRID.shape == (4, 2, 4)
        assert GRID.high == (4, 2, 1)
        cells, inside = GRID.cells(
            torch.tensor([[3.5, -0.5, 0.1], [0, -2, -1], [4, 0, 0], [0, 2, 0], [torch.nan, 0, 0]])
        )
        assert inside.tolist() == [True, True, False, False, False]  # lower faces belong to a cell, upper ones do not
        assert cells.tolist() == [[2, 0, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
        assert GRID.centers(torch.tensor([[2, 0, 3]])).tolist() == [[3.5, -1, 0.25]]

    def test_centres_are_in_their_cells(self):
        cells = torch.ones(GRID.shape).nonzero()
        found, inside = GRID.cells(GRID.centers(cells))
        assert inside.all()
        assert torch.equal(found, cells)

    def test_known_ranges(self):
        assert Grid.from_range((0, -39.68, -3, 69.12, 39.68, 1), (0.16, 0.16, 4)).shape == (1, 496, 432)  # PointPillars
        assert Grid.from_range((-75.2, -75.2, -2, 75.2, 75.2, 4), (0.1, 0.1, 0.15)).shape == (40, 1504, 1504)

    def test_convolved_cells_are_centred_on_what_they_saw(self):
        coarse = GRID.convolved((3, 2, 1), (2, 2, 1), (1, 0, 0))
        assert coarse.shape == (2, 1, 4)
        assert coarse.voxel_size == (1, 4, 1)
        # the first cell along z sees cells -1, 0, 1; along y cells 0 and 1; along x cell 0
        torch.testing.assert_close(coarse.centers(torch.tensor([[0, 0, 0]])), torch.tensor([[0.5, 0.0, -0.75]]))
        assert GRID.convolved((3, 3, 3), (1, 1, 1), (1, 1, 1)) == GRID

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: Grid.from_range((0, 0, 0, 1, 1, 1), (0.3, 1, 1)), "end it at 1.2"),
            (lambda: Grid.from_range((0, 0, 0, 1, -1, 1), (1, 1, 1)), "along y, 0 to -1, is -1 cells"),
            (lambda: Grid.from_range((0, 0, 0, 1, 1), (1, 1, 1)), "six numbers"),
            (lambda: Grid.from_range((0, 0, 0, 1, 1, 1), (1, 0, 1)), "voxel_size must be above 0"),
            (lambda: Grid((0, 0, 0), (1, 1, 1), (1, 1, 0)), "shape must be between 1"),
            (lambda: Grid((0, 0), (1, 1, 1), (1, 1, 1)), "low must be three numbers"),
            (lambda: Grid((0, 0, 0), (1, 1, 1), (2**16, 2**16, 2**16 + 1)), r"2\^48 cells"),
            (lambda: GRID.convolved((5, 3, 3), (1, 1, 1), (0, 0, 0)), "does not fit into a grid"),
        ],
    )
    def test_errors(self, make, text):
        with pytest.raises(ValueError, match=text):
            make()

    def test_largest(self):
        assert Grid((0, 0, 0), (1, 1, 1), (2**16, 2**16, 2**16)).shape == (2**16,) * 3


def test_keys_number_cells_in_their_order():
    coordinates = torch.ones(3, *GRID.shape).nonzero()
    key = cell_key(coordinates, GRID.shape)
    assert torch.equal(key, torch.arange(len(coordinates)))
    assert torch.equal(cells_of_key(key, GRID.shape), coordinates.int())
    assert offsets_of_key(key, 4, GRID.shape).tolist() == [0, 32, 64, 96, 96]


def test_occupied_cells_by_a_loop():
    points = clouds()
    coordinates, offsets, cell_of_point = occupied_cells(points, GRID)
    expected: dict[tuple[int, ...], list[int]] = {}
    for n, (cloud, xyz) in enumerate(zip(points.batch_index.tolist(), points.xyz.double())):
        x, y, z = ((xyz - torch.tensor(GRID.low)) / torch.tensor(GRID.voxel_size)).floor().int().tolist()
        if 0 <= z < 4 and 0 <= y < 2 and 0 <= x < 4:
            expected.setdefault((cloud, z, y, x), []).append(n)
    assert [tuple(cell) for cell in coordinates.tolist()] == sorted(expected)
    for row, cell in enumerate(sorted(expected)):
        assert (cell_of_point == row).nonzero()[:, 0].tolist() == expected[cell]
    assert (cell_of_point == -1).sum() == 231 - sum(map(len, expected.values())) > 0
    assert offsets.tolist() == [sum(cell[0] < b for cell in expected) for b in range(5)]


def test_from_points_takes_the_mean():
    points = clouds()
    voxels = VoxelBatch.from_points(points, GRID)
    _, _, cell_of_point = occupied_cells(points, GRID)
    channels = torch.cat([points.xyz, points.features], 1)
    for row in (0, 5, len(voxels.coordinates) - 1):
        torch.testing.assert_close(voxels.features[row], channels[cell_of_point == row].mean(0))
    assert len(voxels) == 4
    assert voxels.lengths[1] == 0
    assert torch.equal(VoxelBatch.from_points(points.replace(features=None), GRID).features, voxels.features[:, :3])


def test_from_coordinates_sorts():
    generator = torch.Generator().manual_seed(0)
    voxels = VoxelBatch.from_points(clouds(), GRID)
    order = torch.randperm(len(voxels.coordinates), generator=generator)
    again = VoxelBatch.from_coordinates(voxels.coordinates[order].long(), voxels.features[order], GRID, 4)
    for name in ("coordinates", "features", "offsets"):
        assert torch.equal(getattr(again, name), getattr(voxels, name))
    assert again.coordinates.dtype == torch.int32
    assert again.coordinates.is_contiguous()


def test_copies():
    voxels = VoxelBatch.from_points(clouds(), GRID)
    doubled = voxels.replace(features=voxels.features * 2)
    assert doubled.coordinates is voxels.coordinates
    assert torch.equal(voxels.to("cpu").features, voxels.features)
    with pytest.raises(dataclasses.FrozenInstanceError):
        voxels.features = doubled.features
    assert repr(voxels) == (
        f"VoxelBatch(4 clouds, {len(voxels.coordinates)} cells of (4, 2, 4), features"
        f" ({len(voxels.coordinates)}, 5), cpu)"
    )


def test_to_points():
    voxels = VoxelBatch.from_points(clouds(), GRID)
    points = voxels.to_points().validate()
    assert points.offsets is voxels.offsets
    assert points.features is voxels.features
    cells, inside = GRID.cells(points.xyz)
    assert inside.all()
    assert torch.equal(cells, voxels.coordinates[:, 1:].long())


class TestBevMap:
    def test_heights_become_channels(self):
        voxels = VoxelBatch.from_points(clouds(), GRID)
        bev = BevMap.from_voxels(voxels)
        expected = torch.zeros(4, 5, *GRID.shape)  # (B, C, nz, ny, nx)
        for (b, z, y, x), features in zip(voxels.coordinates.tolist(), voxels.features):
            expected[b, :, z, y, x] = features
        assert torch.equal(bev.features, expected.reshape(4, 20, 2, 4))
        assert bev.features.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("reduce", ["max", "mean"])
    def test_tokens_go_to_their_columns(self, reduce):
        points = clouds()
        bev = BevMap.from_tokens(points, GRID, reduce)
        cells, inside = GRID.cells(points.xyz)
        assert bev.features.shape == (4, 2, 2, 4)
        assert (bev.features[1] == 0).all()
        for b, y, x in ((0, 0, 0), (0, 1, 3), (3, 1, 2), (2, 0, 0)):
            there = inside & (points.batch_index == b) & (cells[:, 1] == y) & (cells[:, 2] == x)
            of_column = points.features[there]
            total = of_column.amax(0) if reduce == "max" and there.any() else of_column.sum(0) / max(len(of_column), 1)
            torch.testing.assert_close(bev.features[b, :, y, x], total)

    def test_gradients_repeat_exactly(self):
        torch.use_deterministic_algorithms(True)
        try:
            points = clouds()
            features = points.features.clone().requires_grad_()
            bev = BevMap.from_tokens(points.replace(features=features), GRID, "mean")
            bev.features.sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        _, inside = GRID.cells(points.xyz)
        assert torch.equal(features.grad[:, 0] > 0, inside)
        columns = (bev.features.detach() != 0).any(1).sum()
        torch.testing.assert_close(features.grad[:, 0].sum(), columns.float())  # a column's points share 1

    def test_no_tokens(self):
        empty = PointBatch.from_list([torch.zeros(0, 5)])
        assert BevMap.from_tokens(empty, GRID).features.shape == (1, 2, 2, 4)
        assert BevMap.from_voxels(VoxelBatch.from_points(empty, GRID)).features.shape == (1, 20, 2, 4)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"ny, nx = \(2, 4\)"):
            BevMap(torch.zeros(1, 3, 4, 2), GRID)
        with pytest.raises(ValueError, match="must have features"):
            BevMap.from_tokens(PointBatch.from_list([torch.zeros(1, 3)]), GRID)


@pytest.mark.parametrize(
    ("coordinates", "features", "text"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(2, 1), r"\(M, 4\): batch, z, y, x"),
        (torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0]]), torch.zeros(2, 1), r"cell \[0, 0, 0, 0\] .* comes twice"),
        (torch.tensor([[0, 0, 2, 0]]), torch.zeros(1, 1), r"cell \[0, 0, 2, 0\] .* check the order of axes"),
        (torch.tensor([[1, 0, 0, 0]]), torch.zeros(1, 1), "not one of 1 grids"),
        (torch.tensor([[0, 0, 0, 0]]), torch.zeros(2, 1), "one row for each of 1 cells"),
    ],
)
def test_wrong_cells_are_explained(coordinates, features, text):
    with pytest.raises(ValueError, match=text):
        VoxelBatch.from_coordinates(coordinates, features, GRID, 1)


def test_wrong_types_are_explained():
    with pytest.raises(TypeError, match="whole numbers"):
        VoxelBatch.from_coordinates(torch.zeros(1, 4), torch.zeros(1, 1), GRID, 1)
    with pytest.raises(TypeError, match="must be int32"):
        VoxelBatch(torch.zeros(1, 4).long(), torch.zeros(1, 1), torch.tensor([0, 1]), GRID)
