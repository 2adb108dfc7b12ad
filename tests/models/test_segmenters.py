"""What holds for every segmentation model, whatever its name."""

import pytest
import torch

from pctransformer.models import list_models
from pctransformer.models.segmenter import Segmenter
from pctransformer.points import PointBatch
from tests.models.small import small


def shapes(count: int = 3, points: int = 64) -> torch.Tensor:
    return torch.randn(count, points, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list_models(task="segmentation"))
class TestEverySegmenter:
    def test_logits_and_their_gradients(self, name):
        model = small(name, num_categories=3)
        assert isinstance(model, Segmenter)
        logits = model(shapes(), torch.tensor([0, 2, 1]))
        assert logits.shape == (3 * 64, 5)
        assert logits.isfinite().all()
        logits.square().sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_a_cloud_alone_is_the_cloud_in_its_batch(self, name):
        """Packed, few points and one point included; and a dense tensor is the list of its clouds."""
        model = small(name).eval()
        clouds = [shapes(1, n)[0] for n in (64, 7, 1)]
        together = model(clouds)
        assert together.isfinite().all()
        for cloud, logits in zip(clouds, together.split([64, 7, 1])):
            torch.testing.assert_close(model([cloud]), logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(list(shapes())), model(shapes()), rtol=1e-5, atol=1e-5)

    def test_empty_clouds_have_no_rows(self, name):
        model = small(name).eval()
        full = shapes(1)[0]
        torch.testing.assert_close(model([full[:0], full, full[:0]]), model([full]), rtol=1e-5, atol=1e-5)

    def test_points_take_their_logits_with_them(self, name):
        """In another order of points each has what it had; the first, where sampling starts, stays."""
        model = small(name).eval()
        points = shapes(1)
        order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(63)])
        torch.testing.assert_close(model(points[:, order]), model(points)[order], rtol=1e-4, atol=1e-4)

    def test_categories_matter_and_are_explained(self, name):
        model = small(name, num_categories=3).eval()
        points = shapes(2)
        chair, table = model(points, torch.tensor([0, 0])), model(points, torch.tensor([0, 1]))
        assert torch.equal(chair[:64], table[:64])
        assert not torch.allclose(chair[64:], table[64:])
        for wrong, text in (
            (None, "which of 3 categories"),
            (torch.tensor([0]), r"\(2,\)"),
            (torch.tensor([0, 3]), "from 0 to 2"),
        ):
            with pytest.raises(ValueError, match=text):
                model(points, wrong)
        with pytest.raises(TypeError, match="int64"):
            model(points, torch.tensor([0.0, 1.0]))
        with pytest.raises(ValueError, match="leave category out"):
            small(name)(points, torch.tensor([0, 1]))

    def test_protocol(self, name):
        model = small(name).eval()
        points = shapes()
        features = model.forward_features(points)
        assert isinstance(features, PointBatch)
        assert torch.equal(features.xyz, points[..., :3].flatten(0, 1))
        assert features.features.shape == (192, model.num_features)
        assert model.forward_head(features, pre_logits=True).shape == (192, model.head_hidden_size)
        torch.testing.assert_close(model.forward_head(features), model(points))
        model.reset_classifier(9)
        assert model(points).shape == (192, 9)
        model.reset_classifier(0)
        assert model(points).shape == (192, model.head_hidden_size)

    def test_state_dict_round_trip(self, name):
        model, other = small(name).eval(), small(name).eval()
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(shapes()), model(shapes()))

    def test_bfloat16(self, name):
        model = small(name).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert model(shapes()).isfinite().all()

    def test_wrong_channels_are_explained(self, name):
        model = small(name)
        with pytest.raises(ValueError, match="in_channels=8"):
            model(torch.randn(2, 64, 8))
        with pytest.raises(ValueError, match="channels first"):
            model(shapes().transpose(1, 2))
