import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, box_iou, box_nms, points_in_boxes, reference
from tests.cuda_emulation import build
from tests.ops.boxes import cars, hostile_boxes
from tests.ops.clouds import offsets_of, ragged

OPERATORS = torch.ops.pctransformer
VIEWS = ("3d", "bev")
compiled_only = pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")


def box(x=0.0, y=0.0, z=0.0, dx=2.0, dy=2.0, dz=2.0, heading=0.0):
    return torch.tensor([[x, y, z, dx, dy, dz, heading]])


def one_iou(a, b, view="bev"):
    return box_iou(a, b, view=view).item()


def scores_of(n, seed=0):
    """With ties."""
    return torch.randint(0, max(1, n // 2), (n,), generator=torch.Generator().manual_seed(seed)).float()


def near_points(boxes, n, seed=0):
    """Points around the boxes, every tenth of them on a face, an edge or a corner of one."""
    generator = torch.Generator().manual_seed(seed)
    own = boxes[torch.randint(0, len(boxes), (n,), generator=generator)]
    place = 1.4 * torch.rand(n, 3, generator=generator) - 0.7
    place[::10] = place[::10].sign() * 0.5
    along, across = own[:, 3] * place[:, 0], own[:, 4] * place[:, 1]
    cosine, sine = own[:, 6].cos(), own[:, 6].sin()
    turned = torch.stack([along * cosine - across * sine, along * sine + across * cosine, own[:, 5] * place[:, 2]], 1)
    return own[:, :3] + turned


# ---- how much boxes overlap ------------------------------------------------------------------------------------------
def test_iou_by_hand():
    """Squares of 2 x 2: half of one side shared, a quarter shared, turned by 45 degrees (an octagon is shared)."""
    square = box()
    assert one_iou(square, box(x=1)) == pytest.approx(2 / 6, abs=1e-7)
    assert one_iou(square, box(x=1, y=1)) == pytest.approx(1 / 7, abs=1e-7)
    octagon = 8 * (math.sqrt(2) - 1)
    assert one_iou(square, box(heading=math.pi / 4)) == pytest.approx(octagon / (8 - octagon), abs=1e-7)
    assert one_iou(square, box(heading=math.pi / 4, z=1), "3d") == pytest.approx(octagon / (16 - octagon), abs=1e-7)
    assert one_iou(square, box(x=1, z=1, dz=4), "3d") == pytest.approx(4 / (8 + 16 - 4), abs=1e-7)


def test_heading_turns_counter_clockwise_from_x():
    """A long box along +x turned by 30 degrees reaches up and to the right."""
    turned = box(dx=10, dy=1, heading=math.pi / 6)
    for angle, meets in [(30, True), (210, True), (150, False), (-30, False)]:
        x, y = 4 * math.cos(math.radians(angle)), 4 * math.sin(math.radians(angle))
        assert (one_iou(turned, box(x, y, dx=0.1, dy=0.1)) > 0) == meets


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("where", [(0.0, 0.0, 0.0), (1e4, -1e4, 50.0), (1e4, 2e4, 1e4)])
def test_degenerate_pairs(view, where):
    """Each pair at the origin and 10 km away from it, where float32 still tells halves of a metre apart."""
    x, y, z = where
    a = box(x, y, z, 4, 2, 2, 0.3)
    assert one_iou(a, a, view) == pytest.approx(1, abs=1e-6)
    for heading in (math.pi / 2, -math.pi / 2):  # another box of the same place
        assert one_iou(a, box(x, y, z, 2, 4, 2, 0.3 + heading), view) == pytest.approx(1, abs=1e-6)
    assert one_iou(a, box(x, y, z, 4, 2, 2, 0.3 + math.pi), view) == pytest.approx(1, abs=1e-6)
    assert one_iou(box(x, y, z), box(x + 2, y, z), view) == 0  # a face
    assert one_iou(box(x, y, z), box(x + 2, y + 2, z), view) == 0  # an edge
    assert one_iou(box(x, y, z), box(x + 1, y, z + 2), "3d") == 0
    assert one_iou(box(x, y, z), box(x, y, z, 0.5, 0.5, 0.5, 1.1), view) == pytest.approx(
        0.5**3 / 8 if view == "3d" else 0.25 / 4, abs=1e-7
    )
    for nothing in (box(x, y, z, 0, 2, 2), box(x, y, z, 0, 0, 0), box(x, y, z, 2, 0, 2, 0.7)):
        assert one_iou(nothing, nothing, view) == 0
        assert one_iou(nothing, box(x, y, z), view) == 0
    long, thin = box(x, y, z, 1000, 0.5, 2, 0.25), box(x, y, z, 0.5, 1000, 2, 0.25)
    shared = 0.25 * (2 if view == "3d" else 1)
    whole = 500 * (2 if view == "3d" else 1)
    assert one_iou(long, thin, view) == pytest.approx(shared / (2 * whole - shared), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-6, 1.0, 1e6, 1e18, 1e30])
def test_scale_does_not_matter(scale):
    boxes = cars(40, span=3) * torch.tensor([scale] * 6 + [1.0])
    for view in VIEWS:
        torch.testing.assert_close(
            box_iou(boxes, boxes, view=view), box_iou(cars(40, span=3), cars(40, span=3), view=view), rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("turns", [1, -7, 1000, 100_000])
def test_whole_turns_do_not_matter(turns):
    """Up to what float32 keeps of such an angle."""
    boxes = cars(60, span=3)
    turned = boxes.clone()
    turned[:, 6] = (turned[:, 6].double() + 2 * math.pi * turns).float()
    back = boxes.clone()
    back[:, 6] = (turned[:, 6].double() - 2 * math.pi * turns).float()  # the same angle, rounded
    torch.testing.assert_close(box_iou(turned, boxes), box_iou(back, boxes), rtol=0, atol=3e-6)
    assert (box_iou(turned, turned, aligned=True) - 1).abs().max() <= 1e-6


def corners(boxes):
    """(n, 4, 2) float64 corners seen from above, with the sines of numpy."""
    x, y, _, dx, dy, _, heading = boxes.double().numpy().T
    along = np.stack([dx, -dx, -dx, dx], 1) / 2
    across = np.stack([dy, dy, -dy, -dy], 1) / 2
    cosine, sine = np.cos(heading)[:, None], np.sin(heading)[:, None]
    return np.stack([x[:, None] + along * cosine - across * sine, y[:, None] + along * sine + across * cosine], -1)


def by_shapely(a, b):
    shapely = pytest.importorskip("shapely")
    ones, twos = shapely.polygons(corners(a)), shapely.polygons(corners(b))
    shared = shapely.area(shapely.intersection(ones, twos))
    area_a, area_b = (x[:, 3].double().numpy() * x[:, 4].double().numpy() for x in (a, b))
    bev = shared / (area_a + area_b - shared)
    top = torch.minimum(*(x[:, 2].double() + x[:, 5].double() / 2 for x in (a, b)))
    bottom = torch.maximum(*(x[:, 2].double() - x[:, 5].double() / 2 for x in (a, b)))
    volume = shared * (top - bottom).clamp_min(0).numpy()
    height_a, height_b = a[:, 5].double().numpy(), b[:, 5].double().numpy()
    return {"bev": bev, "3d": volume / (area_a * height_a + area_b * height_b - volume)}


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_iou_equals_shapely(shift):
    """100 000 pairs, most of which overlap, of all proportions."""
    n = 100_000
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(2):
        boxes = np.c_[random.normal(0, 0.5, (n, 3)), 10 ** random.uniform(-1, 1, (n, 3)), random.uniform(-7, 7, n)]
        pairs.append(torch.from_numpy(boxes.astype(np.float32)) + torch.tensor([shift, -shift, shift, 0, 0, 0, 0]))
    expected = by_shapely(*pairs)
    assert (expected["3d"] > 0).mean() > 0.4
    for view in VIEWS:
        ours = box_iou(*pairs, view=view, aligned=True).double().numpy()
        assert np.abs(ours - expected[view]).max() < (
            1e-6 if shift == 0 else 1e-5
        )  # shapely sees no centre to subtract


def test_iou_equals_counting_points():
    """Of points drawn evenly around two boxes: the share inside of both, by another road than areas."""
    a, b = cars(12, seed=1, span=1), cars(12, seed=2, span=1)
    n = 200_000
    draws = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    for i, expected in enumerate(box_iou(a, b, aligned=True).tolist()):
        both = torch.stack([a[i], b[i]])
        points = both[:, :3].amin(0) - 4 + draws * (8 + both[:, :3].amax(0) - both[:, :3].amin(0))
        one, two = (points_in_boxes(points, offsets_of([n]), both[j : j + 1], offsets_of([1])) >= 0 for j in (0, 1))
        union = int((one | two).sum())
        share = int((one & two).sum()) / union
        assert share == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(union))


@pytest.mark.parametrize("view", VIEWS)
def test_iou_is_symmetric_and_does_not_change_with_the_frame(view):
    a, b = cars(150, seed=1, span=10), cars(120, seed=2, span=10)
    plain = box_iou(a, b, view=view)
    assert (plain > 0).sum() > 300
    torch.testing.assert_close(box_iou(b, a, view=view).T, plain, rtol=0, atol=1.2e-7)
    turn, move = 0.7, torch.tensor([3.0, -5, 2])

    def moved(boxes):
        x, y, z = boxes[:, :3].unbind(1)
        c, s = math.cos(turn), math.sin(turn)
        return torch.cat(
            [torch.stack([c * x - s * y, s * x + c * y, z], 1) + move, boxes[:, 3:6], boxes[:, 6:] + turn], 1
        )

    torch.testing.assert_close(
        box_iou(moved(a), moved(b), view=view), plain, rtol=0, atol=5e-6
    )  # moved boxes are rounded
    mirrored = [boxes * torch.tensor([1.0, -1, 1, 1, 1, 1, -1]) for boxes in (a, b)]
    torch.testing.assert_close(box_iou(*mirrored, view=view), plain, rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", hostile_boxes())
def test_iou_equals_reference_on_hostile_boxes(name, view):
    """To the last bit, and between 0 and 1."""
    boxes, others = hostile_boxes(300)[name], hostile_boxes(300, seed=1)[name][:170]
    ours = box_iou(boxes, others, view=view)
    assert torch.equal(ours, reference.box_iou(boxes, others, False, view == "bev"))
    assert ((ours >= 0) & (ours <= 1)).all()
    aligned = box_iou(boxes[:170], others, view=view, aligned=True)
    assert torch.equal(aligned, ours.diagonal())
    own = box_iou(boxes, boxes, view=view, aligned=True)
    real = (boxes[:, 3:6] if view == "3d" else boxes[:, 3:5]).gt(0).all(1)
    assert (own - real.float()).abs().max() <= 1e-6


def test_no_boxes():
    none, some = torch.zeros(0, 7), cars(3)
    assert box_iou(none, some).shape == (0, 3)
    assert box_iou(some, none).shape == (3, 0)
    assert box_iou(none, none, aligned=True).shape == (0,)
    index, kept_offsets = box_nms(none, offsets_of([0, 0]), torch.zeros(0), 0.5)
    assert index.shape == (0,)
    assert kept_offsets.tolist() == [0, 0, 0]
    assert points_in_boxes(torch.zeros(2, 3), offsets_of([2]), none, offsets_of([0])).tolist() == [-1, -1]
    assert points_in_boxes(torch.zeros(0, 3), offsets_of([0]), some, offsets_of([3])).shape == (0,)


def test_the_result_has_no_gradient():
    boxes = cars(3).requires_grad_()
    assert not box_iou(boxes, boxes).requires_grad


# ---- which boxes to keep ---------------------------------------------------------------------------------------------
def test_nms_by_hand():
    """Squares at x = 0, 1, 2 share a third with their neighbours: the middle one goes, or takes both others away."""
    boxes = torch.cat([box(x=0), box(x=1), box(x=2), box(x=9)])
    offsets = offsets_of([4])
    assert box_nms(boxes, offsets, torch.tensor([0.9, 0.8, 0.7, 0.1]), 0.3)[0].tolist() == [0, 2, 3]
    assert box_nms(boxes, offsets, torch.tensor([0.8, 0.9, 0.7, 0.95]), 0.3)[0].tolist() == [3, 1]
    assert box_nms(boxes, offsets, torch.tensor([0.8, 0.9, 0.7, 0.95]), 0.34)[0].tolist() == [3, 1, 0, 2]
    index, kept_offsets = box_nms(boxes, offsets, torch.tensor([0.8, 0.9, 0.7, 0.95]), 0.34, max_outputs=3)
    assert index.tolist() == [3, 1, 0]
    assert kept_offsets.tolist() == [0, 3]
    assert box_nms(boxes, offsets_of([1, 0, 3]), torch.tensor([0.1, 0.8, 0.7, 0.9]), 0.3)[0].tolist() == [0, 3, 1]


def test_nms_in_space_sees_heights():
    boxes = torch.cat([box(), box(z=1.9)])
    scores = torch.tensor([0.5, 0.6])
    assert box_nms(boxes, offsets_of([2]), scores, 0.5)[0].tolist() == [1]
    assert box_nms(boxes, offsets_of([2]), scores, 0.5, view="3d")[0].tolist() == [1, 0]


def test_nms_ties_go_to_the_lower_index_and_an_overlap_of_the_threshold_is_allowed():
    boxes = torch.cat([box(), box(), box(x=1)])
    index, _ = box_nms(boxes, offsets_of([3]), torch.tensor([0.0, -0.0, -0.0]), 0.2)  # both zeros are equal
    assert index.tolist() == [0]
    third = box_iou(boxes[:1], boxes[2:], view="bev").item()
    below = float(np.nextafter(np.float32(third), np.float32(0)))
    assert box_nms(boxes, offsets_of([3]), torch.zeros(3), third)[0].tolist() == [0, 2]
    assert box_nms(boxes, offsets_of([3]), torch.zeros(3), below)[0].tolist() == [0]
    assert box_nms(boxes, offsets_of([3]), torch.zeros(3), 1.0)[0].tolist() == [0, 1, 2]


def test_nms_by_class_is_nms_of_each_class():
    boxes, scores = cars(200, span=6), torch.rand(200, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(-1, 3, (200,), generator=torch.Generator().manual_seed(1))
    together, _ = box_nms(boxes, offsets_of([200]), scores, 0.1, labels=labels)
    apart = []
    for label in range(-1, 3):
        rows = (labels == label).nonzero()[:, 0]
        apart.append(rows[box_nms(boxes[rows], offsets_of([len(rows)]), scores[rows], 0.1)[0]])
    assert sorted(together.tolist()) == sorted(torch.cat(apart).tolist())
    assert (scores[together].diff() <= 0).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["cars", *hostile_boxes()])
def test_nms_equals_reference(name, view):
    boxes = cars(200, span=10) if name == "cars" else hostile_boxes(60)[name]
    n = len(boxes)
    offsets, scores, labels = offsets_of([n // 3, 0, 1, n - n // 3 - 1]), scores_of(n), scores_of(n, 1).long() % 2
    for threshold, classes, most in [(0.0, None, n), (0.1, labels, n), (0.1, None, 3), (0.7, None, n)]:
        ours = box_nms(boxes, offsets, scores, threshold, labels=classes, max_outputs=most, view=view)
        expected = reference.box_nms(boxes, offsets, scores, classes, threshold, most, view == "bev")
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0, 1), st.floats(0.5, 40))
def test_nms_keeps_what_it_says(seed, n, threshold, span):
    """No two that are kept overlap; what is gone overlaps a better one that was kept; few outputs are the first."""
    boxes, scores, offsets = cars(n, seed, span), scores_of(n, seed), offsets_of([n])
    kept, _ = box_nms(boxes, offsets, scores, threshold)
    limit = np.float32(threshold)
    iou = box_iou(boxes, boxes, view="bev") > limit
    better = (scores[None] > scores[:, None]) | (
        (scores[None] == scores[:, None]) & (torch.arange(n)[None] < torch.arange(n)[:, None])
    )
    among = iou[kept][:, kept] & better[kept][:, kept]
    assert not among.any()
    gone = torch.ones(n, dtype=torch.bool).index_fill(0, kept, False)
    assert (iou & better)[:, kept].any(1)[gone].all()
    assert torch.equal(box_nms(boxes, offsets, scores, threshold, max_outputs=5)[0], kept[:5])


# ---- points in boxes -------------------------------------------------------------------------------------------------
def test_points_by_hand():
    boxes = torch.cat([box(dx=4), box(x=1, dx=4), box(x=10, dx=4, dy=2, heading=math.pi / 2)])
    xyz = torch.tensor([[0, 0, 0], [2.5, 0, 0], [2, 1, -1], [2, 1.001, 0], [10, 1.9, 0], [11.9, 0, 0], [3, 0, 1.01]])
    found = points_in_boxes(xyz, offsets_of([7]), boxes, offsets_of([3]))
    assert found.tolist() == [0, 1, 0, -1, 2, -1, -1]


def test_clouds_do_not_mix():
    boxes = torch.cat([box(), box(x=5), box()])
    xyz = torch.zeros(4, 3)
    found = points_in_boxes(xyz, offsets_of([1, 1, 2]), boxes, offsets_of([1, 1, 1]))
    assert found.tolist() == [0, -1, 2, 2]


@pytest.mark.parametrize("name", ["cars", *hostile_boxes()])
@pytest.mark.parametrize("n", [300, 20_000])
def test_points_equal_reference(name, n):
    """Few points, and so many that the grid of boxes is fine."""
    boxes = cars(60, span=30) if name == "cars" else hostile_boxes(60)[name]
    xyz = near_points(boxes, n)
    batch = xyz, offsets_of([n // 4, 0, n - n // 4]), boxes, offsets_of([20, 5, 35])
    ours = points_in_boxes(*batch)
    assert torch.equal(ours, reference.points_in_boxes(*batch))
    if name == "cars":
        assert 0.2 < (ours >= 0).float().mean() < 0.8


def test_far_from_the_origin_a_centimetre_counts():
    where = torch.tensor([8192.0, -8192, 64])
    boxes = torch.cat([where, torch.tensor([4.0, 2, 2, 0.0])])[None]
    inside, outside = where + torch.tensor([1.99, 0, 0]), where + torch.tensor([2.01, 0, 0])
    found = points_in_boxes(torch.stack([inside, outside]), offsets_of([2]), boxes, offsets_of([1]))
    assert found.tolist() == [0, -1]


# ---- what torch and its users ask ------------------------------------------------------------------------------------
def test_opcheck():
    xyz, offsets = ragged()
    boxes, none = cars(20, span=3), offsets_of([5, 0, 5, 0, 4, 6, 0])
    torch.library.opcheck(OPERATORS.points_in_boxes.default, (xyz, offsets, boxes, none))
    for aligned in (False, True):
        torch.library.opcheck(OPERATORS.box_iou.default, (boxes, boxes, aligned, True))
    for labels in (None, torch.arange(20) % 2):
        arguments = boxes, none, scores_of(20), labels, 0.1, 4, True
        torch.library.opcheck(OPERATORS.box_nms.default, arguments)


def test_compiles():
    boxes = cars(20, span=3)
    xyz = near_points(boxes, 100)
    offsets = offsets_of([100]), offsets_of([20])
    compiled = torch.compile(
        lambda b: (box_iou(b, b), points_in_boxes(xyz, offsets[0], b, offsets[1])), fullgraph=True, backend="aot_eager"
    )
    for ours, expected in zip(
        compiled(boxes), (box_iou(boxes, boxes), points_in_boxes(xyz, offsets[0], boxes, offsets[1]))
    ):
        assert torch.equal(ours, expected)


def test_autocast_computes_in_float32():
    boxes = cars(20, span=3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        iou = box_iou(boxes, boxes)
    assert torch.equal(iou, box_iou(boxes.float(), boxes.float()))


def changed(place, value):
    boxes = cars(6)
    boxes[4, place] = value
    return boxes


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"boxes": torch.rand(4, 9)}, ValueError, r"boxes must be \(M, 7\).* velocities"),
        ({"boxes": torch.rand(2, 3, 7)}, ValueError, r"boxes must be \(M, 7\)"),
        ({"other_boxes": torch.rand(4, 7).double()}, TypeError, "other_boxes must be float32"),
        ({"other_boxes": [1.0] * 7}, TypeError, "torch.Tensor"),
        ({"boxes": changed(6, torch.nan)}, ValueError, "boxes holds NaN or infinity, first in row 4"),
        ({"other_boxes": changed(0, torch.inf)}, ValueError, "other_boxes holds NaN or infinity, first in row 4"),
        ({"boxes": changed(4, -1.5)}, ValueError, "sizes must not be negative, but row 4 of boxes is"),
        ({"view": "2d"}, ValueError, "one of '3d', 'bev'"),
        ({"aligned": True, "other_boxes": cars(3)}, ValueError, "aligned boxes must be as many, got 6 and 3"),
    ],
)
def test_bad_boxes_are_explained(change, error, text):
    with pytest.raises(error, match=text):
        box_iou(**({"boxes": cars(6), "other_boxes": cars(6)} | change))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"boxes": changed(3, -1.0)}, ValueError, "sizes must not be negative"),
        ({"offsets": torch.tensor([0, 3])}, ValueError, "offsets must end with the number of rows, 6"),
        ({"offsets": torch.tensor([0, 6]).int()}, TypeError, "int64"),
        ({"scores": torch.rand(5)}, ValueError, "one for each of 6 boxes"),
        ({"scores": torch.rand(6).double()}, TypeError, "scores must be float32"),
        ({"scores": torch.full((6,), torch.nan)}, ValueError, "scores holds NaN or infinity, first in row 0"),
        ({"labels": torch.zeros(6)}, TypeError, "labels must be int64"),
        ({"labels": torch.zeros(5).long()}, ValueError, "labels must be"),
        ({"threshold": 1.5}, ValueError, "threshold must be between 0 and 1"),
        ({"threshold": math.nan}, ValueError, "threshold must be between 0 and 1"),
        ({"threshold": "0.5"}, TypeError, "threshold must be a number"),
        ({"max_outputs": 0}, ValueError, "max_outputs must be at least 1"),
        ({"view": "top"}, ValueError, "one of '3d', 'bev'"),
    ],
)
def test_bad_input_of_nms_is_explained(change, error, text):
    good = {"boxes": cars(6), "offsets": offsets_of([6]), "scores": torch.rand(6), "threshold": 0.5}
    with pytest.raises(error, match=text):
        box_nms(**(good | change))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 10, 3)}, ValueError, "PointBatch.from_dense"),
        ({"xyz": torch.full((9, 3), torch.nan)}, ValueError, "xyz holds NaN"),
        ({"boxes": changed(5, -1.0)}, ValueError, "sizes must not be negative"),
        ({"box_offsets": torch.tensor([0, 3, 6])}, ValueError, "offsets describes 1 clouds, box_offsets 2"),
        ({"box_offsets": torch.tensor([0, 5])}, ValueError, "box_offsets must end with the number of rows, 6"),
        ({"offsets": torch.tensor([1, 9])}, ValueError, "offsets must start with 0"),
    ],
)
def test_bad_input_of_points_is_explained(change, error, text):
    good = {"xyz": torch.rand(9, 3), "offsets": offsets_of([9]), "boxes": cars(6), "box_offsets": offsets_of([6])}
    with pytest.raises(error, match=text):
        points_in_boxes(**(good | change))


@compiled_only
def test_operators_check_what_torch_ops_is_given():
    boxes, offsets = cars(6), offsets_of([6])
    with pytest.raises(RuntimeError, match=r"must be \(M, 7\)"):
        OPERATORS.box_iou(boxes[:, :5].contiguous(), boxes, False, False)
    with pytest.raises(RuntimeError, match="as many"):
        OPERATORS.box_iou(boxes, boxes[:2], True, False)
    with pytest.raises(RuntimeError, match="threshold must be between"):
        OPERATORS.box_nms(boxes, offsets, torch.rand(6), None, -0.1, 6, True)
    with pytest.raises(RuntimeError, match="max_outputs"):
        OPERATORS.box_nms(boxes, offsets, torch.rand(6), None, 0.1, 0, True)
    with pytest.raises(RuntimeError, match="2 clouds, box_offsets 1"):
        OPERATORS.points_in_boxes(torch.rand(4, 3), offsets_of([2, 2]), boxes, offsets)


@compiled_only
def test_same_results_whatever_the_number_of_threads():
    boxes, scores = cars(900), scores_of(900)
    xyz, sizes = near_points(boxes, 60_000), offsets_of([300, 250, 350])

    def everything():
        return (
            box_iou(boxes, boxes),
            *box_nms(boxes, sizes, scores, 0.1),
            points_in_boxes(xyz, offsets_of([20_000, 10_000, 30_000]), boxes, sizes),
        )

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(4)
        assert all(torch.equal(a, b) for a, b in zip(one, everything()))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def portable():
    """The operators without code for particular processors, as machines without AVX run them."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "overlap.cpp"]
    name = "pctransformer_portable_overlap"
    torch.ops.load_library(build.build("_portable_overlap", sources, name, ["-DPCT_PORTABLE"]))
    return torch.ops.pctransformer_portable_overlap


def test_same_results_on_other_processors(portable):
    for boxes in (cars(200), *hostile_boxes().values()):
        n = len(boxes)
        assert torch.equal(portable.box_iou(boxes, boxes, False, False), reference.box_iou(boxes, boxes, False, False))
        arguments = boxes, offsets_of([n]), scores_of(n), None, 0.1, n, True
        assert torch.equal(portable.box_nms(*arguments)[0], reference.box_nms(*arguments)[0])
        batch = near_points(boxes, 500), offsets_of([500]), boxes, offsets_of([n])
        assert torch.equal(portable.points_in_boxes(*batch), reference.points_in_boxes(*batch))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["cars", *hostile_boxes()])
def test_cuda_equals_cpu(name):
    boxes = cars(3000) if name == "cars" else hostile_boxes(500)[name]
    n = len(boxes)
    scores, labels, offsets = scores_of(n), torch.arange(n) % 3, offsets_of([n // 3, 0, 1, n - n // 3 - 1])
    xyz = near_points(boxes, 20_000)
    for view in VIEWS:
        assert torch.equal(box_iou(boxes.cuda(), boxes.cuda(), view=view).cpu(), box_iou(boxes, boxes, view=view))
        for threshold in (0.0, 0.1, 0.7):
            for classes, most in [(None, None), (labels, 5)]:
                options = {"max_outputs": most, "view": view}
                ours = box_nms(
                    boxes.cuda(),
                    offsets.cuda(),
                    scores.cuda(),
                    threshold,
                    labels=None if classes is None else classes.cuda(),
                    **options,
                )
                expected = box_nms(boxes, offsets, scores, threshold, labels=classes, **options)
                assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, expected))
    batch = xyz, offsets_of([5000, 10, 0, 14_990]), boxes, offsets
    assert torch.equal(points_in_boxes(*(x.cuda() for x in batch)).cpu(), points_in_boxes(*batch))


@pytest.mark.cuda
def test_cuda_boxes_that_are_none():
    boxes = cars(50, span=2)
    boxes[3, 0], boxes[4, 6], boxes[5, 3] = torch.nan, torch.inf, -1
    iou = box_iou(boxes.cuda(), boxes.cuda()).cpu()
    assert (iou[3:6] == 0).all()
    assert (iou[:, 3:6] == 0).all()
    kept, _ = box_nms(boxes.cuda(), offsets_of([50]).cuda(), torch.rand(50).cuda(), 0.9)
    assert not torch.isin(torch.tensor([3, 4, 5]), kept.cpu()).any()
