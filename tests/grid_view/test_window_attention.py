import itertools

import pytest
import torch
from torch.nn import functional

from pctransformer.grid_view.window_attention import CellDescriptor, WindowAttention, WindowBlock, find_windows
from pctransformer.layers.recording import record_attention
from pctransformer.voxels import Grid, VoxelBatch
from tests.grid_view.small import GRID, cells

SIZE = (2, 4, 3)


def attention(shifted: bool = False, size=SIZE, dim: int = 8, heads: int = 2) -> WindowAttention:
    """With a table that counts."""
    torch.manual_seed(0)
    layer = WindowAttention(dim, heads, size, shifted=shifted)
    torch.nn.init.normal_(layer.bias.table)
    return layer


def windows_by_hand(voxels: VoxelBatch, size, shifted: bool) -> dict[tuple[int, ...], list[int]]:
    """Rows of each window, read off the rule."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, (b, *cell) in enumerate(voxels.coordinates.tolist()):
        begins = [s // 2 if shifted and n > s else 0 for s, n in zip(size, voxels.grid.shape)]
        window = (b, *((c + begin) // s for c, begin, s in zip(cell, begins, size)))
        found.setdefault(window, []).append(row)
    return found


def by_formula(layer: WindowAttention, voxels: VoxelBatch) -> torch.Tensor:
    """Query by query and head by head; bias by the difference of cells."""
    x = voxels.features
    out = torch.zeros_like(x)
    query, key, value = layer.qkv(x).unflatten(1, (3, layer.num_heads, -1)).unbind(1)
    place = voxels.coordinates[:, 1:].tolist()
    for rows in windows_by_hand(voxels, layer.size, layer.shifted).values():
        for i in rows:
            heads = []
            for h in range(layer.num_heads):
                scores = []
                for j in rows:
                    z, y, x_ = (a - b + s - 1 for a, b, s in zip(place[i], place[j], layer.size))
                    scores.append(query[i, h] @ key[j, h] / query.shape[2] ** 0.5 + layer.bias.table[h, z, y, x_])
                heads.append(torch.stack(scores).softmax(0) @ value[rows, h])
            out[i] = layer.proj(torch.cat(heads))
    return out


# ---- partitions ------------------------------------------------------------------------------------------------------
def test_windows_by_hand():
    """A row of six cells and windows of four: 0-3 and 4-5; shifted by two 0-1 and 2-5."""
    grid = Grid((0, 0, 0), (1, 1, 1), (1, 1, 6))
    coordinates = torch.tensor([[0, 0, 0, x] for x in range(6)] + [[1, 0, 0, 5]])
    voxels = VoxelBatch.from_coordinates(coordinates, torch.zeros(7, 0), grid, 2)
    regular, shifted = (find_windows(voxels, (1, 1, 4), shifted=shifted) for shifted in (False, True))
    assert regular.offsets.tolist() == [0, 4, 6, 7]
    assert regular.places[:, 2].tolist() == [0, 1, 2, 3, 0, 1, 1]
    assert shifted.offsets.tolist() == [0, 2, 6, 7]
    assert shifted.places[:, 2].tolist() == [2, 3, 0, 1, 2, 3, 3]
    assert shifted.places.dtype == torch.int32


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(2, 4, 3), (1, 1, 1), (5, 2, 7), (3, 9, 20)])
def test_windows_cover_all_cells_once(size, shifted):
    voxels = cells((120, 0, 1, 60))
    windows = find_windows(voxels, size, shifted=shifted)
    assert windows.order.sort().values.tolist() == list(range(181))
    assert windows.order[windows.inverse].tolist() == list(range(181))
    found = [rows.tolist() for rows in windows.order.split(windows.offsets.diff().tolist())]
    by_hand = windows_by_hand(voxels, size, shifted)
    assert found == [by_hand[window] for window in sorted(by_hand)]
    assert ((windows.places >= 0) & (windows.places < torch.tensor(size))).all()
    for rows, places in zip(found, windows.places.split(windows.offsets.diff().tolist())):
        first = voxels.coordinates[rows[0], 1:] - places[0]
        assert torch.equal(voxels.coordinates[rows, 1:], first + places)


def test_what_a_border_parts_the_shift_joins():
    """Cells 3 and 4 are in two windows of four, and in one that is shifted by two; 1 and 2 the other way round."""
    grid = Grid((0, 0, 0), (1, 1, 1), (1, 8, 1))

    def seen(shifted: bool) -> list[tuple[int, int]]:
        coordinates = torch.tensor([[0, 0, y, 0] for y in range(8)])
        voxels = VoxelBatch.from_coordinates(coordinates, torch.randn(8, 8), grid, 1)
        layer = attention(shifted, (1, 4, 1))
        x = voxels.features.requires_grad_()
        out = layer(x, layer.windows(voxels))
        jacobian = [torch.autograd.grad(row.sum(), x, retain_graph=True)[0].abs().sum(1) > 0 for row in out]
        return torch.stack(jacobian).nonzero().tolist()

    regular, shifted = seen(False), seen(True)
    assert [3, 4] not in regular
    assert [3, 4] in shifted
    assert [1, 2] in regular
    assert [1, 2] not in shifted
    groups = [range(2), range(2, 6), range(6, 8)]
    assert shifted == sorted([i, j] for group in groups for i, j in itertools.product(group, group))


def test_no_shift_along_an_axis_that_one_window_covers():
    voxels = cells((100,))
    whole, shifted = (find_windows(voxels, (5, 9, 10), shifted=shifted) for shifted in (False, True))
    assert shifted.offsets.tolist() == [0, 100]
    assert torch.equal(whole.places, shifted.places)
    columns = find_windows(voxels, (8, 4, 4), shifted=True)
    assert torch.equal(columns.places[:, 0], voxels.coordinates[columns.order, 1])


# ---- attention -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("lengths", [(60, 0, 1, 30), (0, 0), (1,), (450,)])
def test_equals_the_formula(lengths, shifted):
    layer, voxels = attention(shifted), cells(lengths)
    out = layer(voxels.features, layer.windows(voxels))
    torch.testing.assert_close(out, by_formula(layer, voxels), rtol=1e-4, atol=1e-5)


def test_no_clouds():
    layer, voxels = attention(), VoxelBatch.from_coordinates(torch.zeros(0, 4).int(), torch.zeros(0, 8), GRID, 0)
    assert layer(voxels.features, layer.windows(voxels)).shape == (0, 8)


def test_a_full_window_of_thousands_sees_all_of_them():
    """Every one of 3072 cells, against torch's attention with the whole matrix of biases."""
    grid = Grid((0, 0, 0), (1, 1, 1), (12, 16, 16))
    layer, voxels = attention(size=grid.shape), cells((12 * 16 * 16,), grid)
    place = voxels.coordinates[None, :, 1:]
    query, key, value = layer.qkv(voxels.features).unflatten(1, (3, 2, -1)).permute(1, 2, 0, 3)[:, None]
    heads = functional.scaled_dot_product_attention(query, key, value, attn_mask=layer.bias(place, place))
    out = layer(voxels.features, layer.windows(voxels))
    torch.testing.assert_close(out, layer.proj(heads[0].transpose(0, 1).flatten(1)), rtol=1e-4, atol=1e-5)


def test_the_order_of_cells_does_not_matter():
    layer, voxels = attention(True), cells((100, 50))
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    again = VoxelBatch.from_coordinates(voxels.coordinates[order], voxels.features[order], GRID, 2)
    ours, theirs = (layer(of.features, layer.windows(of)) for of in (voxels, again))
    assert torch.equal(ours, theirs)


def test_a_cloud_is_what_it_is_alone():
    layer, voxels = attention(True), cells((40, 0, 70))
    out = layer(voxels.features, layer.windows(voxels))
    last = voxels.coordinates[40:] - torch.tensor([2, 0, 0, 0], dtype=torch.int32)
    alone = VoxelBatch.from_coordinates(last, voxels.features[40:], GRID, 1)
    assert torch.equal(layer(alone.features, layer.windows(alone)), out[40:])


@pytest.mark.parametrize("shifted", [False, True])
def test_gradients(shifted):
    voxels = cells((9, 0, 4), Grid((0, 0, 0), (1, 1, 1), (2, 3, 4)), channels=4)
    layer = attention(shifted, (2, 2, 3), dim=4).double()
    windows = layer.windows(voxels)
    names, parameters = zip(*layer.named_parameters())

    def run(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights)), (x, windows))

    x = voxels.features.double().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_it_repeats_exactly(deterministic_algorithms):
    def gradients() -> list[torch.Tensor]:
        layer, voxels = attention(True), cells((200, 100))
        x = voxels.features.requires_grad_()
        return list(torch.autograd.grad(layer(x, layer.windows(voxels)).square().sum(), [x, *layer.parameters()]))

    first = gradients()
    assert all(gradient.any() for gradient in first)
    assert all(map(torch.equal, first, gradients()))


def test_bfloat16():
    """Linear layers in eight bits, scores and the softmax in float32."""
    layer, voxels = attention(), cells((100,))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(voxels.features, layer.windows(voxels))
    torch.testing.assert_close(out.float(), layer(voxels.features, layer.windows(voxels)), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shifted", [False, True])
def test_recorded_it_gives_the_same_and_its_weights(shifted):
    layer, voxels = attention(shifted), cells((60, 0, 1, 30))
    windows = layer.windows(voxels)
    out = layer(voxels.features, windows)
    with record_attention(layer) as maps:
        torch.testing.assert_close(layer(voxels.features, windows), out, rtol=1e-4, atol=1e-5)
    query, key, weight = maps[0].pairs()
    torch.testing.assert_close(torch.zeros(91).index_add(0, query, weight), torch.ones(91))
    by_hand = windows_by_hand(voxels, SIZE, shifted).values()
    assert sorted(zip(query.tolist(), key.tolist())) == sorted(
        pair for rows in by_hand for pair in itertools.product(rows, rows)
    )
    # rows of the map are those of cells, not places in windows: its weights give the output again
    value = layer.qkv(voxels.features).unflatten(1, (3, 2, -1))[:, 2][maps[0].key_index]  # (W, L, H, D)
    heads = torch.einsum("whqk,wkhd->wqhd", maps[0].weights, value).flatten(2)
    real = maps[0].query_index >= 0
    again = torch.zeros_like(out).index_copy(0, maps[0].query_index[real], layer.proj(heads)[real])
    torch.testing.assert_close(again, out, rtol=1e-4, atol=1e-5)


def test_each_partition_has_its_own_table():
    """A layer takes windows of its own kind, whatever the size of the grid."""
    voxels, regular, shifted = cells((30,)), attention(False), attention(True)
    assert regular.bias.table.shape == (2, 3, 7, 5)
    for layer, other in ((regular, shifted), (shifted, regular)):
        with pytest.raises(ValueError, match="make them with its own windows"):
            layer(voxels.features, other.windows(voxels))
    with pytest.raises(ValueError, match=r"regular windows of \(2, 2, 2\), the layer is for regular windows of \(2, 4"):
        regular(voxels.features, find_windows(voxels, (2, 2, 2)))
    with pytest.raises(ValueError, match="of 30 cells, these are 29"):
        regular(voxels.features[1:], regular.windows(voxels))


def test_faults():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        attention(dim=9)
    with pytest.raises(ValueError, match="three sizes"):
        attention(size=(12, 12))
    with pytest.raises(ValueError, match="size must be"):
        attention(size=(0, 12, 12))


@pytest.mark.cuda
def test_cuda_finds_the_same_windows():
    voxels = cells((400, 0, 300))
    for shifted in (False, True):
        ours, theirs = (find_windows(of, SIZE, shifted=shifted) for of in (voxels, voxels.to("cuda")))
        for name in ("order", "inverse", "offsets", "places"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name).cpu())


# ---- blocks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("convolution", [False, True])
def test_block_by_formula(convolution):
    torch.manual_seed(0)
    descriptor = CellDescriptor(8, (3, 3, 3)) if convolution else None
    block, voxels = WindowBlock(8, 2, SIZE, shifted=True, hidden_dim=12, descriptor=descriptor), cells((90, 0, 30))
    windows = block.attention.windows(voxels)
    x = voxels.features
    if convolution:
        dense = torch.zeros(3, *GRID.shape, 8)
        dense[tuple(voxels.coordinates.long().T)] = x
        weight = block.descriptor.conv.weight.permute(0, 4, 1, 2, 3)
        dense = functional.conv3d(dense.permute(0, 4, 1, 2, 3), weight, padding=1).permute(0, 2, 3, 4, 1)
        x = x + functional.gelu(block.descriptor.norm(dense[tuple(voxels.coordinates.long().T)]))
    x = x + block.attention(block.attention_residual.norm(x), windows)
    x = x + block.mlp(block.mlp_residual.norm(x))
    torch.testing.assert_close(block(voxels, windows).features, x, rtol=1e-4, atol=1e-5)


def test_training_is_evaluation():
    block = WindowBlock(8, 2, SIZE, shifted=False, hidden_dim=12).train()
    voxels = cells((90,))
    windows = block.attention.windows(voxels)
    assert torch.equal(block(voxels, windows).features, block.eval()(voxels, windows).features)
