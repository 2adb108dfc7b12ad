"""What holds for every model that learns from LiDAR scans without labels, and for the detectors that come of it."""

import pytest
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.heads.column_reconstruction import ColumnReconstruction
from pctransformer.models import create_model, list_models
from pctransformer.models.masked_columns import MaskedColumns
from pctransformer.models.registry import load_pretrained, pretrained_model
from pctransformer.models.tensor_file import write_tensors
from pctransformer.points import PointBatch
from tests.models.small import SIZES, output, small

NAMES = [name for name in list_models(task="pretraining") if pretrained_model(name).task == "detection"]


def scans(*sizes, seed=1):
    """Points within the range of small models: 8 m ahead, 4 m to both sides; the last one stands alone."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0, -4, -2, 0]), torch.tensor([8, 4, 1, 1])
    return [low + (high - low) * torch.rand(n, 4, generator=generator) for n in sizes]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_detector_of_windows_and_pillars_has_one():
    of = {pretrained_model(name).name for name in NAMES}
    assert of == {
        f"{name}{size}"
        for name in ("pillar_transformer", "voxel_transformer", "pointpillars")
        for size in ("", "_small")
    }


@pytest.mark.parametrize("name", NAMES)
class TestEveryMaskedColumns:
    def test_losses_and_their_gradients(self, name, deterministic_algorithms):
        model = small(name)
        made_up = model(scans(300, 0, 200))
        assert isinstance(made_up, ColumnReconstruction)
        assert made_up.true.hidden.sum() == len(made_up.predicted) > 0
        losses = model.loss(made_up)
        assert {*losses} == {"occupied", "chamfer", "count"}
        sum(losses.values()).backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_what_is_hidden_never_reaches_the_backbone(self, name):
        """Hidden points can be moved inside their columns, get other reflectances or be left out: features stay."""
        model = small(name).eval()
        points = PointBatch.from_list(scans(300, 200))
        true = model(points, generator()).true
        cells, inside = true.grid.cells(points.xyz)
        hidden = inside & true.hidden[points.batch_index, cells[:, 1], cells[:, 2]]
        assert 0.5 < hidden.float().mean() < 0.9
        middle = true.grid.centers(cells)
        moved = torch.where(hidden[:, None], middle + 0.9 * (points.xyz - middle), points.xyz)
        changed = points.replace(xyz=moved, features=torch.where(hidden[:, None], 7, points.features))
        assert torch.equal(model(changed, generator()).true.hidden, true.hidden)
        assert torch.equal(made_up_of(model, changed), made_up_of(model, points))
        seen = model.encode(true.visible)
        with_hidden = model.encode(points)
        assert torch.equal(model.encode(model(changed, generator()).true.visible).features, seen.features)
        assert not torch.allclose(with_hidden.features, seen.features)

    def test_a_scan_alone_is_the_scan_in_its_batch(self, name):
        """The first: what is hidden of it is drawn first. An empty scan, one point, and points outside included."""
        model = small(name).eval()
        clouds = [*scans(250, 40), torch.zeros(0, 4), torch.tensor([[1.0, 1, -1, 0]]), torch.tensor([[-9.0, 0, 0, 0]])]
        together, alone = (model(given, generator()) for given in (clouds, clouds[:1]))
        assert output(model, clouds).isfinite().all()
        assert torch.equal(together.true.hidden[0], alone.true.hidden[0])
        torch.testing.assert_close(together.occupied_logits[:1], alone.occupied_logits, rtol=1e-4, atol=1e-4)
        count = len(alone.predicted)
        torch.testing.assert_close(together.predicted[:count], alone.predicted, rtol=1e-4, atol=1e-4)

    def test_the_detector_takes_the_whole_backbone(self, name, tmp_path):
        """Into the detector of the same name; its head stays new, and anything else has to be there."""
        model = small(name)
        model(scans(200, 100))  # so that running statistics are no new ones
        model.eval()
        write_tensors(tmp_path / "mae.safetensors", model.state_dict(), {})
        family = pretrained_model(name).name
        options = {"in_channels": 4, **{k: v for k, v in SIZES[family].items() if k != "anchors"}, **SIZES[name]}
        detector = create_model(family, **options).eval()
        head = {key: value.clone() for key, value in detector.head.state_dict().items()}
        report = load_pretrained(detector, family, tmp_path / "mae.safetensors")
        assert {key.partition(".")[0] for key in report.kept} == {"head"}
        assert {key.partition(".")[0] for key in detector.state_dict()} - {"head"} == {
            key.partition(".")[0] for key in report.loaded
        }
        assert all(torch.equal(head[key], value) for key, value in detector.head.state_dict().items())
        points = scans(150, 60, seed=2)
        assert torch.equal(detector.forward_features(points).features, model.encode(points).features)
        assert isinstance(detector.predict(detector(points)), BoxBatch)
        weights = model.state_dict()
        weights.pop(next(key for key in weights if key.startswith("detector.")))
        write_tensors(tmp_path / "less.safetensors", weights, {})
        with pytest.raises(ValueError, match=r"missing: .*\(1\)"):
            create_model(family, pretrained=tmp_path / "less.safetensors", **options)

    def test_state_dict_round_trip(self, name):
        model, other = small(name).eval(), small(name).eval()
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        other.load_state_dict(model.state_dict())
        assert torch.equal(output(other, scans(90)), output(model, scans(90)))

    def test_bfloat16(self, name):
        model = small(name).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert all(loss.isfinite() for loss in model.loss(model(scans(100, 0))).values())

    def test_wrong_channels_are_explained(self, name):
        model = small(name)
        with pytest.raises(ValueError, match="in_channels=8"):
            model(torch.randn(2, 64, 8))

    def test_there_are_no_classes(self, name):
        with pytest.raises(TypeError, match="leave num_classes out"):
            create_model(name, num_classes=5, **SIZES[name])


def made_up_of(model, points):
    made_up = model(points, generator())
    return torch.cat([part.flatten() for part in (made_up.occupied_logits, made_up.predicted, made_up.log_counts)])


def test_columns_must_fill_the_map():
    detector = small("pillar_transformer_small")  # 16 x 16 pillars, a map of 8 x 8
    with pytest.raises(ValueError, match="a map of 8 x 8 cells is no whole number of columns of 3 x 3"):
        MaskedColumns(detector, cells=3, mask_ratio=0.7)


@pytest.mark.parametrize(("name", "size"), [("pillar_transformer", 0.8), ("pillar_transformer_small", 0.64)])
def test_sizes_of_columns(name, size):
    with torch.device("meta"):
        model = create_model(f"{name}_pretraining")
    assert model.columns.voxel_size == pytest.approx((size, size, 4))
    assert model.columns.low == model.detector.grid.low
    assert model.columns.high == pytest.approx(model.detector.grid.high)


def test_learns_one_scan():
    """What is always hidden alike is made up in the end: which columns, where in them, and how many."""
    torch.manual_seed(0)
    model = small("pillar_transformer_small_pretraining")
    points = PointBatch.from_list(scans(400))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = last = None
    for _ in range(40):
        losses = model.loss(model(points, generator()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        last = {key: loss.item() for key, loss in losses.items()}
        first = first or last
    assert last["occupied"] < 0.2 * first["occupied"]
    assert last["chamfer"] < 0.5 * first["chamfer"]
    assert last["count"] < 0.2 * first["count"]
