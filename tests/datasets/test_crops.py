import numpy as np
import torch

from pctransformer.datasets import Sample
from pctransformer.datasets.crops import (
    RandomColor,
    RandomColumn,
    RandomMirror,
    column_rows,
    local_frame,
    training_crop,
)


def scene(points: int = 2000) -> Sample:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(points, 3, generator=generator) * torch.tensor([6.0, 5.0, 2.0]) + torch.tensor([10.0, -20.0, 3.0])
    color = torch.rand(points, 3, generator=generator)
    return Sample(xyz, features=color, point_labels=torch.arange(points), label=0, name="scene")


def test_columns_are_the_nearest_on_the_plan():
    """Heights do not count: the point 5 m above is nearer than that 1 m beside."""
    xyz = np.array([[0.0, 0, 0], [0.1, 0, 5], [1, 0, 0], [3, 0, 0]])
    assert column_rows(xyz, 0, 2).tolist() == [0, 1]
    assert column_rows(xyz, 3, 2).tolist() == [2, 3]
    assert column_rows(np.array([[0.0, 0, 0]] * 5), 3, 1).tolist() == [3]  # itself, however many are in one place


def test_frame():
    xyz = np.array([[4_000_000.25, 10, 100], [4_000_002.25, 14, 103]])
    assert local_frame(xyz).tolist() == [[-1, -2, 0], [1, 2, 3]]
    assert local_frame(xyz).dtype == np.float32
    assert local_frame(xyz[:0]).shape == (0, 3)


def test_a_crop_is_a_thinned_column_with_its_labels():
    whole = scene()
    crop = RandomColumn(0.3, 100)(whole, torch.Generator().manual_seed(1))
    assert len(crop) == 100
    of_whole = whole.take(crop.point_labels)  # labels are rows here
    assert torch.equal(of_whole.features, crop.features)
    shift = of_whole.xyz - crop.xyz
    torch.testing.assert_close(shift, shift[:1].expand(100, 3), atol=1e-5, rtol=0)
    cells = ((of_whole.xyz - whole.xyz.amin(0)) / 0.3).floor()
    assert len(cells.unique(dim=0)) == 100
    assert crop.xyz[:, 2].min() == 0
    other = RandomColumn(0.3, 100)(whole, torch.Generator().manual_seed(2))
    assert not torch.equal(other.point_labels, crop.point_labels)
    assert len(RandomColumn(0.3, 10_000)(whole, torch.Generator().manual_seed(1))) > 1000  # all there are


def test_colours_change_within_their_range_and_vanish_at_times():
    whole = scene(50)
    found = [RandomColor(0.3)(whole, torch.Generator().manual_seed(seed)).features for seed in range(60)]
    assert all(((color >= 0) & (color <= 1)).all() for color in found)
    dropped = sum(bool((color == 0.5).all()) for color in found)
    assert 8 <= dropped <= 30
    plain = Sample(whole.xyz)
    assert RandomColor()(plain, torch.Generator()) is plain


def test_mirrors_every_second_time():
    whole = scene(10)
    signs = [RandomMirror()(whole, torch.Generator().manual_seed(seed)).xyz[0, 0].sign().item() for seed in range(40)]
    assert 10 < signs.count(-1.0) < 30


def test_training_crop_keeps_up_upright_and_writes_into_nothing():
    whole = scene()
    before = whole.xyz.clone(), whole.features.clone()
    crop = training_crop(0.3, 500)(whole, torch.Generator().manual_seed(3))
    height = whole.xyz[crop.point_labels, 2]
    fit = np.polyfit(height.numpy(), crop.xyz[:, 2].numpy(), 1)
    assert 0.88 < fit[0] < 1.12  # scaled by up to a tenth, turned about z only
    assert torch.equal(before[0], whole.xyz)
    assert torch.equal(before[1], whole.features)
