import pytest
import torch
from torch import nn

from pctransformer.layers.recording import record_attention
from pctransformer.point_view.set_abstraction import BallPointNet, FeaturePropagation, GroupAll, SetAbstraction
from pctransformer.points import PointBatch


def ragged(channels: int = 2) -> PointBatch:
    generator = torch.Generator().manual_seed(3)
    return PointBatch.from_list([torch.rand(n, 3 + channels, generator=generator) for n in (60, 0, 1, 17)])


def shared(layers: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Norms with statistics and weights that are not those of a new layer."""
    generator = torch.Generator().manual_seed(seed)
    for module in layers.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return layers


@pytest.mark.parametrize("pad", ["none", "first"])
def test_ball_by_hand(pad):
    """One layer that passes relative x and the feature on; four points on a line, radius 1.5, at most two of them."""
    layer = BallPointNet(1, (2,), radius=1.5, k=2, pad=pad).eval()
    layer.layers[0].weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]])
    layer.layers[0].bias.data.zero_()
    layer.layers[1].eps = 0.0
    points = torch.tensor([[x, 0.0, 0.0, f] for x, f in ((0, 5), (1, 7), (2, 9), (10, 4))])
    batch = PointBatch.from_dense(points[None])
    centers = PointBatch.from_dense(torch.tensor([[[1.0, 0, 0], [2, 0, 0], [10, 0, 0], [5, 0, 0]]]))
    # around x = 1 the first two of three points are seen, around x = 5 there are none
    assert layer(batch, centers)[0].tolist() == [[0, 7], [0, 9], [0, 4], [0, 0]]


@pytest.mark.parametrize("closed", [True, False])
def test_closed_balls_hold_their_border(closed):
    layer = BallPointNet(1, (1,), radius=1.0, k=4, closed=closed).eval()
    layer.layers[0].weight.data = torch.tensor([[0.0, 0, 0, 1]])
    batch = PointBatch.from_dense(torch.tensor([[[0.0, 0, 0, 1], [1, 0, 0, 8]]]))
    seen, _, _ = layer(batch, PointBatch.from_dense(torch.zeros(1, 1, 3)))
    assert (seen > 5) == closed


def test_padding_changes_nothing_but_statistics():
    batch = ragged()
    layers = [
        shared(SetAbstraction(2, num_samples=8, radii=(0.3, 0.6), ks=(4, 16), widths=((8, 6), (5,)), pad=pad))
        for pad in ("none", "first")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    outputs = [layer.eval()(batch) for layer in layers]
    torch.testing.assert_close(outputs[0].features, outputs[1].features)
    assert outputs[0].features.shape == (32, layers[0].out_dim) == (32, 11)
    before = layers[0].scales[0].layers[1].running_mean.clone()
    for layer in layers:
        layer.train()(batch)
    means = [layer.scales[0].layers[1].running_mean for layer in layers]
    assert not torch.equal(means[0], before)
    assert not torch.allclose(means[0], means[1])


def test_set_abstraction_is_the_published_one():
    """Written as in public code: dense groups padded with their first point, coordinates relative, maximum."""
    torch.manual_seed(0)
    layer = shared(SetAbstraction(2, num_samples=6, radii=(0.4,), ks=(8,), widths=((8, 12),))).eval()
    for cloud in ragged().split():
        out = layer(cloud)
        if not len(cloud.xyz):
            assert (out.features == 0).all()
            continue
        for center, features in zip(out.xyz, out.features):
            inside = ((cloud.xyz - center).square().sum(1) < 0.4**2).nonzero()[:8, 0]
            padded = torch.cat([inside, inside[:1].expand(8 - len(inside))])
            grouped = torch.cat([cloud.xyz[padded] - center, cloud.features[padded]], 1)
            torch.testing.assert_close(features, layer.scales[0].layers(grouped).amax(0), rtol=1e-4, atol=1e-5)


def test_group_all_is_one_point_of_each_cloud():
    layer = shared(GroupAll(2, (8, 4))).eval()
    batch = ragged()
    out = layer(batch)
    assert out.is_dense
    assert out.lengths.tolist() == [1, 1, 1, 1]
    assert (out.xyz == 0).all()
    for cloud, features in zip(batch.split(), out.features):
        rows = layer.layers(torch.cat([cloud.xyz, cloud.features], 1))
        expected = rows.amax(0) if len(rows) else torch.zeros(4)
        torch.testing.assert_close(features, expected)


@pytest.mark.parametrize(("power", "far", "near"), [(1, 1 / 4, 3 / 4), (2, 1 / 10, 9 / 10)])
def test_propagation_by_hand(power, far, near):
    """A point at distances 3 and 1 from two others: weights 1/3 and 1, or 1/9 and 1; its own feature comes first."""
    layer = FeaturePropagation(1, 1, (2,), power=power).eval()
    layer.layers[0].weight.data = torch.eye(2)
    layer.layers[0].bias.data.zero_()
    coarse = PointBatch.from_dense(torch.tensor([[[0.0, 0, 0, 1], [4, 0, 0, 2]]]))
    fine = PointBatch.from_dense(torch.tensor([[[3.0, 0, 0, 6], [4, 0, 0, 8]]]))
    expected = torch.tensor([[6, far * 1 + near * 2], [8, 2]])
    torch.testing.assert_close(layer(coarse, fine).features, expected, rtol=1e-4, atol=1e-4)


def test_up_and_down_keeps_rows():
    """From points to one per cloud and back, each cloud by itself."""
    torch.manual_seed(0)
    batch = ragged()
    down, whole = shared(SetAbstraction(2, num_samples=4, radii=(0.5,), ks=(8,), widths=((8,),))), GroupAll(8, (16,))
    up, last = FeaturePropagation(16, 8, (8,)), FeaturePropagation(8, 2, (3,))
    for module in (down, whole, up, last):
        module.eval()

    def through(clouds: PointBatch) -> torch.Tensor:
        few = down(clouds)
        return last(up(whole(few), few), clouds).features

    together = through(batch)
    assert together.shape == (78, 3)
    torch.testing.assert_close(together, torch.cat([through(cloud) for cloud in batch.split()]))


@pytest.mark.parametrize("pad", ["none", "first"])
def test_gradients_repeat_exactly(pad):
    torch.manual_seed(0)
    layer = SetAbstraction(2, num_samples=8, radii=(0.3,), ks=(8,), widths=((8, 8),), pad=pad)
    batch = ragged()

    def gradient() -> torch.Tensor:
        features = batch.features.clone().requires_grad_()
        layer(batch.replace(features=features)).features.square().sum().backward()
        return features.grad

    torch.use_deterministic_algorithms(True)
    try:
        first = gradient()
        assert first.abs().sum() > 0
        assert torch.equal(first, gradient())
    finally:
        torch.use_deterministic_algorithms(False)


def test_recorded_shares_by_hand():
    """A centre whose two channels are the maximum over a small ball and over a large one, each won by one point."""
    layer = SetAbstraction(1, num_samples=1, radii=(1.5, 5), ks=(4, 8), widths=((1,), (3,))).eval()
    for scale in layer.scales:
        scale.layers[0].weight.data = torch.tensor([[0.0, 0, 0, 1]]).expand_as(scale.layers[0].weight).clone()
    points = torch.tensor([[x, 0.0, 0.0, f] for x, f in ((0, 5), (1, 7), (2, 6), (3, 9))])
    with record_attention(layer) as maps:
        layer(PointBatch.from_dense(points[None]))
    query, key, weight = maps[0].pairs()
    assert query.tolist() == [0] * 6
    assert key.tolist() == [0, 1, 0, 1, 2, 3]
    assert weight.tolist() == [0, 0.25, 0, 0, 0, 0.75]


@pytest.mark.parametrize("pad", ["none", "first"])
def test_recording_changes_nothing_and_shares_add_up(pad):
    torch.manual_seed(0)
    batch = ragged()
    layer = shared(SetAbstraction(2, num_samples=8, radii=(0.3, 0.6), ks=(4, 16), widths=((8,), (5,)), pad=pad))
    whole = GroupAll(13, (4,))
    with record_attention(nn.ModuleList([layer, whole])) as maps:
        tokens = layer(batch)
        whole(tokens)
    assert [found.layer for found in maps] == ["0", "1"]
    query, key, weight = maps[0].pairs()
    assert (batch.batch_index[key] == tokens.batch_index[query]).all()
    total = torch.zeros(32).index_add(0, query, weight)
    torch.testing.assert_close(total, (tokens.batch_index != 1).float())  # an empty cloud has no shares to give
    query, key, weight = maps[1].pairs()
    torch.testing.assert_close(torch.zeros(4).index_add(0, query, weight), torch.ones(4))
