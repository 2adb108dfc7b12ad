"""Looking by name: every method on every kind of model, that each tells what it says it tells, and what is refused."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from pctransformer import PointBatch, record_attention
from pctransformer.heads.classification import ClassificationHead
from pctransformer.heads.query import probabilities
from pctransformer.layers.mixers.external_attention import ExternalAttention
from pctransformer.models.classifier import Classifier
from pctransformer.visualization.looking import METHODS, look
from pctransformer.visualization.rollout import attention_rollout, layer_attention
from pctransformer.visualization.sources import attention_layers, pooled_vector
from pctransformer.visualization.token_features import token_features
from tests.models.small import small
from tests.models.test_recording import BOX, scene

ATTENTION = {"rollout", "last_layer", "layer", "class_token", "gradient_attention"}


@functools.cache
def model_and_points(name):
    model = small(name).eval()
    return model, scene(model, 1)[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", ["npct", "point_mae", "pointnet2_small", "point_transformer_v3_seg", "voxel_transformer", "point_detr"]
)
def test_every_method_on_every_kind_of_model(name, method):
    model, points = model_and_points(name)
    from_point = (name.endswith("seg") and method != "features_pca") or method == "similarity"
    options = {"query": 3} if from_point else {"box": BOX} if hasattr(model, "grid") else {}
    if (method == "class_token" and name != "point_mae") or (
        name == "pointnet2_small" and method in ATTENTION - {"rollout"}
    ):
        with pytest.raises(ValueError, match=r"no class token|no attention among tokens"):
            look(model, points, method=method, **options)
        return
    found = look(model, points, method=method, **options)
    np.testing.assert_array_equal(found.xyz, points[:, :3])
    for one in found.maps:
        assert one.values.shape == ((len(points), 3) if method == "features_pca" else (len(points),))
        if method in ATTENTION:
            assert one.values.min() >= 0
            assert one.values.sum() == pytest.approx(1, abs=1e-4) or not one.values.any()
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_and_heads_are_those_of_the_maps():
    model, points = model_and_points("point_mae")
    with torch.no_grad(), record_attention(model) as maps:
        model([points])
    source = pooled_vector(maps)
    found = look(model, points, method="layer", layers="encoder.layers.1", heads=(2, 0))
    assert [(one.layer, one.head) for one in found.maps] == [
        ("encoder.layers.1.parts.0.mixer", 2),
        ("encoder.layers.1.parts.0.mixer", 0),
    ]
    last = attention_layers(maps)[-1]
    mean = sum(one.values for one in look(model, points, method="layer", layers="*1*", heads=(0, 1, 2)).maps) / 3
    np.testing.assert_allclose(mean, layer_attention(maps, last, source, len(points)), atol=1e-6)
    np.testing.assert_allclose(
        look(model, points).maps[0].values, attention_rollout(maps, source, len(points)), atol=1e-7
    )


class OneKnows(Classifier):
    """Points as tokens, classified by the sum over them of x + y for class 1, and of nothing for class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.num_features = 3, 3
        self.head = ClassificationHead(nn.Identity(), 3, 2, reduce="mean")
        with torch.no_grad():
            self.head.classifier.weight.copy_(torch.tensor([[0.0, 0, 0], [4, 4, 0]]))

    def forward_features(self, points):
        batch = PointBatch.of(points, 3)
        return batch.replace(features=batch.xyz.relu())


def test_without_attention_it_is_no_rollout_of_attention():
    for name, method in (("pointnet2_small", "receptive field"), ("npct", "rollout")):
        (one,) = look(*model_and_points(name)).maps
        assert one.method == method
        assert one.name == f"{method}, all layers"
        assert ("no attention is in it" in one.meaning) == (name == "pointnet2_small")


def test_gradients_of_a_model_that_is_known():
    """Four points: dscore / dx is 4 / 4 for each channel x, y above 0; Grad-CAM is the mean gradient by each feature,
    1 / 4 of 4, times the features: x + y."""
    points = torch.tensor([[1.0, 2, 0], [0.0, -1, 5], [3.0, 0, 1], [-1.0, -1, -1]])
    (cam,) = look(OneKnows(), points, method="grad_cam", target=1).maps
    assert cam.values.tolist() == pytest.approx([3, 0, 3, 0], rel=1e-5, abs=1e-5)
    (slope,) = look(OneKnows(), points, method="saliency", target=1).maps
    assert slope.values.tolist() == pytest.approx([2**0.5, 0, 1, 0], rel=1e-5)
    (same,) = look(OneKnows(), points, method="similarity", query=2).maps
    assert same.values.tolist() == pytest.approx([3 / (5**0.5 * 10**0.5), 1 / 10**0.5, 1, 0], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("method", ["rollout", "gradient_attention", "grad_cam", "saliency"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_where_the_caller_wants_none(mode, method):
    """As notebooks do, which switch gradients off in their first cell."""
    model, points = model_and_points("npct")
    (expected,) = look(model, points, method=method).maps
    with mode():
        (found,) = look(model, points.clone(), method=method).maps
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found.values, expected.values)


def test_a_wrapped_model():
    model, points = model_and_points("voxel_transformer")
    (expected,) = look(model, points, method="grad_cam", box=BOX).maps
    (found,) = look(nn.DataParallel(model), points, method="grad_cam", box=BOX).maps
    np.testing.assert_array_equal(found.values, expected.values)


def test_a_box_is_answered_for_by_its_own_query():
    """The score is that with which the box was predicted, and the map that of the row that predicts it."""
    for name in ("point_detr", "deformable_detector", "voxel_transformer", "pointpillars"):
        model, points = model_and_points(name)
        with torch.no_grad():
            out = model([points])
            boxes = model.predict(out, score_threshold=0.0, max_outputs=3)
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels):
            logit, row = model.score_of(out, box)
            assert (row is not None) == hasattr(model.head, "queries")
            if row is None:
                assert logit.sigmoid().item() == pytest.approx(score.item(), rel=1e-4)
            else:
                probability = probabilities(out.class_logits[0, -1, row])[label]
                assert probability.item() == pytest.approx(score.item(), rel=1e-4)


def test_components_are_those_of_the_points():
    """Of a model whose features are max(x, 0) and so on: with one that varies most in y, then x, and not in z."""
    points = torch.tensor([[1.0, 9, 0], [2, 9, 0], [1, 1, 0], [2, 1, 0], [1.5, 5, -3]])
    (only,) = look(OneKnows(), points, method="features_pca").maps
    assert (only.name, only.is_color) == ("feature components", True)
    expected = points[:, [1, 0]] - points[:, [1, 0]].mean(0)
    np.testing.assert_allclose(np.abs(only.values[:, :2]), expected.abs(), atol=1e-5)
    assert not only.values[:, 2].any()
    (same,) = look(OneKnows(), torch.ones(5, 3), method="features_pca").maps
    assert not same.values.any()


def test_external_attention_is_shown_where_it_is_asked_for():
    class Tokens(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels, self.num_features = 3, 3
            self.mixer = ExternalAttention(dim=3, slots=4)
            self.head = ClassificationHead(nn.Identity(), 3, 2, reduce="mean")

        def forward_features(self, points):
            batch = PointBatch.of(points, 3)
            return batch.replace(features=self.mixer(batch.xyz[None], torch.ones(1, 6, dtype=torch.bool))[0])

    torch.manual_seed(0)
    (shown,) = look(Tokens(), torch.randn(6, 3), method="layer", layers="mixer").maps
    assert shown.layer == "mixer"
    assert shown.values.sum() == pytest.approx(1, abs=1e-5)
    assert shown.values.std() > 0


def test_tokens_are_caught_with_their_places():
    model, points = model_and_points("pointpillars")
    with torch.no_grad(), token_features(model) as found:
        model([points])
    cells = found["pillars"]
    inside = model.grid.cells(points[:, :3])[1]
    nearest = torch.cdist(points[inside, :2], cells.xyz[:, :2]).amin(1)
    assert nearest.max() <= 0.5 * 0.5**0.5 + 1e-5  # half a diagonal of a cell of 0.5 m


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("npct", {"method": "magic"}, "method must be one of rollout, last_layer"),
        ("npct", {"query": 80}, "query must be the row of one of 80 points, got 80"),
        ("npct", {"box": BOX}, "PCT finds no boxes"),
        ("npct", {"method": "layer", "layers": "nothing"}, "is called nothing; there are attention.0"),
        ("npct", {"method": "layer", "heads": (7,)}, r"attention.0 has heads 0 to 0, got \[7\]"),
        ("npct", {"method": "grad_cam", "target": 5}, "target must be a class from 0 to 4, got 5"),
        ("npct", {"method": "grad_cam", "layers": "nothing"}, "called nothing gives tokens with places; there are"),
        ("npct", {"layers": "attention.0"}, "rollout takes no layers; those that do are layer, grad_cam"),
        ("npct", {"heads": (0,)}, "rollout takes no heads; those that do are layer, last_layer, class_token$"),
        ("npct", {"method": "saliency", "query": 1}, "saliency of PCT is from no point, since its scores are"),
        ("npct", {"method": "features_pca", "query": 1}, "features_pca is from no point; leave query out"),
        ("npct", {"method": "similarity"}, "similarity is to the features at a point; give its row"),
        ("point_transformer_v3_seg", {}, "says something of each place: look from one, give the row of a point"),
        ("voxel_transformer", {}, "look from one, give a box that it found"),
        ("voxel_transformer", {"method": "saliency", "query": 1}, "the scores of a detector are those of its boxes"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_explained(name, options, text):
    model, points = model_and_points(name)
    with pytest.raises(ValueError, match=text):
        look(model, points, **options)


@pytest.mark.parametrize("method", METHODS)
def test_without_points_there_is_nothing_to_look_at(method):
    with pytest.raises(ValueError, match="there are no points to look at; give a cloud with at least one"):
        look(small("npct"), torch.zeros(0, 3), method=method)
