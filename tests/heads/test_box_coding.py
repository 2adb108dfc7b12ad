from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.heads.box_coding import (
    DIRECTION_OFFSET,
    decode_around,
    decode_boxes,
    decode_centers,
    direction_of,
    encode_around,
    encode_boxes,
    encode_centers,
    turn_to,
)
from pctransformer.voxels import Grid

CAR = [10.0, 2, -1, 3, 4, 1.5, 0]
metres, size = st.floats(-50, 50, width=32), st.floats(0.125, 16, width=32)
box = st.tuples(metres, metres, metres, size, size, size, st.floats(-10, 10, width=32))


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.atan2((a - b).sin(), (a - b).cos()).abs()


# ---- relative to anchors ---------------------------------------------------------------------------------------------
def test_codes_by_hand():
    """The anchor's diagonal is 5 m."""
    codes = encode_boxes(torch.tensor([12.5, 1, -1.75, 6, 2, 1.5, 0.25]), torch.tensor(CAR))
    assert codes.tolist() == pytest.approx([0.5, -0.2, -0.5, math.log(2), -math.log(2), 0, 0.25])


@given(box, box)
def test_decoding_undoes_encoding(one, anchor):
    boxes, anchors = torch.tensor([one]).double(), torch.tensor([anchor]).double()
    decoded = decode_boxes(encode_boxes(boxes, anchors), anchors)
    keeps = boxes[:, 3:6] < 60 * anchors[:, 3:6]
    torch.testing.assert_close(decoded[:, [0, 1, 2, 6]], boxes[:, [0, 1, 2, 6]])
    torch.testing.assert_close(decoded[:, 3:6][keeps], boxes[:, 3:6][keeps])


def test_no_code_overflows():
    codes = torch.full((1, 7), 1e4)
    assert decode_boxes(codes, torch.tensor([CAR]))[0, 3:6].tolist() == pytest.approx([62.5 * 3, 62.5 * 4, 62.5 * 1.5])
    grid = Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 2, 2))
    assert decode_centers(torch.full((1, 8), 1e4), torch.zeros(1, 2), grid)[0, 3:6].tolist() == pytest.approx(
        [1000] * 3
    )


# ---- directions ------------------------------------------------------------------------------------------------------
def test_directions_by_hand():
    """The first half begins at 45 degrees: left and back are in it, right and ahead in the other."""
    headings = torch.tensor([0, math.pi / 2, math.pi, -math.pi / 2, 0.7853, 0.7854, 0.7853 + math.pi, 2 * math.pi])
    assert direction_of(headings).tolist() == [1, 0, 0, 1, 1, 0, 0, 1]


@given(st.floats(-20, 20, width=32))
def test_a_heading_or_its_reverse_is_turned_to_its_direction(heading):
    true = torch.tensor([heading]).double()
    from_start = torch.remainder(true - DIRECTION_OFFSET, math.pi)
    if min(from_start.item(), math.pi - from_start.item()) < 1e-6:
        return  # on the line between the halves rounding decides
    for read in (true, true + math.pi, true - 3 * math.pi):
        turned = turn_to(read, direction_of(true))
        assert angle_between(turned, true).item() < 1e-9
        assert -math.pi <= turned.item() < math.pi
        assert angle_between(turn_to(read, 1 - direction_of(true)), true + math.pi).item() < 1e-9


# ---- relative to cells -----------------------------------------------------------------------------------------------
GRID = Grid((-50.0, -51.0, -3.0), (0.5, 0.4, 4.0), (1, 260, 220))


@given(box)
def test_decoding_centers_undoes_encoding(one):
    boxes = torch.tensor([one]).double()
    column, inside, codes = encode_centers(boxes, GRID)
    assert inside.all()
    assert (codes[:, :2] >= 0).all()
    assert (codes[:, :2] < 1).all()
    decoded = decode_centers(codes, column, GRID)
    torch.testing.assert_close(decoded[:, :6], boxes[:, :6])
    assert angle_between(decoded[:, 6], boxes[:, 6]).item() < 1e-9


def test_centers_are_in_the_cells_that_points_there_are_in():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(500, 7, generator=generator) * 130 - 65
    boxes[:, 2] = -1
    boxes[:4, 0] = torch.tensor([-50.0, -50.001, 60.0, 59.99])
    column, inside, _ = encode_centers(boxes.abs().copysign(boxes), GRID)
    cells, in_grid = GRID.cells(boxes[:, :3])
    assert torch.equal(inside, in_grid)
    assert torch.equal(column, cells[:, 1:])
    assert 0 < int(inside.sum()) < 500


# ---- relative to points ----------------------------------------------------------------------------------------------
def test_codes_around_a_point_by_hand():
    codes = encode_around(torch.tensor([10.0, 2, -1, 3, 4, 1, math.pi / 2]), torch.tensor([8.0, 3, 0]))
    assert codes.tolist() == pytest.approx([2, -1, -1, math.log(3), math.log(4), 0, -1, 0, 0], abs=1e-6)


@given(box)
def test_a_box_and_its_reverse_differ_in_direction_alone(one):
    boxes = torch.tensor([one, one]).double()
    boxes[1, 6] += math.pi
    ahead, back = encode_around(boxes, torch.zeros(3).double())
    torch.testing.assert_close(ahead[:8], back[:8])
    assert ahead[8] + back[8] == 1


@given(box, st.tuples(metres, metres, metres))
def test_decoding_around_a_point_undoes_encoding(one, point):
    boxes, points = torch.tensor([one]).double(), torch.tensor([point]).double()
    decoded = decode_around(encode_around(boxes, points), points)
    torch.testing.assert_close(decoded[:, :6], boxes[:, :6])
    assert angle_between(decoded[:, 6], boxes[:, 6]).item() == pytest.approx(0, abs=1e-9)


def test_each_box_around_each_point():
    boxes, points = torch.rand(4, 1, 7) + 1, torch.rand(5, 3)
    codes = encode_around(boxes, points)
    assert codes.shape == (4, 5, 9)
    assert torch.equal(codes[2, 3], encode_around(boxes[2, 0], points[3]))
    assert decode_around(torch.full((9,), 1e4), points[0])[3:6].tolist() == pytest.approx([1000] * 3)
