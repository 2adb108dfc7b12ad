import math

import pytest
import torch

from pctransformer.layers.position import (
    FourierPosition,
    LearnedPosition,
    MLPPosition,
    RotaryPosition,
    SinusoidalPosition,
    WindowBias,
    sinusoidal_code,
)


def test_sinusoidal_code_is_the_published_formula():
    """Section 3.5, term by term, for the 512 channels of the paper."""
    code = sinusoidal_code(torch.arange(50, dtype=torch.float64), 512)
    for position in (0, 1, 7, 49):
        for i in (0, 1, 100, 255):
            angle = position / 10_000 ** (2 * i / 512)
            assert code[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert code[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)
    assert sinusoidal_code(torch.arange(3), 4).dtype == torch.float32
    with pytest.raises(ValueError, match="even"):
        sinusoidal_code(torch.arange(3), 5)


def test_sinusoidal_position_puts_three_codes_side_by_side():
    xyz = torch.randn(2, 5, 3)
    code = SinusoidalPosition(26, unit=0.01)(xyz)  # 8 channels per axis, and 2 left over
    for axis in range(3):
        expected = sinusoidal_code(xyz[..., axis] * 100, 8)
        torch.testing.assert_close(code[..., 8 * axis : 8 * (axis + 1)], expected, rtol=1e-4, atol=1e-4)
    assert (code[..., 24:] == 0).all()
    assert not SinusoidalPosition(26, unit=0.01).state_dict()


def test_fourier_position_is_the_formula():
    layer = FourierPosition(6, frequency=2.0, generator=torch.Generator().manual_seed(0))
    xyz = torch.randn(4, 3)
    for point, code in zip(xyz, layer(xyz)):
        angle = [2 * math.pi * (point @ column).item() for column in layer.projection.T]
        torch.testing.assert_close(code, torch.tensor([*map(math.sin, angle), *map(math.cos, angle)]))
    again = FourierPosition(6, frequency=2.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.projection, layer.projection)
    wide = FourierPosition(20_000, frequency=2.0, generator=torch.Generator().manual_seed(0))
    assert wide.projection.std().item() == pytest.approx(2, rel=0.02)
    assert list(layer.state_dict()) == ["projection"]
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(xyz)
    torch.testing.assert_close(half, layer(xyz))


def test_learned_position_knows_places_only():
    layer = LearnedPosition(6, 8)
    code = layer(torch.randn(2, 4, 3))
    assert torch.equal(code, layer.table[:4].expand(2, 4, 8))
    code.sum().backward()
    assert layer.table.grad.tolist() == [[2.0] * 8] * 4 + [[0.0] * 8] * 2
    with pytest.raises(ValueError, match="6 places, got 7"):
        layer(torch.randn(2, 7, 3))


def test_mlp_position_has_the_published_layers():
    layer = MLPPosition(384)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "0.weight": (128, 3), "0.bias": (128,), "2.weight": (384, 128), "2.bias": (384,),
    }  # fmt: skip
    assert layer(torch.randn(2, 5, 3)).shape == (2, 5, 384)


# ---- rotary ----------------------------------------------------------------------------------------------------------
def test_rotary_by_hand():
    """One pair per axis: x = pi/2 metres turns the first pair by a quarter, y the second, z the third."""
    rotary = RotaryPosition(7, unit=1.0)
    heads = torch.tensor([1.0, 0, 1, 0, 1, 0, 5])
    turned = rotary(heads[None], torch.tensor([math.pi / 2, 0, math.pi]))
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1, 1, 0, -1, 0, 5]]), rtol=0, atol=1e-6)


def test_rotary_frequencies():
    """Pair i of n turns base^(-i / n) / unit radians per metre."""
    rotary = RotaryPosition(24, unit=0.5, base=16.0)
    torch.testing.assert_close(rotary.frequency, torch.tensor([2.0, 1, 0.5, 0.25]))
    assert not rotary.state_dict()
    with pytest.raises(ValueError, match="at least 6"):
        RotaryPosition(5, unit=1)


@pytest.mark.parametrize("head_dim", [6, 32, 64])
def test_rotary_scores_depend_on_differences_only(head_dim):
    torch.manual_seed(0)
    rotary = RotaryPosition(head_dim, unit=0.1)
    query, key = torch.randn(2, 50, 4, head_dim)
    here, there, step = torch.randn(50, 3), torch.randn(50, 3), torch.tensor([3.0, -2.0, 1.0])

    def scores(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (rotary(query, a) * rotary(key, b)).sum(-1)

    plain = scores(here, there)
    # 3 m are 30 radians: float32 keeps them to 2e-6, times a product of a size of ten
    torch.testing.assert_close(scores(here + step, there + step), plain, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(scores(here, here), (query * key).sum(-1), rtol=1e-4, atol=1e-4)
    assert (scores(here, there + step) - plain).abs().mean() > 0.1
    torch.testing.assert_close(rotary(query, here).norm(dim=-1), query.norm(dim=-1))


def test_rotary_keeps_the_type():
    heads = torch.randn(3, 2, 12, dtype=torch.bfloat16)
    assert RotaryPosition(12, unit=1)(heads, torch.randn(3, 3)).dtype == torch.bfloat16


# ---- windows ---------------------------------------------------------------------------------------------------------
def test_window_bias_is_the_entry_of_the_difference():
    bias = WindowBias(2, (2, 3, 4))
    cells = torch.cartesian_prod(*[torch.arange(w) for w in (2, 3, 4)]).int()
    query, key = cells[None, :7], cells[None, 5:20]
    found = bias(query, key)
    assert found.shape == (1, 2, 7, 15)
    for i in range(7):
        for j in range(15):
            x, y, z = (query[0, i] - key[0, j] + torch.tensor([1, 2, 3])).tolist()
            assert torch.equal(found[0, :, i, j], bias.table[:, x, y, z])
