"""The anchor head: what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor import AnchorHead, AnchorOutput
from pctransformer.heads.assignment import IGNORED, assign_anchors
from pctransformer.heads.box_coding import encode_boxes
from pctransformer.voxels import BevMap, Grid
from tests.heads.boxes import FEW, FEW_GRID, FEW_RANGE, assert_found, fit, random_objects

GRID = Grid.from_range(FEW_RANGE, (1.0, 1.0, 4.0))


def random_head_and_output(clouds: int, seed: int = 0) -> tuple[AnchorHead, AnchorOutput]:
    """A head, and an output as if of a network that has learnt something."""
    torch.manual_seed(seed)
    head = AnchorHead(4, range=FEW_RANGE)
    count = head.layout(GRID).count
    output = AnchorOutput(
        torch.randn(clouds, count, 3) - 2, torch.randn(clouds, count, 7) * 0.5, torch.randn(clouds, count, 2), GRID
    )
    return head, output


def found(head: AnchorHead, output: AnchorOutput, **settings: float) -> list[tuple[int, int]]:
    """Cloud and class of each box found."""
    boxes = head.predict(output, **settings)  # type: ignore[arg-type]
    return list(zip(boxes.batch_index.tolist(), boxes.labels.tolist()))


# ---- the layers ------------------------------------------------------------------------------------------------------
def test_a_map_of_another_range_is_refused():
    head = AnchorHead(4, range=FEW_RANGE)
    moved = Grid((-0.9, -8.9, -3.0), (1.0, 1.0, 4.0), (1, 16, 16))
    assert head.layout(moved) == head.layout(GRID)
    for low, size, axis in (((-1.1, -8.0), (1.0, 1.0), "x"), ((0.0, -8.0), (1.0, 1.1), "y")):
        with pytest.raises(ValueError, match=rf"the map reaches from .* along {axis}, the range of the head from"):
            head.layout(Grid((*low, -3.0), (*size, 4.0), (1, 16, 16)))


def test_a_fresh_head_believes_that_nothing_is_there():
    torch.manual_seed(0)
    head = AnchorHead(64, range=FEW_RANGE)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "conv_cls.weight": (18, 64, 1, 1),
        "conv_cls.bias": (18,),
        "conv_box.weight": (42, 64, 1, 1),
        "conv_box.bias": (42,),
        "conv_dir_cls.weight": (12, 64, 1, 1),
        "conv_dir_cls.bias": (12,),
    }
    assert torch.equal(head.conv_cls.bias, torch.full((18,), -math.log(99)))
    assert head.conv_box.weight.std().item() == pytest.approx(0.001, rel=0.1)


def test_channels_of_the_layers_are_anchors_of_a_place():
    """Channel (class * 2 + heading) * k + i of the map at row y and column x is value i of that anchor there."""
    head = AnchorHead(1, range=FEW_RANGE)
    for conv in (head.conv_cls, head.conv_box, head.conv_dir_cls):
        torch.nn.init.ones_(conv.weight)
        conv.bias.data = torch.arange(len(conv.bias)) / 64
    place = torch.arange(16 * 16).view(1, 1, 16, 16).float()
    output = head(BevMap(place, GRID))
    for values, channels in ((output.class_logits, 3), (output.box_codes, 7), (output.direction_logits, 2)):
        cells = values.view(16, 16, 3, 2, channels)
        assert cells[5, 9, 2, 1].tolist() == [5 * 16 + 9 + ((2 * 2 + 1) * channels + i) / 64 for i in range(channels)]
    last = head(BevMap(place.to(memory_format=torch.channels_last), GRID))
    assert all(torch.equal(a, b) for a, b in zip(output[:3], last[:3]))


# ---- loss ------------------------------------------------------------------------------------------------------------
def loss_by_loops(head: AnchorHead, output: AnchorOutput, boxes: BoxBatch) -> dict[str, float]:
    """The three parts, from targets and formulas, anchor by anchor."""
    layout = head.layout(output.grid)
    targets = assign_anchors(layout, boxes)
    box_of = dict(zip(targets.anchor.tolist(), targets.box.tolist()))
    anchors = layout.all_boxes().tolist()
    total = {"class": 0.0, "box": 0.0, "direction": 0.0}
    for cloud, labels in enumerate(targets.labels.tolist()):
        weight = 1 / max(1, sum(label >= 0 for label in labels)) / len(boxes)
        for a, label in enumerate(labels):
            if label != IGNORED:
                for k, logit in enumerate(output.class_logits[cloud, a].tolist()):
                    p = 1 / (1 + math.exp(-logit))
                    yes, no = -0.25 * (1 - p) ** 2 * math.log(p), -0.75 * p**2 * math.log(1 - p)
                    total["class"] += weight * (yes if k == label else no)
            if label < 0:
                continue
            box, anchor = boxes.boxes[box_of[cloud * len(labels) + a]].tolist(), anchors[a]
            diagonal = math.hypot(anchor[3], anchor[4])
            code = output.box_codes[cloud, a].tolist()
            differences = [
                code[0] - (box[0] - anchor[0]) / diagonal,
                code[1] - (box[1] - anchor[1]) / diagonal,
                code[2] - (box[2] - anchor[2]) / anchor[5],
                *(code[i] - math.log(box[i] / anchor[i]) for i in (3, 4, 5)),
                math.sin(code[6] - (box[6] - anchor[6])),
            ]
            for one in differences:
                small = abs(one) < 1 / 9
                total["box"] += 2 * weight * (one * one / 2 * 9 if small else abs(one) - 1 / 18)
            first_half = (box[6] - 0.78539) % (2 * math.pi) < math.pi
            logits = output.direction_logits[cloud, a].tolist()
            right, wrong = logits if first_half else logits[::-1]
            total["direction"] += 0.2 * weight * math.log(1 + math.exp(wrong - right))
    return total


@pytest.mark.parametrize("seed", range(2))
def test_loss_is_the_sum_of_its_parts_as_published(seed):
    boxes = random_objects([6, 0, 11], FEW_RANGE, seed, spread=1.1)
    boxes = boxes.replace(labels=torch.where(torch.arange(17) == 4, -1, boxes.labels))
    head, output = random_head_and_output(3, seed)
    loss = head.loss(output, boxes)
    expected = loss_by_loops(head, output, boxes)
    assert {name: value.item() for name, value in loss.items() if name != "loss"} == pytest.approx(expected, rel=1e-4)
    assert loss["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_loss_of_what_is_there_is_almost_nothing():
    """The codes and directions that targets are made of, and logits that are sure."""
    boxes = random_objects([6, 9], FEW_RANGE)
    head, _ = random_head_and_output(2)
    layout = head.layout(GRID)
    targets = assign_anchors(layout, boxes)
    classes = torch.where(targets.labels[..., None] == torch.arange(3), 20.0, -20.0)
    codes = torch.zeros(2 * layout.count, 7)
    of_box = boxes.boxes[targets.box]
    codes[targets.anchor] = encode_boxes(of_box, layout.boxes(targets.anchor % layout.count))
    codes[:, 6] += math.pi  # the box code does not tell a box from its reverse
    directions = torch.zeros(2 * layout.count, 2)
    directions[targets.anchor, ((of_box[:, 6] - 0.78539) % (2 * math.pi) >= math.pi).long()] = 20
    output = AnchorOutput(classes, codes.view(2, -1, 7), directions.view(2, -1, 2), GRID)
    assert head.loss(output, boxes)["loss"].item() < 1e-6


def test_gradients_of_the_loss():
    boxes = random_objects([9], FEW_RANGE)
    torch.manual_seed(0)
    head = AnchorHead(2, range=FEW_RANGE)
    grid = Grid.from_range(FEW_RANGE, (8.0, 8.0, 4.0))
    count = head.layout(grid).count
    leaves = [torch.randn(1, count, channels).double().requires_grad_() for channels in (3, 7, 2)]

    def loss(*values: Tensor) -> Tensor:
        return head.loss(AnchorOutput(*values, grid), boxes)["loss"]

    assert loss(*leaves).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, leaves)


def test_loss_without_objects_trains_classes_alone_but_reaches_every_parameter():
    head = AnchorHead(4, range=FEW_RANGE)
    bev = BevMap(torch.randn(2, 4, 16, 16), GRID)
    loss = head.loss(head(bev), BoxBatch.from_list([torch.zeros(0, 7)] * 2))
    assert loss["box"] == loss["direction"] == 0 < loss["class"]
    loss["loss"].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert head.conv_cls.weight.grad.abs().sum() > 0
    assert head.conv_box.weight.grad.abs().sum() == head.conv_dir_cls.weight.grad.abs().sum() == 0


def test_loss_repeats_and_does_not_depend_on_the_order_of_boxes():
    boxes = random_objects([20, 20], FEW_RANGE)
    order = torch.cat([torch.randperm(20), 20 + torch.randperm(20)])
    shuffled = boxes.replace(boxes=boxes.boxes[order], labels=boxes.labels[order])
    head, output = random_head_and_output(2)
    grads = []
    for given in (boxes, boxes, shuffled):
        leaves = [values.clone().requires_grad_() for values in output[:3]]
        head.loss(AnchorOutput(*leaves, GRID), given)["loss"].backward()
        grads.append([leaf.grad for leaf in leaves])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other))


def test_half_precision():
    boxes = random_objects([5, 3], FEW_RANGE)
    torch.manual_seed(0)
    head = AnchorHead(16, range=FEW_RANGE)
    bev = BevMap(torch.randn(2, 16, 16, 16), GRID)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(bev)
        loss = head.loss(output, boxes)
        detections = head.predict(output, score_threshold=0)
    assert output.box_codes.dtype == torch.bfloat16
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    full = head.loss(output._replace(**{name: getattr(output, name).float() for name in output._fields[:3]}), boxes)
    for name, value in loss.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, full[name])


def test_loss_wants_boxes_of_the_same_clouds():
    head, output = random_head_and_output(2)
    with pytest.raises(ValueError, match="the output is of 2 clouds, the boxes are of 3"):
        head.loss(output, FEW)


def test_loss_as_cuda_computes_it(monkeypatch):
    """Rows of no anchor, which pad what CUDA does not wait to count, change nothing."""
    boxes = random_objects([6, 0, 11], FEW_RANGE)
    head, output = random_head_and_output(3)
    leaves = [values.clone().requires_grad_() for values in output[:3]]
    loss = head.loss(AnchorOutput(*leaves, GRID), boxes)["loss"]
    grads = torch.autograd.grad(loss, leaves)
    monkeypatch.setattr("pctransformer.heads.assignment._may_look", lambda values: False)
    padded = head.loss(AnchorOutput(*leaves, GRID), boxes)["loss"]
    torch.testing.assert_close(padded, loss)
    for a, b in zip(torch.autograd.grad(padded, leaves), grads):
        torch.testing.assert_close(a, b)


def test_loss_needs_no_value_but_on_the_cpu():
    """Tensors without values, as a GPU that is not waited for."""
    count = AnchorHead(4, range=FEW_RANGE).layout(GRID).count
    leaves = [torch.zeros(3, count, channels, device="meta", requires_grad=True) for channels in (3, 7, 2)]
    loss = AnchorHead(4, range=FEW_RANGE).loss(AnchorOutput(*leaves, GRID), FEW.to("meta"))["loss"]
    loss.backward()
    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


# ---- predictions -----------------------------------------------------------------------------------------------------
def silent(clouds: int = 1) -> tuple[AnchorHead, AnchorOutput]:
    """An output that finds nothing and leaves every anchor as it is."""
    head = AnchorHead(4, range=FEW_RANGE)
    count = head.layout(GRID).count
    directions = torch.tensor([0.0, 1]).expand(clouds, count, 2).clone()  # the half that holds heading 0
    return head, AnchorOutput(torch.full((clouds, count, 3), -9.0), torch.zeros(clouds, count, 7), directions, GRID)


def number(y: int, x: int, label: int, heading: int) -> int:
    return ((y * 16 + x) * 3 + label) * 2 + heading


def test_one_anchor_by_hand():
    head, output = silent(2)
    a = number(5, 10, 0, 1)  # x 10 * 16 / 15, y -8 + 5 * 16 / 15, heading 1.57
    output.class_logits[1, a] = torch.tensor([0.0, 2.0, 1.0])  # any class may stand at an anchor of cars
    output.box_codes[1, a] = torch.tensor([0.1, -0.2, 0.5, math.log(2), 0, 0, 0.03])
    for direction, heading in ((0, 1.6), (1, 1.6 - math.pi)):
        output.direction_logits[1, a] = torch.tensor([3.0, -1.0]) * (1 - 2 * direction)
        boxes = head.predict(output)
        assert boxes.offsets.tolist() == [0, 0, 1]
        assert boxes.labels.tolist() == [1]
        assert boxes.scores.tolist() == pytest.approx([1 / (1 + math.exp(-2))])
        diagonal = math.hypot(3.9, 1.6)
        expected = [32 / 3 + 0.1 * diagonal, -8 / 3 - 0.2 * diagonal, -1 + 0.78, 7.8, 1.6, 1.56, heading]
        assert boxes.boxes[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_of_boxes_that_overlap_the_best_is_kept_whatever_the_classes():
    head, output = silent()
    for a, label, logit in (
        (number(5, 10, 0, 0), 0, 1.0),
        (number(5, 11, 0, 0), 0, 2.0),  # a metre ahead
        (number(5, 11, 1, 0), 1, 0.5),  # a pedestrian in the second car
        (number(9, 3, 2, 0), 2, 0.0),
        (number(9, 3, 2, 1), 2, -3.0),  # 0.047, less than 0.1
    ):
        output.class_logits[0, a, label] = logit
    assert found(head, output) == [(0, 0), (0, 2)]
    assert head.predict(output).scores.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert found(head, output, nms_threshold=1) == [(0, 0), (0, 0), (0, 1), (0, 2)]
    assert found(head, output, nms_threshold=1, score_threshold=0.04) == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 2)]
    assert found(head, output, nms_threshold=1, max_outputs=2) == [(0, 0), (0, 0)]
    assert found(head, output, nms_threshold=1, max_candidates=3) == [(0, 0), (0, 0), (0, 1)]
    assert found(head, output, score_threshold=0.5) == [(0, 0), (0, 2)]
    assert found(head, output, score_threshold=0.6) == [(0, 0)]


def test_equal_scores_are_taken_in_the_order_of_anchors():
    head, output = silent()
    output.class_logits[0, :, 0] = 1.0
    boxes = head.predict(output, nms_threshold=1, max_candidates=2000, max_outputs=2000)
    torch.testing.assert_close(boxes.boxes[:, :6], head.layout(GRID).all_boxes()[:, :6], atol=1e-6, rtol=0)


def test_clouds_without_detections():
    head, output = silent(3)
    boxes = head.predict(output)
    assert boxes.offsets.tolist() == [0, 0, 0, 0]
    assert boxes.boxes.shape == (0, 7)
    assert boxes.scores.shape == (0,)
    assert not boxes.boxes.requires_grad


def test_outputs_that_are_no_numbers_are_refused():
    head, output = silent(2)
    output.class_logits[1, 7, 2] = math.nan
    with pytest.raises(ValueError, match=r"1 of 1536 scores of cloud 1 are NaN: .* diverged in training"):
        head.predict(output)
    head, output = silent(2)
    output.box_codes[0, 7, 2] = math.nan  # of an anchor that finds nothing
    assert found(head, output) == []
    output.class_logits[0, 7, 2] = 3
    with pytest.raises(ValueError, match=r"1 of 1 boxes that score enough are NaN or infinite: .* diverged"):
        head.predict(output)
    head, output = silent()
    output.class_logits[0, 7] = math.inf
    output.box_codes[0, 7, 3:6] = 1e20
    assert head.predict(output).scores.tolist() == [1]


def test_thresholds_that_are_refused():
    head, output = silent()
    for settings, text in (
        ({"score_threshold": 2}, "score_threshold must be between 0 and 1, got 2"),
        ({"nms_threshold": -1}, "threshold must be between 0 and 1"),
        ({"max_candidates": 0}, "max_candidates must be at least 1, got 0"),
        ({"max_outputs": 0}, "max_outputs must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            head.predict(output, **settings)


# ---- together --------------------------------------------------------------------------------------------------------
def test_a_free_map_learns_a_handful_of_boxes():
    torch.manual_seed(0)
    head = AnchorHead(24, range=FEW_RANGE)
    features = fit(head, 24, steps=120, lr=0.05)
    assert_found(head.predict(head(BevMap(features, FEW_GRID)), score_threshold=0.5), FEW)
