import importlib.util

import pytest
import torch
from torch.nn import functional

from pctransformer.grid_view.voxel_features import DynamicVoxelFeatures, MeanVoxelFeatures, PillarFeatures
from pctransformer.layers.recording import record_attention
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch
from tests.grid_view.small import clouds

GRID = Grid((0, -2, -3), (0.5, 0.5, 0.5), (8, 8, 10))
PILLARS = Grid((0, -2, -3), (0.5, 0.5, 4), (1, 8, 10))
POINTS = clouds((200, 0, 1, 60), GRID.low, GRID.high)


def shuffled(points: PointBatch) -> PointBatch:
    """Each cloud in another order."""
    generator = torch.Generator().manual_seed(1)
    rows = [cloud[torch.randperm(len(cloud), generator=generator)] for cloud in rows_of(points)]
    return PointBatch.from_list(rows)


def rows_of(points: PointBatch) -> list[torch.Tensor]:
    return list(torch.cat([points.xyz, points.features], 1).split(points.lengths.tolist()))


def by_the_letter(features: PillarFeatures, points: PointBatch, size: int | None) -> VoxelBatch:
    """Pillar by pillar; with a size each is so many rows, zeros behind its points, as published code has it."""
    pillars: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for b, cloud in enumerate(rows_of(points)):
        for row in cloud:
            x, y, z = ((row[:3] - torch.tensor(PILLARS.low)) / torch.tensor(PILLARS.voxel_size)).floor().int().tolist()
            if z == 0 and 0 <= y < 8 and 0 <= x < 10:
                pillars.setdefault((b, 0, y, x), []).append(row)
    inputs = []
    for (_, _, y, x), members in pillars.items():
        rows = torch.stack(members[:size])
        middle = torch.tensor([x * 0.5 + 0.25, y * 0.5 - 1.75, -1])
        channels = torch.cat([rows, rows[:, :3] - rows[:, :3].mean(0), rows[:, :3] - middle], 1)
        inputs.append(functional.pad(channels, (0, 0, 0, 0 if size is None else size - len(rows))))
    hidden = features.norm(features.linear(torch.cat(inputs))).relu()
    maxima = torch.stack([rows.amax(0) for rows in hidden.split([len(rows) for rows in inputs])])
    return VoxelBatch.from_coordinates(torch.tensor(list(pillars)), maxima, PILLARS, len(points))


def layer(max_points: int | None = None, **options) -> PillarFeatures:
    """With a norm that has learned something."""
    torch.manual_seed(0)
    made = PillarFeatures(4, 16, grid=PILLARS, max_points=max_points, **options)
    torch.nn.init.normal_(made.norm.weight)
    torch.nn.init.normal_(made.norm.bias)
    made.norm.running_mean.normal_()
    made.norm.running_var.uniform_(0.5, 2)
    return made


class TestMeans:
    def test_by_hand(self):
        points = torch.tensor([[0.1, 0.1, 0.1, 1], [0.3, 0.1, 0.1, 3], [0.9, 0.1, 0.1, 5], [1.1, 0, 0, 7]])
        grid = Grid((0, 0, 0), (0.5, 0.5, 0.5), (1, 1, 2))
        voxels = MeanVoxelFeatures(grid)(PointBatch.from_list([points]))
        assert voxels.coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
        torch.testing.assert_close(voxels.features, torch.tensor([[0.2, 0.1, 0.1, 2], [0.9, 0.1, 0.1, 5]]))

    def test_without_limits_it_is_from_points(self):
        ours, theirs = MeanVoxelFeatures(GRID)(POINTS), VoxelBatch.from_points(POINTS, GRID)
        assert torch.equal(ours.coordinates, theirs.coordinates)
        assert torch.equal(ours.features, theirs.features)
        assert torch.equal(ours.offsets, theirs.offsets)

    def test_limits_keep_what_comes_first(self):
        points = torch.tensor([[0.1, 0, 0, 1], [0.7, 0, 0, 2], [0.2, 0, 0, 3], [0.3, 0, 0, 8], [1.2, 0, 0, 5]])
        grid = Grid((0, 0, 0), (0.5, 0.5, 0.5), (1, 1, 3))
        means = MeanVoxelFeatures(grid, max_points=2, max_voxels=(1, 2))
        batch = PointBatch.from_list([points])
        assert means(batch).features[:, 3].tolist() == [2]  # of 1 and 3; the 8 is one too many
        assert means.eval()(batch).features[:, 3].tolist() == [2, 2]

    def test_limits_are_at_least_one(self):
        for limits in ({"max_points": 0}, {"max_voxels": (1, 0)}):
            with pytest.raises(ValueError, match="max_points and max_voxels"):
                MeanVoxelFeatures(GRID, **limits)


class TestPillars:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("size", [None, 3, 32])
    def test_is_the_equation(self, size, training):
        """Features and gradients; in training also the running statistics. To 1e-4, since mostly zeros have a small
        variance, by whose root differences of rounding are divided."""
        results = []
        for function in (lambda model: model(POINTS), lambda model: by_the_letter(model, POINTS, size)):
            model = layer(size).train(training)
            voxels = function(model)
            voxels.features.square().sum().backward()
            gradients = [parameter.grad / parameter.grad.abs().max() for parameter in model.parameters()]
            statistics = [model.norm.running_mean, model.norm.running_var]
            results.append([voxels.coordinates, voxels.offsets, voxels.features, *gradients, *statistics])
        for ours, expected in zip(*results):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)

    def test_zeros_of_padding_matter(self):
        """What they become is the least that a pillar with fewer points can have."""
        ours, padded = layer().eval(), layer(32).eval()
        norm = ours.norm
        constant = (norm.bias - norm.weight * norm.running_mean / (norm.running_var + 1e-3).sqrt()).relu()
        without, with_zeros = ours(POINTS).features, padded(POINTS).features
        torch.testing.assert_close(with_zeros, without.maximum(constant))
        assert not torch.equal(with_zeros, without)

    @pytest.mark.parametrize("training", [True, False])
    def test_full_pillars_have_no_zeros(self, training):
        points = PointBatch.from_list([torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) * 0.5])
        model, other = layer(8).train(training), layer().train(training)
        first = PointBatch.from_list([rows_of(points)[0][:8]])
        if training:
            torch.testing.assert_close(model(points).features, by_the_letter(other, points, 8).features)
        else:  # the mean of a pillar is that of the points that count
            torch.testing.assert_close(model(points).features, other(first).features)

    def test_the_order_of_points_does_not_matter(self):
        model = layer().eval()
        torch.testing.assert_close(model(shuffled(POINTS)).features, model(POINTS).features, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("max_points", [None, 4])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(
        "rows",
        [torch.zeros(0, 4), torch.tensor([[1.0, 0, 0, 0.5]]), torch.full((5, 4), 100.0)],
        ids=["empty", "one point", "all outside"],
    )
    def test_clouds_of_next_to_nothing(self, rows, training, max_points):
        """One row has no variance, so it is normalised by the running statistics, which stay as they are."""
        model = layer(max_points).train(training)
        before = model.norm.running_var.clone()
        voxels = model(PointBatch.from_list([rows]))
        assert voxels.features.shape == (int(len(rows) == 1), 16)
        assert voxels.features.isfinite().all()
        voxels.features.sum().backward()
        assert model.linear.weight.grad.isfinite().all()
        if len(rows) != 1 or max_points is None or not training:  # else it is normalised with its three zeros
            assert torch.equal(model.norm.running_var, before)

    def test_float32_under_autocast(self):
        """x = 60 metres would be rounded to a quarter of a metre."""
        model = layer()
        with torch.autocast("cpu", torch.bfloat16):
            found = model(POINTS).features
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, layer()(POINTS).features)

    def test_gradients_repeat(self, deterministic_algorithms):
        def gradients() -> list[torch.Tensor]:
            model = layer(4)
            model(POINTS).features.square().sum().backward()
            return [parameter.grad for parameter in model.parameters()]

        assert all(map(torch.equal, gradients(), gradients()))

    def test_torch_scatter_gives_the_same(self):
        if importlib.util.find_spec("torch_scatter") is None:
            pytest.skip("torch-scatter is not installed: pip install --no-build-isolation torch-scatter")
        found = []
        for backend in ("native", "torch_scatter"):
            model = layer(backend=backend)
            features = model(POINTS).features
            features.square().sum().backward()
            found.append([features, *(parameter.grad for parameter in model.parameters())])
        for ours, theirs in zip(*found):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_ten_channels_of_640_weights(self):
        assert PillarFeatures(4, grid=PILLARS).linear.weight.shape == (64, 10)

    def test_faults(self):
        with pytest.raises(ValueError, match="one cell high"):
            PillarFeatures(4, grid=GRID)
        with pytest.raises(ValueError, match="max_points"):
            PillarFeatures(4, grid=PILLARS, max_points=0)


class TestDynamic:
    def layers(self, widths: tuple[int, ...] = (12, 10)) -> DynamicVoxelFeatures:
        """With norms that have learned something."""
        torch.manual_seed(0)
        made = DynamicVoxelFeatures(4, widths, grid=GRID)
        for norm in made.norms:
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        return made

    @pytest.mark.parametrize("widths", [(10,), (12, 10), (8, 12, 6)])
    def test_cell_by_cell(self, widths):
        features = self.layers(widths).eval()
        found = features(POINTS)
        count = 0
        for b, cloud in enumerate(rows_of(POINTS)):
            place = ((cloud[:, :3] - torch.tensor(GRID.low)) / 0.5).floor()
            for (_, *cell), center, ours in zip(
                *(of[found.batch_index == b] for of in (found.coordinates, found.centers, found.features))
            ):
                members = cloud[(place.flip(1) == torch.stack(cell)).all(1)]
                mean = members[:, :3].mean(0)
                x = torch.cat([members, members[:, :3] - mean, members[:, :3] - center], 1)
                for i, (linear, norm) in enumerate(zip(features.linears, features.norms)):
                    if i:
                        x = torch.cat([x, x.amax(0).expand(len(x), -1)], 1)
                    x = norm(linear(x)).relu()
                torch.testing.assert_close(ours, x.amax(0), rtol=1e-4, atol=1e-5)
                count += 1
        assert count == len(found.coordinates) > 100
        assert torch.equal(found.coordinates, MeanVoxelFeatures(GRID)(POINTS).coordinates)

    def test_the_published_layers(self):
        """DSVT's: 10 to 96, joined by 96, to 192."""
        features = DynamicVoxelFeatures(4, grid=GRID)
        assert [tuple(linear.weight.shape) for linear in features.linears] == [(96, 10), (192, 192)]

    def test_one_layer_on_pillars_is_pillar_features(self):
        pillars = layer().eval()
        features = DynamicVoxelFeatures(4, (16,), grid=PILLARS).eval()
        features.linears[0].load_state_dict(pillars.linear.state_dict())
        features.norms[0].load_state_dict(pillars.norm.state_dict())
        assert torch.equal(features(POINTS).features, pillars(POINTS).features)

    def test_recorded_each_point_has_its_share_of_its_cell(self):
        """By hand: whose channels are the maxima of the cell."""
        features = self.layers((12, 10)).eval()
        plain = features(POINTS)
        seen = []
        features.norms[1].register_forward_hook(lambda module, inputs, output: seen.append(output.relu()))
        with record_attention(features) as maps:
            assert torch.equal(features(POINTS).features, plain.features)
        (found,), (values,) = maps, seen
        assert (found.layer, found.keys) == ("", "children")
        cells, inside = GRID.cells(POINTS.xyz)
        inside, number = inside.nonzero()[:, 0], {}
        for row, cell in enumerate(plain.coordinates.tolist()):
            number[tuple(cell)] = row
        expected = torch.zeros(len(plain.coordinates), len(POINTS.xyz))
        members: dict[int, list[int]] = {}
        for place, point in enumerate(inside.tolist()):
            cell = number[(int(POINTS.batch_index[point]), *cells[point].tolist())]
            members.setdefault(cell, []).append(place)
        for cell, places in members.items():
            best = values[places].amax(0)
            for place in places:
                for channel in (values[place] == best).nonzero()[:, 0].tolist():
                    rivals = (values[places, channel] == best[channel]).sum()  # equal ones share
                    expected[cell, inside[place]] += 0.1 / rivals
        query, key, weight = found.pairs()
        shares = torch.zeros_like(expected).index_put((query, key), weight, accumulate=True)
        torch.testing.assert_close(shares, expected)
        assert 100 < len(inside) < len(POINTS.xyz)

    @pytest.mark.parametrize("lengths", [(0,), (1,), (0, 3)])
    def test_clouds_of_next_to_nothing(self, lengths):
        features = self.layers()
        found = features(clouds(lengths, GRID.low, GRID.high))
        assert found.features.isfinite().all()
        found.features.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in features.parameters())
        with record_attention(features) as maps:
            features(clouds(lengths, GRID.low, GRID.high))
        assert maps[0].weights.shape[0] == len(found.features)

    def test_it_repeats_exactly(self, deterministic_algorithms):
        def gradients() -> list[torch.Tensor]:
            features = self.layers()
            features(POINTS).features.square().sum().backward()
            return [parameter.grad for parameter in features.parameters()]

        assert all(gradient.any() for gradient in gradients())
        assert all(map(torch.equal, gradients(), gradients()))

    def test_autocast_leaves_it_in_float32(self):
        features = self.layers().eval()
        with torch.autocast("cpu", torch.bfloat16):
            found = features(POINTS).features
        assert torch.equal(found, features(POINTS).features)

    def test_odd_widths(self):
        with pytest.raises(ValueError, match="must be even"):
            DynamicVoxelFeatures(4, (7, 8), grid=GRID)
