import pytest
import torch

from pctransformer.layers.recording import record_attention
from pctransformer.layers.sparse_stem import SparseStem
from pctransformer.points import PointBatch


def clouds() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(n, 4, generator=generator) for n in (150, 0, 1, 40)]


def stem(stages: int = 3, cell_size: float = 0.25) -> SparseStem:
    torch.manual_seed(0)
    made = SparseStem(4, (8, 16, 12)[:stages], cell_size=cell_size).eval()
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.bias)
    return made


def test_what_enters():
    """A one, the mean place within the cell, the mean of features; cells at multiples of their size."""
    batch = PointBatch.from_list(clouds())
    voxels = stem().voxelize(batch)
    cells = (batch.xyz / 0.25).floor()
    for row in (0, 7, len(voxels.coordinates) - 1):
        cell = (voxels.centers[row] / 0.25).floor()
        torch.testing.assert_close(voxels.centers[row], (cell + 0.5) * 0.25)
        there = (cells == cell).all(1) & (batch.batch_index == voxels.batch_index[row])
        place = batch.xyz[there].mean(0) / 0.25 - cell - 0.5
        torch.testing.assert_close(
            voxels.features[row], torch.cat([torch.ones(1), place, batch.features[there].mean(0)])
        )
        assert place.abs().max() <= 0.5
    assert len(voxels.coordinates) == sum(len(torch.unique(c, dim=0)) for c in cells.split(batch.lengths.tolist()))


def test_tokens_are_at_cells_that_saw_points():
    """Cells of the last stage have four times the edge; each reaches its middle and as far to both sides as both
    strided convolutions and both others of 3 cells do."""
    batch = PointBatch.from_list(clouds())
    tokens = stem()(batch).validate()
    assert tokens.features.shape == (len(tokens.xyz), 12)
    assert tokens.lengths[1] == 0
    # the middle of a cell of stage three is that of every fourth cell of stage one
    steps = (tokens.xyz / 0.25 - 0.5) / 4
    torch.testing.assert_close(steps, steps.round())
    distance = torch.stack([(batch.xyz - at).abs().amax(1).amin() for at in tokens.xyz])
    assert distance.max() <= 0.25 * (1 + 2 + 0.5)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_cloud_is_what_it_is_alone(stages):
    """Beside others, far from which it is, and moved by whole cells of the last stage."""
    layer, parts = stem(stages, 0.2), clouds()  # 0.2 is no float: centres have to be the same all the same
    parts[3] = parts[3] + torch.tensor([30.0, -20, 11, 0])
    together = layer(PointBatch.from_list(parts)).split()
    for part, found in zip(parts, together):
        alone = layer(PointBatch.from_list([part]))
        assert torch.equal(alone.xyz, found.xyz)
        torch.testing.assert_close(alone.features, found.features, rtol=1e-4, atol=1e-5)
    layer = stem(stages)
    start, moved = (layer(PointBatch.from_list([parts[0] + torch.tensor([*by, 0])])) for by in ((0, 0, 0), (4, -2, 1)))
    torch.testing.assert_close(moved.xyz, start.xyz + torch.tensor([4, -2, 1]))
    torch.testing.assert_close(moved.features, start.features, rtol=1e-4, atol=1e-4)


def test_recorded_maps_lead_to_the_points_seen():
    """From a token down all maps: shares that sum to one, of all points whose change would change the token."""
    layer, batch = stem(2), PointBatch.from_list(clouds())
    with record_attention(layer) as maps:
        tokens = layer(batch)
    torch.testing.assert_close(tokens.features, layer(batch).features)
    sizes = [len(batch.xyz), *(found.weights.shape[0] for found in maps)]
    assert len(sizes) == 6
    shares = torch.eye(sizes[-1])
    for found, below in zip(reversed(maps), sizes[-2::-1]):
        query, key, weight = found.pairs()
        assert found.keys == "children"
        down = torch.zeros(found.weights.shape[0], below).index_put((query, key), weight)
        torch.testing.assert_close(down.sum(1), torch.ones(len(down)))
        shares = shares @ down
    features = batch.features.clone().requires_grad_()
    changed = layer(batch.replace(features=features)).features
    for row in (0, 11, len(changed) - 1):
        (gradient,) = torch.autograd.grad(changed[row].sum(), features, retain_graph=True)
        assert (shares[row][gradient[:, 0] != 0] > 0).all()
        assert (batch.batch_index[shares[row] > 0] == tokens.batch_index[row]).all()


def test_gradients_reach_everything():
    layer = stem().train()
    batch = PointBatch.from_list(clouds())
    features = batch.features.clone().requires_grad_()
    layer(batch.replace(features=features)).features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
    assert features.grad.abs().max() > 0


def test_no_points():
    tokens = stem()(PointBatch.from_list([torch.zeros(0, 4)]))
    assert tokens.features.shape == (0, 12)
    assert tokens.offsets.tolist() == [0, 0]


def test_errors():
    with pytest.raises(ValueError, match="cell_size"):
        SparseStem(3, (8,), cell_size=0.0)
