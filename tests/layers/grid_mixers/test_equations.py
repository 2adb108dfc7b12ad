"""Each grid mixer against its equation, written out cell by cell."""

import itertools
import math

import pytest
import torch
from torch import nn

from pctransformer.layers.grid_mixers import create_grid_mixer
from pctransformer.layers.grid_mixers.window_attention import Windows
from pctransformer.layers.recording import record_attention

H, W, C = 4, 5, 6


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def image(channels: int = C) -> torch.Tensor:
    return torch.randn(H, W, channels, generator=torch.Generator().manual_seed(1))


def cells() -> itertools.product:
    return itertools.product(range(H), range(W))


def convolved(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """3 x 3, each channel by itself, zeros around: x (H, W, C), kernel (C, 1, 3, 3)."""
    out = torch.zeros_like(x) if bias is None else bias.expand_as(x).clone()
    for (i, j), di, dj in itertools.product(cells(), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= i + di < H and 0 <= j + dj < W:
            out[i, j] += kernel[:, 0, di + 1, dj + 1] * x[i + di, j + dj]
    return out


def test_depthwise_convolution():
    mixer = create_grid_mixer("depthwise_convolution", dim=C)
    layer = mixer.convolution.layers[0]
    torch.testing.assert_close(mixer(image()[None])[0], convolved(image(), layer.weight, layer.bias))
    assert sum(p.numel() for p in mixer.parameters()) == 9 * C + C


# ---- sMLP ------------------------------------------------------------------------------------------------------------
def normed(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """GELU of BatchNorm of one map (H, W, C) by its own statistics."""
    mean, variance = x.mean((0, 1)), x.var((0, 1), correction=0)
    return nn.functional.gelu((x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias)


def dw(x: torch.Tensor, layers: nn.Sequential) -> torch.Tensor:
    assert layers[2].bias is None
    return convolved(normed(x, layers[0]), layers[2].weight)


def by_the_letter(mixer: nn.Module, x: torch.Tensor, fusion: str, order: str, identity: bool) -> torch.Tensor:
    """sMLP of X = GELU(BN(x)) for one map in training."""
    x = normed(x, mixer.norm.layers[0])
    a, b, c, d = mixer.along_height.weight, mixer.along_height.bias, mixer.along_width.weight, mixer.along_width.bias
    vertical, horizontal = torch.zeros_like(x), torch.zeros_like(x)
    for i, j in cells():
        vertical[i, j] = b[i] + sum(a[i, h] * x[h, j] for h in range(H))
    source = vertical if order == "sequential" else x
    for i, j in cells():
        horizontal[i, j] = d[j] + sum(c[j, w] * source[i, w] for w in range(W))
    branches = ([vertical] if order == "parallel" else []) + [horizontal] + ([x] if identity else [])
    if fusion == "concat":
        assert mixer.fuse.bias is None
        return torch.cat(branches, 2) @ mixer.fuse.weight.T
    if fusion == "weighted":
        branches = [branch * factor for branch, factor in zip(branches, mixer.factors, strict=True)]
    return sum(branches)


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("fusion", ["concat", "sum", "weighted"])
def test_smlp_and_its_variants(fusion, order, identity):
    mixer = create_grid_mixer("smlp", dim=C, size=(H, W), fusion=fusion, order=order, identity=identity)
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.5)
    expected = by_the_letter(mixer, dw(image(), mixer.local.layers), fusion, order, identity)
    torch.testing.assert_close(mixer(image()[None])[0], expected, rtol=1e-4, atol=1e-5)
    branches = (2 if order == "parallel" else 1) + identity
    fused = {"concat": branches * C * C, "sum": 0, "weighted": branches * C}[fusion]
    axes = H * H + H + W * W + W
    assert sum(p.numel() for p in mixer.parameters()) == (2 * C + 9 * C) + 2 * C + axes + fused


def test_smlp_scopes():
    """Global only: without the convolution. Local only: two of them, of any size."""
    alone = create_grid_mixer("smlp", dim=C, size=(H, W), scope="global")
    torch.testing.assert_close(
        alone(image()[None])[0], by_the_letter(alone, image(), "concat", "parallel", True), rtol=1e-4, atol=1e-5
    )
    local = create_grid_mixer("smlp", dim=C, size=(9, 9), scope="local")
    expected = dw(dw(image(), local.local.layers), local.second.layers)
    torch.testing.assert_close(local(image()[None])[0], expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in local.parameters()) == 2 * (2 * C + 9 * C)


@pytest.mark.parametrize("option", [{"fusion": "mean"}, {"order": "both"}, {"scope": "none"}])
def test_smlp_options_are_checked(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be one of"):
        create_grid_mixer("smlp", dim=C, size=(H, W), **option)


# ---- permutator ------------------------------------------------------------------------------------------------------
def test_permutator():
    """With segments that are neither one nor as many as channels, and others along W."""
    n, m = 3, 2
    mixer = create_grid_mixer("permutator", dim=C, size=(H, W), segments=(n, m))
    x = image()
    vertical, horizontal = torch.zeros_like(x), torch.zeros_like(x)
    for part, j in itertools.product(range(n), range(W)):  # a column of a segment of C / n channels
        channels = slice(part * C // n, (part + 1) * C // n)
        column = mixer.along_height.linear.weight @ x[:, j, channels].flatten()
        vertical[:, j, channels] = column.view(H, C // n)
    for part, i in itertools.product(range(m), range(H)):
        channels = slice(part * C // m, (part + 1) * C // m)
        horizontal[i, :, channels] = (mixer.along_width.linear.weight @ x[i, :, channels].flatten()).view(W, C // m)
    branches = torch.stack([vertical, horizontal, x @ mixer.channels.weight.T])
    hidden = nn.functional.gelu(mixer.weights.fc1(branches.sum(0).mean((0, 1))))
    weights = mixer.weights.fc2(hidden).view(3, C).softmax(0)
    expected = mixer.out((weights[:, None, None] * branches).sum(0))
    torch.testing.assert_close(mixer(x[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_segments_of_the_permutator():
    """As many as cells where channels allow it, as published; else the divisor next to that."""
    mixer = create_grid_mixer("permutator", dim=32, size=(8, 5))
    assert (mixer.along_height.segments, mixer.along_width.segments) == (8, 4)
    assert mixer.along_height.linear.weight.shape == (32, 32)
    # ViP-Small/7: 384 channels on 32 x 32 cells; 192 + 384 channels in its stages: layers of C x C each
    published = create_grid_mixer("permutator", dim=192, size=(32, 32))
    assert sum(p.numel() for p in published.parameters()) == 4 * 192**2 + 192 + (192 * 48 + 48 + 48 * 576 + 576)
    with pytest.raises(ValueError, match="do not fall into 4 and 2 equal segments"):
        create_grid_mixer("permutator", dim=6, size=(4, 4), segments=(4, 2))


# ---- shifts ----------------------------------------------------------------------------------------------------------
def test_spatial_shift():
    mixer = create_grid_mixer("spatial_shift", dim=8)
    x = image(8)
    z = nn.functional.gelu(mixer.fc1(x))
    moved = z.clone()
    for i, j in cells():
        for group, (di, dj) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):  # where the cell's channels come from
            if 0 <= i + di < H and 0 <= j + dj < W:
                channels = slice(2 * group, 2 * group + 2)
                moved[i, j, channels] = z[i + di, j + dj, channels]
    torch.testing.assert_close(mixer(x[None])[0], mixer.fc2(moved))
    with pytest.raises(ValueError, match="4 at least, got 3"):
        create_grid_mixer("spatial_shift", dim=3)


def test_axial_shift():
    reach = 2
    mixer = create_grid_mixer("axial_shift", dim=7, reach=reach)
    for norm in (mixer.norm_in.layers[0], mixer.norm_out.layers[0]):
        nn.init.normal_(norm.weight)
    x = image(7)

    def normed(y: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
        return (y - y.mean()) / (y.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias

    z = nn.functional.gelu(normed(mixer.fc_in(x), mixer.norm_in.layers[0]))
    groups = [range(0, 2), range(2, 4), range(4, 5), range(5, 6), range(6, 7)]
    vertical, horizontal = torch.zeros_like(z), torch.zeros_like(z)
    for (i, j), (g, channels) in itertools.product(cells(), zip(range(-reach, reach + 1), groups)):
        for c in channels:
            if 0 <= i - g < H:
                vertical[i, j, c] = z[i - g, j, c]
            if 0 <= j - g < W:
                horizontal[i, j, c] = z[i, j - g, c]
    gelu = nn.functional.gelu
    y = gelu(mixer.vertical(vertical)) + gelu(mixer.horizontal(horizontal))
    expected = mixer.fc_out(normed(y, mixer.norm_out.layers[0]))
    torch.testing.assert_close(mixer(x[None])[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="2 \\* reach \\+ 1, got reach=4"):
        create_grid_mixer("axial_shift", dim=8, reach=4)


# ---- attention -------------------------------------------------------------------------------------------------------
def attended(q, k, v, seen, bias) -> torch.Tensor:
    """(H, W, D) from queries, keys and values (H, W, D), cell by cell; bias(cell, other) is added to scores."""
    out = torch.zeros_like(v)
    for cell in cells():
        others = [other for other in cells() if seen(cell, other)]
        scores = torch.stack([q[cell] @ k[other] / math.sqrt(q.shape[2]) + bias(cell, other) for other in others])
        out[cell] = sum(weight * v[other] for weight, other in zip(scores.softmax(0), others, strict=True))
    return out


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [2, 3, 4, 7])
def test_window_attention(window, shifted, recorded):
    """Windows are those of the plane: begun at 0, or half a window later, and cut where the map ends."""
    mixer = create_grid_mixer("window_attention", dim=6, num_heads=2, window=window, shifted=shifted)
    nn.init.normal_(mixer.bias.table)
    x = image()
    steps = [min(window, side) for side in (H, W)]
    shifts = [step // 2 if shifted and step < side else 0 for step, side in zip(steps, (H, W))]

    def window_of(cell: tuple[int, int]) -> tuple[int, ...]:
        return tuple((place - shift) // step for place, shift, step in zip(cell, shifts, steps))

    heads = []
    for head in range(2):
        channels = slice(3 * head, 3 * head + 3)
        q, k, v = (part[..., channels] for part in mixer.qkv(x).chunk(3, 2))
        table = mixer.bias.table[head, :, :, 0]
        heads.append(
            attended(
                q, k, v,
                lambda cell, other: window_of(cell) == window_of(other),
                lambda cell, other, table=table: table[
                    cell[0] - other[0] + window - 1, cell[1] - other[1] + window - 1
                ],
            )
        )  # fmt: skip
    expected = mixer.out(torch.cat(heads, 2))
    if recorded:
        with record_attention(mixer) as maps:
            out = mixer(torch.stack([x, x.flip(0)]))[0]
        query, key, weight = maps[0].pairs()
        assert all(window_of(divmod(q % (H * W), W)) == window_of(divmod(k % (H * W), W))
                   for q, k, w in zip(query.tolist(), key.tolist(), weight.tolist()) if w > 0)  # fmt: skip
        assert ((query < H * W) == (key < H * W))[weight > 0].all()
        sums = torch.zeros(2 * H * W).index_add(0, query, weight.detach())
        torch.testing.assert_close(sums, torch.ones(2 * H * W))
    else:
        out = mixer(torch.stack([x, x.flip(0)]))[0]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("stripe", [1, 2, 9])
def test_cross_shaped_windows(stripe, recorded):
    mixer = create_grid_mixer("cross_shaped_windows", dim=8, num_heads=4, stripe=stripe)
    x = image(8)
    q, k, v = mixer.qkv(x).chunk(3, 2)
    heads = []
    for head in range(4):
        channels, axis = slice(2 * head, 2 * head + 2), 0 if head < 2 else 1  # rows together, then columns together
        heads.append(
            attended(
                q[..., channels], k[..., channels], v[..., channels],
                lambda cell, other, axis=axis: cell[axis] // stripe == other[axis] // stripe,
                lambda cell, other: 0,
            )
        )  # fmt: skip
    layer = mixer.position.layers[0]
    expected = mixer.out(torch.cat(heads, 2) + convolved(v, layer.weight, layer.bias))
    if recorded:
        with record_attention(mixer) as maps:
            out = mixer(x[None])[0]
        assert len(maps) == 2
        for attention in maps:
            query, _, weight = attention.pairs()
            torch.testing.assert_close(torch.zeros(H * W).index_add(0, query, weight.detach()), torch.ones(H * W))
    else:
        out = mixer(x[None])[0]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_windows_there_and_back():
    x = image()[None]
    for window, shifted in itertools.product([(1, 1), (2, 2), (3, 4), (9, 2)], [True, False]):
        windows = Windows.on((H, W), window, shifted=shifted)
        assert torch.equal(windows.join(windows.cut(x)), x)
        assert sorted(place for place in windows.cells(x.device).flatten().tolist() if place >= 0) == list(range(H * W))


def test_full_windows_need_no_mask():
    assert Windows.on((4, 6), (2, 3)).seen(torch.device("cpu")) is None
    assert Windows.on((4, 6), (4, 6), shifted=True).seen(torch.device("cpu")) is None  # one window: nothing to shift
    assert Windows.on((4, 6), (2, 3), shifted=True).seen(torch.device("cpu")) is not None
    assert Windows.on((4, 5), (2, 3)).seen(torch.device("cpu")) is not None


def test_global_attention():
    mixer = create_grid_mixer("global_attention", dim=6, num_heads=1)
    x = image()
    q, (k, v) = mixer.attention.query(x), mixer.attention.key_value(x).chunk(2, 2)
    expected = mixer.attention.out(attended(q, k, v, lambda cell, other: True, lambda cell, other: 0))
    torch.testing.assert_close(mixer(x[None])[0], expected)
    with record_attention(mixer) as maps:
        torch.testing.assert_close(mixer(x[None])[0], expected)
    assert maps[0].weights.shape == (1, 1, H * W, H * W)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("window_attention", {"num_heads": 4}, "6 channels for 4 heads"),
        ("window_attention", {"window": 0}, "window must be at least 1 cell"),
        ("cross_shaped_windows", {"num_heads": 3}, "3 is odd"),
        ("cross_shaped_windows", {"stripe": 0}, "stripe must be at least 1 cell"),
    ],
)
def test_faults_of_attention(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_grid_mixer(name, dim=6, **options)
