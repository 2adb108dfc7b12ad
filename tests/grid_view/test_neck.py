import pytest
import torch
from torch.nn import functional

from pctransformer.grid_view.neck import Neck, SimplePyramid


def test_neck_puts_maps_side_by_side():
    """Every cell of a coarse map becomes a square; then BatchNorm and ReLU."""
    torch.manual_seed(0)
    neck = Neck([3, 5], [1, 2], 4)
    fine, coarse = torch.randn(2, 6, 4, 3), torch.randn(2, 3, 2, 5)
    expected = []
    for x, up in zip((fine, coarse), neck.ups, strict=True):
        y = torch.einsum("byxc,cduv->bdyuxv", x, up[0].weight).flatten(4, 5).flatten(2, 3)
        expected.append(functional.batch_norm(y, None, None, training=True, eps=1e-3).relu())
    out = neck([fine, coarse])
    torch.testing.assert_close(out, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
    assert neck.out_channels == 8
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [4, 2, 1, 0.5])
def test_simple_pyramid_is_the_equation(scale):
    torch.manual_seed(0)
    pyramid, x = SimplePyramid(8, 6, scales=(scale,)), torch.randn(2, 4, 6, 8)
    layers = list(pyramid.maps[0])

    def doubled(x: torch.Tensor, layer) -> torch.Tensor:
        y = torch.einsum("byxc,cduv->byuxvd", x, layer.layers[0].weight) + layer.layers[0].bias
        return y.flatten(3, 4).flatten(1, 2)

    y = x
    if scale == 0.5:
        y = functional.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    if scale in (2, 4):
        y = doubled(x, layers[0])
    if scale == 4:
        y = doubled(functional.gelu(functional.layer_norm(y, [4], layers[1].weight, layers[1].bias)), layers[3])
    linear, first, convolution, second = layers[-4:]
    y = functional.layer_norm(y @ linear.weight.T, [6], first.weight, first.bias)
    y = functional.conv2d(y.permute(0, 3, 1, 2), convolution.layers[0].weight, padding=1).permute(0, 2, 3, 1)
    y = functional.layer_norm(y, [6], second.weight, second.bias)
    [out] = pyramid(x)
    assert out.shape == (2, 4 * scale, 6 * scale, 6)
    torch.testing.assert_close(out, y, rtol=1e-4, atol=1e-5)


def test_simple_pyramid_repeats_exactly(deterministic_algorithms):
    """Also where cells of a square are equal, and the maximum is of several."""

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        pyramid, x = SimplePyramid(8, 4), torch.randn(2, 4, 6, 8).relu().requires_grad_()
        sum(out.square().sum() for out in pyramid(x)).backward()
        return [x.grad, *(parameter.grad for parameter in pyramid.parameters())]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))


def test_faults():
    with pytest.raises(ValueError, match="got a scale of 3"):
        SimplePyramid(8, 4, scales=(3,))
    with pytest.raises(ValueError, match=r"multiples of 2, got \(5, 6\)"):
        SimplePyramid(8, 4)(torch.zeros(1, 5, 6, 8))
