import math

import pytest
import torch

from pctransformer.heads.reconstruction import (
    Reconstruction,
    ReconstructionHead,
    chamfer_distance,
    random_split,
)


# ---- Chamfer distance ------------------------------------------------------------------------------------------------
def test_chamfer_by_hand():
    """Points at 0 and 4 on a line against one at 1: distances 1 and 3 one way, 1 the other."""
    a = torch.tensor([[[0.0, 0, 0], [4, 0, 0]]])
    b = torch.tensor([[[1.0, 0, 0]]])
    assert chamfer_distance(a, b).tolist() == [(1 + 9) / 2 + 1]
    assert chamfer_distance(b, a).tolist() == [(1 + 9) / 2 + 1]
    assert chamfer_distance(a, b, power=1).tolist() == [((1 + 3) / 2 + 1) / 2]


@pytest.mark.parametrize("power", [1, 2])
def test_chamfer_is_the_formula_for_every_set(power):
    torch.manual_seed(0)
    a, b = torch.randn(4, 9, 3, dtype=torch.float64), torch.randn(4, 6, 3, dtype=torch.float64)
    for p, found in enumerate(chamfer_distance(a, b, power=power)):
        one_way = [min((x - y).square().sum().item() for y in b[p]) for x in a[p]]
        other_way = [min((x - y).square().sum().item() for x in a[p]) for y in b[p]]
        if power == 2:
            expected = sum(one_way) / 9 + sum(other_way) / 6
        else:
            expected = (sum(map(math.sqrt, one_way)) / 9 + sum(map(math.sqrt, other_way)) / 6) / 2
        assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("power", [1, 2])
def test_chamfer_knows_no_order_and_has_gradients(power):
    torch.manual_seed(0)
    a, b = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    torch.testing.assert_close(
        chamfer_distance(a[:, torch.randperm(8)], b, power=power), chamfer_distance(a, b, power=power)
    )
    a[0, 3] = b[0, 5]  # a distance 0 in the midst of others
    a.requires_grad_()
    chamfer_distance(a, b, power=power).sum().backward()
    step = 1e-2
    numeric = torch.zeros_like(a)
    with torch.no_grad():
        for p, n, axis in torch.cartesian_prod(torch.arange(2), torch.arange(8), torch.arange(3)).tolist():
            up, down = a.clone(), a.clone()
            up[p, n, axis] += step
            down[p, n, axis] -= step
            difference = chamfer_distance(up, b, power=power) - chamfer_distance(down, b, power=power)
            numeric[p, n, axis] = difference.sum() / (2 * step)
    # central differences of a function in float32, and where the nearest point changes within the step
    close = (numeric - a.grad).abs() < 0.02
    assert close.float().mean() > 0.9
    same = a.detach().clone().requires_grad_()
    chamfer_distance(same, same.detach(), power=power).sum().backward()
    assert (same.grad == 0).all()


def test_chamfer_refuses():
    with pytest.raises(ValueError, match=r"\(P, n, 3\)"):
        chamfer_distance(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must not be empty"):
        chamfer_distance(torch.zeros(2, 0, 3), torch.zeros(2, 4, 3))


# ---- which tokens are hidden -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("share", "count"), [(0.6, 6), (0.55, 5), (0.0, 0), (1.0, 10)])
def test_every_token_is_seen_or_hidden(share, count):
    seen, hidden = random_split(4, 10, share, torch.Generator().manual_seed(0))
    assert seen.shape == (4, 10 - count)
    assert hidden.shape == (4, count)
    together = torch.cat([seen, hidden], 1)
    assert torch.equal(together.sort(1).values, torch.arange(40).view(4, 10))
    assert torch.equal(seen, seen.sort(1).values)
    assert torch.equal(hidden, hidden.sort(1).values)


def test_tokens_are_hidden_evenly_and_by_the_generator():
    _, hidden = random_split(2000, 5, 0.4, torch.Generator().manual_seed(0))
    counts = torch.bincount((hidden % 5).flatten(), minlength=5)
    assert ((counts / 2000 - 0.4).abs() < 0.05).all()  # four standard deviations
    again = random_split(2000, 5, 0.4, torch.Generator().manual_seed(0))[1]
    assert torch.equal(hidden, again)
    assert not torch.equal(hidden, random_split(2000, 5, 0.4, torch.Generator().manual_seed(1))[1])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        random_split(1, 1, 1.1)


# ---- what comes out --------------------------------------------------------------------------------------------------
def test_points_belong_to_their_centres():
    made_up = Reconstruction(
        predicted=torch.ones(1, 2, 3, 3), target=torch.zeros(1, 2, 3, 3),
        centers=torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]), visible=torch.zeros(1, 0, 3, 3),
    )  # fmt: skip
    assert made_up.predicted_xyz[0, :, 0].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert made_up.target_xyz[0, :, 2].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_head_gives_a_patch_for_each_token():
    head = ReconstructionHead(4, 5)
    tokens = torch.randn(2, 3, 4)
    points = head(tokens)
    assert points.shape == (2, 3, 5, 3)
    torch.testing.assert_close(points[1, 2].flatten(), head.points(tokens[1, 2]))
