"""Gradients and features of tokens, by hand."""

import pytest
import torch

from pctransformer.visualization.saliency import (
    cosine_similarity,
    grad_cam,
    input_gradient,
    principal_components,
    to_points,
)


def test_grad_cam_by_hand():
    """Mean gradients of the two channels are 2 and -1: 2 * 1 - 3 is below 0, 2 * 2 - 1 is 3."""
    features = torch.tensor([[1.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    gradient = torch.tensor([[3.0, -3.0], [3.0, 0.0], [0.0, 0.0]])
    assert grad_cam(features, gradient).tolist() == [0, 3, 0]


def test_input_gradient_by_hand():
    assert input_gradient(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]])).tolist() == [5, 2]


def test_cosines_by_hand():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [1.0, 1.0]])
    assert cosine_similarity(features, 0).tolist() == pytest.approx([1, 1, 0, -1, 0.5**0.5])
    features[1] = 1e-7
    assert cosine_similarity(features, 0)[1] == 0


def test_components_by_hand():
    """Four points on a cross: the long axis first, the short one next, and there is no third."""
    features = torch.tensor([[5.0, 1.0], [-1.0, 1.0], [2.0, 2.0], [2.0, 0.0]])
    found = principal_components(features)
    expected = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-6, rtol=1e-6)
    assert found[0, 0] == -found[1, 0]
    assert (found.amax(0) >= -found.amin(0)).all()
    assert principal_components(torch.ones(1, 4)).tolist() == [[0, 0, 0]]


def test_components_that_there_are_not():
    """Directions are as many as features differ in, whatever rounding adds; the same on every run."""
    features = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    plane = torch.cat(
        [features[:, :2], features[:, :2] @ torch.tensor([[0.1, 0.7], [0.3, -0.2]]), torch.full((2000, 3), 0.1)], 1
    )
    found = principal_components(plane)
    assert (found.std(0) > 0.1).tolist() == [True, True, False]
    assert not found[:, 2].any()
    assert not principal_components(torch.full((2000, 6), 0.1)).any()  # whose mean is not quite 0.1
    assert torch.equal(principal_components(features), principal_components(features.clone()))
    turned = principal_components(features @ torch.linalg.qr(features[:6]).Q)  # directions have no names
    torch.testing.assert_close(turned, principal_components(features), atol=1e-4, rtol=1e-4)
    assert principal_components(torch.randn(5, 300)).shape == (5, 3)


def test_values_of_tokens_are_carried_to_points():
    """A point on a token has its value; one as far from three has their mean."""
    tokens = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [0.0, 2, 0]])
    points = torch.tensor([[2.0, 0, 0], [1.0, 1, 0]])
    carried = to_points(torch.tensor([[3.0], [6.0], [9.0]]), tokens, points)
    assert carried[:, 0].tolist() == pytest.approx([6, 6], rel=1e-5)
