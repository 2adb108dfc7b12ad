"""Public weights of OpenPCDet in files as it writes them: they load, all of them, and give its numbers.

No public file is needed: names and shapes are written down in `tests/models/openpcdet.py`.
"""

import math

import pytest
import torch

from pctransformer.models import create_model
from pctransformer.points import PointBatch
from tests.models import openpcdet
from tests.models.openpcdet import file_content, second_shapes, weights_of

PILLARS = (0, -2.56, -3, 2.56, 2.56, 1)
VOXELS = (0, -0.8, -3, 1.6, 0.8, 1)


def clouds(point_range: tuple[float, ...]) -> PointBatch:
    """Two, crowded enough for pillars of more than 32 points and voxels of more than five, and beyond the range."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(point_range[:3]), torch.tensor(point_range[3:])
    wide = low - 0.1 + torch.rand(300, 3, generator=generator) * (high - low + 0.2)
    crowd = (low + high) / 2 + 0.01 + torch.rand(100, 3, generator=generator) * 0.04
    rows = torch.cat([torch.cat([wide, crowd]), torch.rand(400, 1, generator=generator)], 1)
    return PointBatch.from_list([rows[torch.randperm(400, generator=generator)], rows[:250]])


def save(weights: dict[str, torch.Tensor], path) -> None:
    torch.save(file_content(weights), path)


def test_counts_are_those_of_the_code():
    assert len(openpcdet.POINTPILLAR) == 127
    assert len(second_shapes(1)) == len(second_shapes(2)) == 163
    for shapes, count in ((openpcdet.POINTPILLAR, 4_834_888), (second_shapes(1), 5_325_576)):
        learned = [shape for name, shape in shapes.items() if not name.endswith(("step", "mean", "var", "tracked"))]
        assert sum(map(math.prod, learned)) == count


def test_pointpillars_gives_its_numbers(tmp_path):
    weights, points = weights_of(openpcdet.POINTPILLAR), clouds(PILLARS)
    file = tmp_path / "pointpillar_7728.pth"
    save(weights, file)
    model = create_model("pointpillars", pretrained=file, point_range=PILLARS, max_points=32).eval()
    low, size = torch.tensor(PILLARS[:3]), torch.tensor([0.16, 0.16, 4])
    bev = openpcdet.pillar_map(points, weights, low, size, (32, 16))
    expected = openpcdet.head_maps(bev, weights, openpcdet.POINTPILLAR_BLOCKS, openpcdet.POINTPILLAR_UPS)
    with torch.no_grad():
        for ours, theirs in zip(model(points)[:3], expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
        unpadded = create_model(
            "pointpillars", pretrained=tmp_path / "pointpillar_7728.pth", point_range=PILLARS
        ).eval()
        assert not torch.allclose(unpadded(points)[0], expected[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("spconv", [1, 2])
def test_second_gives_its_numbers(tmp_path, spconv):
    weights = weights_of(second_shapes(2))
    stored = {
        name: value.permute(1, 2, 3, 4, 0).contiguous() if spconv == 1 and value.dim() == 5 else value
        for name, value in weights.items()
    }
    assert {name: tuple(value.shape) for name, value in stored.items()} == second_shapes(spconv)
    save(stored, tmp_path / "second_7862.pth")
    options = {"point_range": VOXELS, "max_points": 5}
    model = create_model("second", pretrained=tmp_path / "second_7862.pth", **options).eval()
    points = clouds(VOXELS)
    low, size = torch.tensor(VOXELS[:3]), torch.tensor([0.05, 0.05, 0.1])
    bev = openpcdet.voxel_map(points, weights, low, size, (40, 32, 32))
    expected = openpcdet.head_maps(bev, weights, openpcdet.SECOND_BLOCKS, openpcdet.SECOND_UPS)
    with torch.no_grad():
        for ours, theirs in zip(model(points)[:3], expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("pointpillars", openpcdet.POINTPILLAR), ("second", second_shapes(2))],
    ids=lambda x: str(x)[:12],
)
class TestFaults:
    def test_without_a_weight_it_is_refused(self, name, shapes, tmp_path):
        weights = weights_of(shapes)
        del weights["backbone_2d.blocks.1.4.weight"], weights["dense_head.conv_box.bias"]
        save(weights, tmp_path / "model.pth")
        with pytest.raises(
            ValueError, match=r"loaded \d+ of \d+ .* missing: backbone.blocks.1.3.weight, head.conv_box.bias"
        ):
            create_model(name, pretrained=tmp_path / "model.pth")

    def test_what_is_of_another_model_is_refused(self, name, shapes, tmp_path):
        save(weights_of(shapes) | {"roi_head.shared_fc_layer.0.weight": torch.zeros(2, 2)}, tmp_path / "model.pth")
        with pytest.raises(ValueError, match=r"unexpected: roi_head.shared_fc_layer.0.weight"):
            create_model(name, pretrained=tmp_path / "model.pth")

    def test_another_width_is_refused(self, name, shapes, tmp_path):
        weights = weights_of(shapes)
        weights["backbone_2d.blocks.0.1.weight"] = weights["backbone_2d.blocks.0.1.weight"][:8]
        save(weights, tmp_path / "model.pth")
        with pytest.raises(ValueError, match=r"wrong shape: backbone.blocks.0.0.weight is \(8, "):
            create_model(name, pretrained=tmp_path / "model.pth")

    def test_other_classes_have_a_new_head(self, name, shapes, tmp_path):
        weights = weights_of(shapes)
        save(weights, tmp_path / "model.pth")
        car = [(3.9, 1.6, 1.56, -1.78, 0.6, 0.45)]
        model = create_model(name, num_classes=1, anchors=car, pretrained=tmp_path / "model.pth")
        assert model.head.conv_cls.weight.shape[0] == 2
        assert torch.equal(model.backbone.blocks[0][0].weight, weights["backbone_2d.blocks.0.1.weight"])
