"""What holds for every detector, whatever its name and its head."""

import pytest
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.models import create_model, list_models
from pctransformer.models.detector import Detector
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap
from tests.models.small import ANCHORS, SIZES, small

NAMES = list_models(task="detection")


def detector(name: str, head: str = "anchor", **options) -> Detector:
    return small(name, head=head, anchors=ANCHORS if head == "anchor" else None, **options)


def scans(lengths: tuple[int, ...] = (300, 0, 1, 40), channels: int = 4) -> PointBatch:
    """Points in the small range, and some beyond its sides."""
    generator = torch.Generator().manual_seed(0)
    low, size = torch.tensor([-0.5, -4.5, -3.2]), torch.tensor([9, 9, 4.4])
    clouds = [torch.rand(length, channels, generator=generator) for length in lengths]
    return PointBatch.from_list([torch.cat([low + cloud[:, :3] * size, cloud[:, 3:]], 1) for cloud in clouds])


def boxes(count: int = 4) -> BoxBatch:
    """Two boxes in the first cloud, one of them to be ignored, none in the others."""
    rows = torch.tensor([[3.0, 1, -0.5, 2, 1, 1, 0.3], [5.0, -2, -0.5, 2, 1, 1, 1.6]])
    return BoxBatch.from_list(
        [rows, *[rows[:0]] * (count - 1)], [torch.tensor([1, -1]), *[torch.zeros(0).long()] * (count - 1)]
    )


def tensors(output) -> list[torch.Tensor]:
    return [value for value in output if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("head", ["anchor", "center", "query"])
@pytest.mark.parametrize("name", NAMES)
class TestEveryDetector:
    def test_loss_and_its_gradients(self, name, head, deterministic_algorithms):
        """Of every weight, finite, and the same again."""

        def gradients() -> list[torch.Tensor]:
            model = detector(name, head)
            loss = model.loss(model(scans()), boxes())
            assert loss["loss"].isfinite()
            loss["loss"].backward()
            assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
            assert [n for n, p in model.named_parameters() if not p.grad.any()] == []
            return [parameter.grad for parameter in model.parameters()]

        assert all(map(torch.equal, gradients(), gradients()))

    def test_a_cloud_alone_is_the_cloud_in_its_batch(self, name, head):
        """Empty ones and single points included."""
        model = detector(name, head).eval()
        points = scans()
        together = tensors(model(points))
        rows = torch.cat([points.xyz, points.features], 1).split(points.lengths.tolist())
        for b, cloud in enumerate(rows):
            for whole, alone in zip(together, tensors(model([cloud]))):
                assert whole.isfinite().all()
                torch.testing.assert_close(alone[0], whole[b], rtol=1e-4, atol=1e-5)

    def test_the_order_of_points_does_not_matter(self, name, head):
        model = detector(name, head).eval()
        points = torch.cat([scans((300,)).xyz, scans((300,)).features], 1)
        order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
        for ours, theirs in zip(tensors(model([points])), tensors(model([points[order]]))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("training", [True, False])
    def test_points_outside_are_no_points(self, name, head, training):
        model = detector(name, head).train(training)
        outside, nothing = torch.full((5, 4), 99.0), torch.zeros(0, 4)
        outputs = [tensors(model([cloud])) for cloud in (outside, nothing)]
        for ours, theirs in zip(*outputs):
            assert ours.isfinite().all()
            torch.testing.assert_close(ours, theirs)

    def test_protocol(self, name, head):
        model = detector(name, head).eval()
        assert isinstance(model, Detector)
        assert (model.in_channels, model.num_classes) == (4, 5)
        assert model.grid.low == SIZES[name]["point_range"][:3]
        points = scans()
        features = model.forward_features(points)
        assert len(features) == 4
        assert features.features.shape[1] == model.num_features
        assert isinstance(features, BevMap) or head == "query"
        for ours, theirs in zip(tensors(model.forward_head(features)), tensors(model(points))):
            assert torch.equal(ours, theirs)
        found = model.predict(model(points), score_threshold=0.0, max_outputs=3)
        assert found.lengths.tolist() == [3] * 4
        assert found.scores is not None

    def test_bfloat16(self, name, head):
        """Autocast reaches the head, and the loss is that of float32 but for eight bits."""
        model = detector(name, head)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(scans())
            loss = model.loss(output, boxes())["loss"]
        assert tensors(output)[0].dtype == torch.bfloat16
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, model.loss(model(scans()), boxes())["loss"], rtol=0.05, atol=0)

    def test_weights_round_trip(self, name, head, tmp_path):
        """From a file; for other classes what knows them stays new, and the rest is there."""
        model = detector(name, head).eval()
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        options = {**SIZES[name], "head": head, "anchors": ANCHORS if head == "anchor" else None}
        other = create_model(name, num_classes=5, pretrained=tmp_path / "weights.pt", **options).eval()
        for ours, theirs in zip(tensors(other(scans())), tensors(model(scans()))):
            assert torch.equal(ours, theirs)
        options["anchors"] = options["anchors"] and options["anchors"][:2]
        fewer = create_model(name, num_classes=2, pretrained=tmp_path / "weights.pt", **options).eval()
        assert fewer.num_classes == 2
        assert torch.equal(fewer.forward_features(scans()).features, model.forward_features(scans()).features)

    def test_an_incomplete_backbone_is_refused(self, name, head, tmp_path):
        weights = detector(name, head).state_dict()
        left_out = next(key for key in weights if not key.startswith("head."))
        del weights[left_out]
        torch.save(weights, tmp_path / "weights.pt")
        options = {**SIZES[name], "head": head, "anchors": ANCHORS if head == "anchor" else None}
        with pytest.raises(ValueError, match=f"missing: {left_out}"):
            create_model(name, num_classes=5, pretrained=tmp_path / "weights.pt", **options)


@pytest.mark.parametrize("name", NAMES)
class TestOptions:
    def test_wrong_channels_are_explained(self, name):
        with pytest.raises(ValueError, match="in_channels=6"):
            small(name)(scans(channels=6))
        assert small(name, in_channels=6)(scans(channels=6)).class_logits.isfinite().all()
        assert small(name, in_channels=3)([torch.rand(9, 3)]).class_logits.isfinite().all()

    def test_anchors_are_one_for_each_class(self, name):
        with pytest.raises(ValueError, match="KITTI's classes have 3 anchors, but num_classes is 5; give anchors"):
            small(name, head="anchor", anchors=None)
        with pytest.raises(ValueError, match="there are 2 anchors, but num_classes is 5"):
            small(name, head="anchor", anchors=ANCHORS[:2])
        with pytest.raises(ValueError, match="an anchor is length, width, height, bottom, matched, unmatched"):
            small(name, head="anchor", anchors=[(1, 2, 3)] * 5)
        for head in ("center", "query"):
            with pytest.raises(ValueError, match="no anchors"):
                small(name, head=head, anchors=ANCHORS)
        with pytest.raises(ValueError, match='"anchor", "center" or "query"'):
            small(name, head="centre", anchors=None)

    def test_ranges_must_be_whole_maps(self, name):
        with pytest.raises(ValueError, match="multiples of"):
            detector(name, point_range=(0, -4, -3, 9, 4, 1))
        with pytest.raises(ValueError, match="whole number"):
            detector(name, point_range=(0, -4, -3, 8.1, 4, 1))

    def test_a_linear_probe_is_refused(self, name):
        with pytest.raises(ValueError, match="is a model for detection"):
            create_model(name, linear_probe=True)


def test_sizes_for_two_cores_look_at_the_same_range():
    for name in list_models("*_small", task="detection"):
        model = create_model(name)
        assert (*model.grid.low, *model.grid.high) == pytest.approx((0, -25.6, -3, 51.2, 25.6, 1))
        assert model.num_classes == 3


@pytest.mark.parametrize("head", ["anchor", "center", "query"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_small")])
def test_short_trainings_are_evaluated_by_statistics_of_late_steps(name, head):
    norms = [m for m in detector(name, head).modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("head", ["anchor", "center", "query"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_small")])
def test_learns_one_scan(name, head):
    """After some steps the box that is there is found, in evaluation too: by running statistics."""
    model = detector(name, head)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps := 70)  # L1 does not settle otherwise
    points, objects = scans((200, 100)), boxes(2)
    losses = []
    for _ in range(steps):
        loss = model.loss(model(points), objects)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    found = model.eval().predict(model(points), score_threshold=0.0, max_outputs=10).split()[0]
    near = (found.boxes[:, :3] - objects.boxes[0, :3]).norm(dim=1) < 0.5
    assert (found.labels[near] == 1).any()
    # of queries that begin side by side it is not settled so soon which one speaks for the object
    assert found.scores[near].max() >= (0.5 if head == "query" else 1) * found.scores.max()
