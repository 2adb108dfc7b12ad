"""Every layer of attention of every registered model: recorded, true to the output, and followed down to the points."""

import pytest
import torch

from pctransformer import record_attention
from pctransformer.layers.deformable import MultiScaleDeformableAttention
from pctransformer.layers.recording import RecordedAttention
from pctransformer.models import list_models, model_info
from pctransformer.visualization.heights import heights
from pctransformer.visualization.rollout import attention_rollout, layer_attention
from pctransformer.visualization.sources import Source, attention_layers, in_box, last_row, pooled_vector
from tests.models.small import output, shapes, small

BOX = (3.0, 0.5, -0.5, 4.0, 3.0, 2.0, 0.3)


def totals(found):
    """(queries,) what the weights of each add up to."""
    query, _, weight = found.pairs()
    return torch.zeros(len(found)).index_add(0, query, weight)


def scene(model, clouds=2, points=80):
    """Clouds that fill a detector's range, or the unit ball."""
    points = shapes(model, clouds, points)
    if hasattr(model, "grid"):
        low, high = torch.tensor(model.grid.low), torch.tensor(model.grid.high)
        points[..., :3] = low + (0.5 + 0.3 * points[..., :3]).clamp(0, 0.999) * (high - low)
    return points


@pytest.mark.parametrize("name", list_models())
def test_maps_of_every_model(name):
    model = small(name).eval()
    points = scene(model)
    with torch.no_grad():
        plain = output(model, points)
        with record_attention(model) as maps:
            recorded = output(model, points)
    torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-5)
    assert not any(getattr(layer, "_recorders", ()) for layer in model.modules())

    modules = dict(model.named_modules())
    attention = {name for name, layer in modules.items() if isinstance(layer, RecordedAttention)}
    assert attention == {found.layer for found in maps if found.keys in ("tokens", "context", "memory")}
    for i, found in enumerate(maps):
        assert (found.weights >= 0).all()
        total = totals(found)
        if isinstance(
            modules[found.layer], MultiScaleDeformableAttention
        ):  # places outside of the maps have weight too
            assert (total <= 1 + 1e-5).all()
        elif found.keys in ("tokens", "context", "memory"):
            torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)
        elif found.keys == "children":
            if i + 1 < len(maps) and maps[i + 1].keys == "skip":
                total = total + totals(maps[i + 1])
            made = total[total != 0]  # what is learned, and cells without points, are made of nothing
            torch.testing.assert_close(made, torch.ones_like(made), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in list_models() if model_info(name).task != "pretraining"])
def test_from_the_top_of_every_model_to_the_points_of_its_cloud(name):
    model = small(name).eval()
    points = scene(model)
    with torch.no_grad(), record_attention(model) as maps:
        output(model, points)
    count = len(points[0])
    known = heights(maps, 2 * count)
    top = Source(len(maps), torch.zeros(known.sizes[-1]).index_fill(0, torch.tensor([known.sizes[-1] - 1]), 1.0))
    if known.sizes[-1] % 2 == 0 and model_info(name).task == "detection":  # whole maps, or queries: the second half
        top = Source(len(maps), (torch.arange(known.sizes[-1]) >= known.sizes[-1] / 2) * (2 / known.sizes[-1]))
    weights = attention_rollout(maps, top, 2 * count)
    assert weights.shape == (2 * count,)
    assert (weights >= 0).all()
    assert weights[count:].sum().item() == pytest.approx(1, abs=1e-4)
    layers = attention_layers(maps)
    if layers:
        weights = layer_attention(maps, layers[-1], top, 2 * count)
        assert weights[:count].sum() == 0
        assert weights.sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    ["npct", "point_transformer_v3", "point_transformer_v3_seg", "voxel_transformer", "pillar_transformer_small",
     "plain_transformer", "second_small", "deformable_detector"],
)  # fmt: skip
def test_a_permuted_cloud_gives_the_permuted_map(name):
    """Of models that choose no points by their order, as farthest point sampling chooses the first."""
    model = small(name).eval()
    points = scene(model, 1)[0]
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(3))
    found = []
    for rows in (torch.arange(len(points)), order):
        with torch.no_grad(), record_attention(model) as maps:
            output(model, [points[rows]])
        if model_info(name).task == "classification":
            source = pooled_vector(maps)
        elif model_info(name).task == "segmentation":
            source = last_row(maps, int((rows == 5).nonzero()))
        else:
            source = in_box(maps, BOX, points[rows, :3])
        found.append(attention_rollout(maps, source, len(points)))
    torch.testing.assert_close(found[1], found[0][order], rtol=1e-3, atol=1e-6)
    assert found[0].std() > 1e-3
