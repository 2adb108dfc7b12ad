"""Shapes of a street's things: as large as their boxes say, and of no two alike; bars made many at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import bar, join, signed_volume
from pctransformer.datasets.street import people, scenery, vehicles
from pctransformer.datasets.street.ground import Ground, ground_parts
from pctransformer.datasets.street.layout import LABELLED, lay_out
from pctransformer.datasets.street.materials import ASPHALT, GRASS, PAVING
from pctransformer.datasets.street.rods import rods

LABELLED_MAKERS = {
    "car": (vehicles.car_size, vehicles.car),
    "van": (vehicles.van_size, vehicles.van),
    "truck": (vehicles.truck_size, vehicles.truck),
    "pedestrian": (people.pedestrian_size, people.pedestrian),
    "cyclist": (people.cyclist_size, people.cyclist),
}
SCENERY = {
    "house": (9.0, 14.0, 7.0), "tree": (0.5, 0.5, 7.0), "bush": (1.5, 3.0, 1.5), "hedge": (0.5, 8.0, 1.4),
    "wall": (0.5, 8.0, 1.2), "fence": (0.4, 8.0, 1.0), "pole": (0.5, 0.5, 6.0), "sign": (0.5, 0.5, 2.5),
    "furniture": (0.5, 0.5, 1.0),
}  # fmt: skip


def draw(seed):
    return Draw(torch.Generator().manual_seed(seed))


def extent(parts):
    every = np.concatenate([triangles.reshape(-1, 3) for _, triangles in parts])
    return every.min(axis=0), every.max(axis=0)


@pytest.mark.parametrize("name", LABELLED_MAKERS)
def test_a_labelled_thing_fills_its_box(name):
    size_of, make = LABELLED_MAKERS[name]
    for seed in range(30):
        size = size_of(draw(seed))
        low, high = extent(make(draw(seed + 100), size))
        half = np.array([size[0], size[1], 2 * size[2]]) / 2
        assert high[2] == pytest.approx(size[2], abs=0.04)  # a tank is a polygon of 14 sides,
        assert -0.03 <= low[2] <= 0.03  # a wheel one of ten
        over = np.array([0.02, 0.3 if name == "car" else 0.02])  # mirrors
        assert (low[:2] > -half[:2] - over).all()
        assert (high[:2] < half[:2] + over).all()
        if name != "pedestrian":  # whose box is that of a whole walk
            assert (high[:2] - low[:2] > 0.97 * np.array(size[:2])).all()


@pytest.mark.parametrize("name", LABELLED_MAKERS)
def test_no_two_are_alike(name):
    size_of, make = LABELLED_MAKERS[name]
    sizes = {size_of(draw(seed)) for seed in range(5)}
    assert len(sizes) == 5
    size = sizes.pop()
    shapes = [np.concatenate([triangles for _, triangles in make(draw(seed), size)]) for seed in range(3)]
    assert not any(np.array_equal(shapes[i], shapes[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("name", SCENERY)
def test_scenery_stands_on_the_ground_and_is_as_high_as_asked(name):
    for seed in range(8):
        parts = getattr(scenery, name)(draw(seed), SCENERY[name])
        low, high = extent(parts)
        assert -0.6 < low[2] < 0.3
        if name != "furniture":
            assert 0.8 * SCENERY[name][2] < high[2] < 1.2 * SCENERY[name][2] + 3.6  # a roof, leaves, a lamp's arm
        assert all(np.isfinite(triangles).all() for _, triangles in parts)
        assert all(0 <= value <= 5 for material, _ in parts for value in material)


def test_rods_are_bars():
    generator = np.random.default_rng(0)
    begin, end = generator.normal(size=(2, 6, 3))
    begin[0], end[0] = (0, 0, 0), (0, 0, 2)  # along an axis
    begin[1], end[1] = (1, 0, 0), (-1, 0, 0)
    radius, end_radius = generator.uniform(0.05, 0.2, (2, 6))
    made = rods(begin, end, radius, end_radius, segments=7)
    one_by_one = [bar(*ends, segments=7) for ends in zip(begin, end, radius, end_radius)]
    assert made.shape == join(*one_by_one).shape == (6 * 28, 3, 3)
    for each, known in zip(made.reshape(6, 28, 3, 3), one_by_one):
        assert signed_volume(each) > 0
        assert signed_volume(each) == pytest.approx(signed_volume(known))
        np.testing.assert_allclose(each.reshape(-1, 3).min(axis=0), known.reshape(-1, 3).min(axis=0), atol=1e-9)


def test_the_ground_has_kerbs_where_roads_end():
    ground = Ground(
        half=4, pavement=2, kerb=0.12, sides=((20.0, 3.0),), bend=0.0, slope=np.array([0.02, 0]), waves=np.zeros((0, 4))
    )
    parts = dict(ground_parts(ground))
    assert set(parts) == {ASPHALT, PAVING, GRASS}
    road = parts[ASPHALT].mean(axis=1)
    on_main, on_side = np.abs(road[:, 1]) < 4.05, np.abs(road[:, 0] - 20) < 3.05
    assert (on_main | on_side).all()
    assert on_side[~on_main].any()
    assert np.abs(parts[ASPHALT][..., 2]).max() == 0
    level = parts[PAVING][..., 2]
    assert set(level.ravel().tolist()) == {0.0, 0.12}  # faces of kerbs lead from one to the other
    assert ground.height(np.float64(10), np.float64(3)) == pytest.approx(0.2)
    area = np.linalg.norm(np.cross(*np.moveaxis(parts[ASPHALT][:, 1:] - parts[ASPHALT][:, :1], 1, 0)), axis=1).sum() / 2
    assert area == pytest.approx(8 * 162.5 + 6 * (150 - 8), rel=0.03)  # a road of 162.5 m, and one that crosses it


def test_a_bend_keeps_distances():
    ground = Ground(half=4, pavement=2, kerb=0.1, sides=(), bend=1 / 150, slope=np.zeros(2), waves=np.zeros((0, 4)))
    s = np.array([30.0, 30.0])
    x, y, heading = ground.place(s, np.array([-2.0, 3.0]))
    assert np.hypot(*np.diff([x, y]).T[0]) == pytest.approx(5)
    assert heading[0] == pytest.approx(np.arctan(0.2))
    assert (x[1] - x[0]) / (y[1] - y[0]) == pytest.approx(-0.2)  # across the road


def test_nothing_stands_in_another():
    from pctransformer.datasets.scans import boxes_collide

    kinds = set()
    for seed in range(4):
        street = lay_out(draw(seed))
        boxes = np.stack([thing.box for thing in street.things])
        collide = boxes_collide(boxes, boxes)
        np.fill_diagonal(collide, False)
        assert not collide.any()
        own = np.array([[0, street.own_t, 0, 4.6, 1.9, 1.7, street.own_heading]])
        assert not boxes_collide(own, boxes).any()
        kinds |= {thing.kind for thing in street.things}
    assert kinds >= {*LABELLED, "house", "tree", "bush", "pole", "sign", "furniture"} - {"Truck"}
