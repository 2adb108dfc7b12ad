import pytest
import torch

from pctransformer.grid_view import window_attention
from pctransformer.grid_view.window_attention import CellDescriptor, WindowBlock
from pctransformer.grid_view.window_backbone import WindowBackbone, WindowMerge, WindowStage
from pctransformer.layers import sparse_convolution
from pctransformer.layers.recording import record_attention
from pctransformer.visualization.rollout import Source, attention_rollout
from pctransformer.voxels import Grid
from tests.grid_view.small import cells

GRID = Grid((0, -2, -3), (0.5, 0.5, 0.25), (8, 6, 10))


def stage(height: int, dim: int = 8, blocks: int = 3) -> WindowStage:
    return WindowStage(
        [
            WindowBlock(
                dim, 2, (height, 4, 4), shifted=i % 2 == 1, hidden_dim=12, descriptor=CellDescriptor(dim, (3, 3, 3))
            )
            for i in range(blocks)
        ]
    )


def backbone() -> WindowBackbone:
    """Eight heights, four, one; half as many columns at last."""
    torch.manual_seed(0)
    merges = [WindowMerge(8, 12, (2, 1, 1)), WindowMerge(12, 8, (4, 2, 2))]
    return WindowBackbone([stage(8), stage(4, 12), stage(1)], merges, dim=8)


def test_merge_by_hand():
    """A joined cell is the sum of its cells, each by the matrix of its place in the box, normalised."""
    torch.manual_seed(0)
    merge, voxels = WindowMerge(8, 6, (4, 2, 5)), cells((60, 0, 1), GRID)
    out = merge(voxels)
    assert out.grid == Grid((0, -2, -3), (2.5, 1, 1), (2, 3, 2))
    stride = torch.tensor([4, 2, 5])
    sums: dict[tuple[int, ...], torch.Tensor] = {}
    for (b, *cell), x in zip(voxels.coordinates.tolist(), voxels.features):
        joined = tuple((torch.tensor(cell) // stride).tolist())
        z, y, x_ = (torch.tensor(cell) % stride).tolist()
        sums[(b, *joined)] = sums.get((b, *joined), 0) + merge.conv.weight[:, z, y, x_] @ x
    assert out.coordinates.tolist() == [list(cell) for cell in sorted(sums)]
    expected = merge.norm(torch.stack([sums[cell] for cell in sorted(sums)]))
    torch.testing.assert_close(out.features, expected, rtol=1e-4, atol=1e-5)


def test_stages_and_merges_one_after_another():
    model, voxels = backbone(), cells((90, 0, 1, 40), GRID)
    out = model(voxels)
    assert out.grid == model.out_grid(GRID) == Grid((0, -2, -3), (1, 1, 2), (1, 3, 5))
    assert out.features.shape == (len(out.coordinates), 8)
    step = voxels
    for i, part in enumerate(model.stages):
        step = step if i == 0 else model.merges[i - 1](step)
        for block in part.blocks:
            step = block(step, block.attention.windows(step))
    torch.testing.assert_close(out.features, model.norm(step.features), rtol=1e-4, atol=1e-5)


def test_windows_and_rules_are_found_once_for_each_stage(monkeypatch):
    found, searched = [], []
    find, search = window_attention.find_windows, sparse_convolution._submanifold_pairs
    monkeypatch.setattr(
        window_attention, "find_windows", lambda *a, shifted: found.append(shifted) or find(*a, shifted=shifted)
    )
    monkeypatch.setattr(sparse_convolution, "_submanifold_pairs", lambda *a: searched.append(1) or search(*a))
    backbone()(cells((60,), GRID))
    assert found == [False, True] * 3
    assert len(searched) == 3


def test_every_weight_has_a_gradient_and_it_repeats(deterministic_algorithms):
    def gradients() -> list[torch.Tensor]:
        model = backbone()
        (model(cells((300, 100), GRID)).features ** 3).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))


@pytest.mark.parametrize("lengths", [(0,), (1,), (0, 30, 0)])
def test_clouds_of_next_to_nothing(lengths):
    model = backbone()
    out = model(cells(lengths, GRID))
    assert len(out) == len(lengths)
    assert out.features.isfinite().all()
    out.features.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_recorded_maps_lead_down_to_the_cells():
    """The same output; and a joined cell looks at cells of its own cloud only."""
    model, voxels = backbone(), cells((90, 0, 40), GRID)
    out = model(voxels)
    with record_attention(model) as maps:
        torch.testing.assert_close(model(voxels).features, out.features, rtol=1e-4, atol=1e-5)
    assert [found.keys for found in maps] == (["tokens"] * 3 + ["children"]) * 2 + ["tokens"] * 3
    top = torch.zeros(len(out.coordinates)).index_fill(0, out.offsets[:1], 1)
    weights = attention_rollout(maps, Source(len(maps), top), len(voxels.coordinates))
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[:90].sum().item() == pytest.approx(1, abs=1e-5)
    joined = (voxels.coordinates[:90, 1:] // torch.tensor([8, 2, 2]) == out.coordinates[0, 1:]).all(1)
    assert (weights[:90][joined] > 0).all()


def test_faults():
    with pytest.raises(ValueError, match="2 stages have 1 merges"):
        WindowBackbone([stage(1), stage(1)], [], dim=8)
    with pytest.raises(ValueError, match=r"cannot be joined by \(3, 1, 1\)"):
        WindowMerge(8, 8, (3, 1, 1))(cells((9,), GRID))
