import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from pctransformer.datasets.crops import local_frame
from pctransformer.datasets.thinning import thin
from pctransformer.evaluation.tiles import lay_tiles, segment_scene
from pctransformer.models import create_model
from pctransformer.points import PointBatch


def scene(points: int, extent: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """A floor and a wall with colours, on a raster of a thousandth of a metre, so that moving it by metres is exact."""
    generator = np.random.default_rng(0)
    xyz = generator.random((points, 3)) * [extent, extent, 2.5]
    flat = np.arange(points) % 2 == 0
    xyz[flat, 2] *= 0.01
    xyz[~flat, 1] *= 0.01
    return np.round(xyz * 1024) / 1024, generator.random((points, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("point_transformer_v3_small_seg", num_classes=4, in_channels=6, cell_size=0.2, patch_size=32)


class Sees(nn.Module):
    """Says of each point how high it lies, as two logits; remembers the sizes of what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, points: PointBatch) -> torch.Tensor:
        self.sizes.append(len(points.xyz))
        return torch.stack([1 - points.xyz[:, 2], points.xyz[:, 2]], 1)


def test_one_tile_is_the_model_itself(model):
    xyz, color = scene(1500)
    found = segment_scene(model, xyz, color, cell_size=0.2)
    assert found.tiles == 1
    rows = thin(xyz, 0.2, color)
    assert found.rows.tolist() == rows.tolist()
    points = torch.cat([torch.from_numpy(local_frame(xyz[rows])), torch.from_numpy(color[rows])], 1)
    with torch.inference_mode():
        plain = model.eval()([points])
    assert torch.equal(found.logits, plain)


def test_every_point_has_the_class_of_the_nearest_that_was_shown(model):
    xyz, color = scene(1500)
    found = segment_scene(model, torch.from_numpy(xyz), torch.from_numpy(color), cell_size=0.2, tile_points=300)
    assert found.tiles > 2
    distance = np.linalg.norm(xyz[:, None] - xyz[found.rows][None], axis=2)
    chosen = distance[np.arange(1500), found.nearest]
    np.testing.assert_allclose(chosen, distance.min(1), atol=1e-5)
    assert torch.equal(found.labels, found.logits.argmax(1)[found.nearest])
    assert found.confidence.shape == (1500,)
    assert ((found.confidence >= 0.25) & (found.confidence <= 1)).all()


def test_neither_the_order_of_points_nor_the_place_on_earth_matter(model):
    xyz, color = scene(1500)
    found = segment_scene(model, xyz, color, cell_size=0.2, tile_points=300)
    order = np.random.default_rng(1).permutation(1500)
    mixed = segment_scene(model, xyz[order], color[order], cell_size=0.2, tile_points=300)
    assert torch.equal(mixed.labels, found.labels[order])
    assert torch.equal(mixed.confidence, found.confidence[order])
    moved = xyz + np.array([4_471_000.0, 5_400_000.0, 500.0])
    far = segment_scene(model, moved, color, cell_size=0.2, tile_points=300)
    torch.testing.assert_close(far.logits, found.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(far.rows, found.rows)


def test_tiles_cover_everything_with_weight():
    xyz, _ = scene(4000, extent=20)
    total, count = np.zeros(4000), 0
    for rows, weight in lay_tiles(xyz, 500):
        assert len(np.unique(rows)) == 500
        assert weight.max() == 1
        assert weight.min() > 0
        total[rows] += weight
        count += 1
    assert total.min() >= 0.5
    assert 8 < count < 8 * 6


def test_weights_fall_towards_the_border():
    """On a line the first tile lies at its beginning: 1 - (d / R)^2, and nearly nothing for the farthest."""
    xyz = np.array([[float(x), 0, 0] for x in range(9)])
    rows, weight = next(lay_tiles(xyz, 5))
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert weight[:4].tolist() == pytest.approx([1, 15 / 16, 12 / 16, 7 / 16])
    assert 0 < weight[4] < 0.01


def test_overlapping_logits_are_averaged_by_these_weights():
    """A model that counts its calls: each point has the weighted mean of the numbers of its tiles."""

    class Counts(nn.Module):
        calls = 0

        def forward(self, points):
            self.calls += 1
            return torch.full((len(points.xyz), 1), float(self.calls))

    xyz = np.array([[float(x), 0, 0] for x in range(12)])
    wanted, weights = np.zeros(12), np.zeros(12)
    for call, (rows, weight) in enumerate(lay_tiles(xyz, 5)):
        wanted[rows] += (call + 1) * weight
        weights[rows] += weight
    found = segment_scene(Counts(), xyz, cell_size=0.5, tile_points=5)
    np.testing.assert_allclose(found.logits[:, 0], wanted / weights, rtol=1e-5)


def test_points_in_one_place_and_above_one_another_end():
    """More points than a tile takes on one vertical line: each of them gets its turn in the middle."""
    xyz = np.array([[0.0, 0, z] for z in range(40)])
    assert segment_scene(Sees(), xyz, cell_size=0.5, tile_points=6).logits.isfinite().all()
    same = np.zeros((30, 3))
    assert segment_scene(Sees(), same, cell_size=0.5, tile_points=6).labels.tolist() == [0] * 30


def test_two_million_points_in_bounded_memory():
    """A hall of 40 m: no tile is larger than it may be, and numpy takes at most 400 bytes for each point."""
    generator = np.random.default_rng(0)
    xyz = generator.random((2_000_000, 3), dtype=np.float32) * np.array([40, 40, 0.05], np.float32)
    sees = Sees()
    tracemalloc.start()
    found = segment_scene(sees, xyz, cell_size=0.1, tile_points=16384)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(sees.sizes) == 16384
    assert len(sees.sizes) == found.tiles < 6 * len(found.rows) / 16384
    assert found.labels.shape == (2_000_000,)
    assert (found.labels == 0).all()
    assert peak < 2_000_000 * 400


def test_modes_come_back(model):
    model.train()
    model.head.eval()
    xyz, color = scene(200)
    segment_scene(model, xyz, color, cell_size=0.2)
    assert model.training
    assert not model.head.training


def test_errors(model):
    xyz, color = scene(50)
    with pytest.raises(ValueError, match=r"xyz must be \(n, 3\)"):
        segment_scene(model, xyz[:, :2], color, cell_size=0.2)
    with pytest.raises(ValueError, match="for 50 points"):
        segment_scene(model, xyz, color[:9], cell_size=0.2)
    with pytest.raises(ValueError, match="no points"):
        segment_scene(model, xyz[:0], color[:0], cell_size=0.2)
    with pytest.raises(ValueError, match="NaN or infinite; drop"):
        segment_scene(model, xyz + np.nan, color, cell_size=0.2)
    with pytest.raises(ValueError, match="tile_points"):
        segment_scene(model, xyz, color, cell_size=0.2, tile_points=0)
    with pytest.raises(ValueError, match="6 channels"):
        segment_scene(model, xyz, cell_size=0.2)
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        segment_scene(model, xyz, color * np.float32(np.nan), cell_size=0.2)
