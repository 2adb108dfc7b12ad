from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from pctransformer.datasets.buildings import make_building
from pctransformer.datasets.furnishing import furnish
from pctransformer.datasets.rooms import ROOM_CLASSES, generated_rooms, make_room
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import signed_volume


def furnished(seed: int):
    """A building, and the furniture of each of its rooms."""
    draw = Draw(generator_for(seed))
    building = make_building(draw)
    return building, [furnish(draw, room) for room in building.rooms]


@pytest.fixture(scope="module")
def room():
    return make_room(generator_for(0, 0, 7), "one")


def test_a_room_is_a_scan_in_metres(room):
    assert 20_000 <= len(room) <= 60_000
    assert room.xyz.dtype == torch.float32
    assert room.point_labels.dtype == torch.int64
    assert 0 <= room.features.min() <= room.features.max() <= 1
    low, high = room.xyz.amin(0), room.xyz.amax(0)
    assert ((high - low)[:2] > 3).all()
    assert ((high - low)[:2] < 13).all()  # the diagonal of the largest
    assert 2.2 < high[2] < 3.1
    floor = room.xyz[room.point_labels == ROOM_CLASSES.index("floor"), 2]
    assert abs(floor.median()) < 0.01
    assert floor.std() < 0.02  # noise of the camera
    assert room.xyz[room.point_labels == ROOM_CLASSES.index("ceiling"), 2].min() > 2.1


def test_a_room_depends_on_its_number_alone(room):
    again = make_room(generator_for(0, 0, 7), "one")
    for field in ("xyz", "features", "point_labels"):
        assert torch.equal(getattr(again, field), getattr(room, field))
    assert len(make_room(generator_for(0, 1, 7))) != len(room) or not torch.equal(
        make_room(generator_for(0, 1, 7)).xyz, room.xyz
    )


def test_splits_begin_alike_and_share_nothing():
    short, test = generated_rooms("train", num_rooms=1), generated_rooms("test", num_rooms=1)
    assert short.part_names == ROOM_CLASSES
    assert torch.equal(short[0].xyz, make_room(generator_for(0, 0, 0)).xyz)
    assert short[0].xyz.shape != test[0].xyz.shape or not torch.equal(short[0].xyz, test[0].xyz)
    with pytest.raises(ValueError, match="'train', 'test'"):
        generated_rooms("validation")


def test_every_class_is_there_and_known():
    counts: Counter[str] = Counter()
    for seed in range(16):
        building, placed = furnished(seed)
        counts.update({solid.name for solid in chain(building.solids, *placed)})
    assert set(counts) == set(ROOM_CLASSES)
    assert min(counts.values()) >= 2, counts  # of 16 buildings


def test_furniture_stands_where_it_can():
    """In its room, on the floor or on something, and not in each other."""
    for seed in range(12):
        building, placed = furnished(seed)
        for room, solids in zip(building.rooms, placed):
            standing = []
            for solid in solids:
                corners = solid.triangles.reshape(-1, 3)
                low, high = corners.min(0), corners.max(0)
                assert (low[:2] >= room.low - 0.01).all(), (seed, solid.name)
                assert (high[:2] <= room.high + 0.01).all(), (seed, solid.name)
                assert -0.02 < low[2] < 2
                assert high[2] < 3.3
                if low[2] < 0.02 and solid.name != "other":
                    standing.append((solid.name, low[:2], high[:2]))
            for i, (name, low, high) in enumerate(standing):
                for other, begin, end in standing[:i]:
                    assert not ((low < end - 1e-6) & (high > begin + 1e-6)).all(), (seed, name, other)


def test_doors_can_be_walked_through():
    """No furniture of a room stands in the rectangle before a door; and every inner wall has one."""
    for seed in range(12):
        building, placed = furnished(seed)
        doors = {o for room in building.rooms for o in room.openings if o.kind == "door"}
        assert len(doors) >= max(len(building.rooms) - 1, 1)
        for room, solids in zip(building.rooms, placed):
            for door in (o for o in room.openings if o.kind == "door"):
                along, across = door.axis, 1 - door.axis
                inward = 1 if room.low[across] > door.across else -1
                for solid in solids:
                    low, high = solid.triangles.min((0, 1)), solid.triangles.max((0, 1))
                    if low[2] > 0.5:
                        continue
                    beside = high[along] < door.begin or low[along] > door.end
                    depth = (low[across] if inward > 0 else high[across]) - door.across
                    assert beside or inward * depth > 0.6, (seed, solid.name)


def test_solids_are_closed_and_have_colours():
    building, placed = furnished(3)
    for solid in chain(building.solids, *placed):
        assert solid.colors.shape == (len(solid.triangles), 3)
        assert (solid.colors >= 0).all()
        assert (solid.colors <= 1).all()
        assert signed_volume(solid.triangles) > 0
        assert np.isfinite(solid.triangles).all()
