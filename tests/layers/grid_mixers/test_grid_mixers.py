"""What holds for every grid mixer, whatever its name."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pctransformer.layers.grid_mixers import create_grid_block, create_grid_mixer, grid_mixer_info, list_grid_mixers
from pctransformer.layers.residual import Residual

DIM, SIZE = 8, (6, 9)
OPTIONS = {
    "window_attention": {"window": 4, "num_heads": 2},
    "cross_shaped_windows": {"stripe": 4},
    "global_attention": {"num_heads": 2},
    "axial_shift": {"reach": 1},
}
LOCAL = {"depthwise_convolution", "identity", "spatial_shift", "window_attention"}
"""One of these does not look at the whole map."""


def mixer(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    made = create_grid_mixer(name, dim=DIM, size=SIZE, **{**OPTIONS.get(name, {}), **options})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def maps(count: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(count, *size, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list_grid_mixers())
class TestEveryGridMixer:
    def test_gradients_reach_every_parameter_and_cell(self, name):
        layer, x = mixer(name), maps().requires_grad_()
        out = layer(x)
        assert out.shape == x.shape
        out.square().sum().backward()
        assert x.grad.abs().sum(3).min() > 0
        assert [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_who_hears_of_a_change(self, name):
        """Neighbours, but of the identity; a far cell of the same row and column only where a mixer looks so far."""
        layer, x = mixer(name), maps()
        changed = x.clone()
        changed[:, 2, 2] += 1
        difference = (layer(changed) - layer(x)).abs().amax((0, 3))
        near = difference[[1, 3, 2, 2], [2, 2, 1, 3]]
        assert (near == 0).all() if name == "identity" else (near > 1e-6).all()
        far = difference[[2, 5], [8, 2]]
        if name in LOCAL or name == "axial_shift":
            assert (far < (1e-6 if name in LOCAL else 0.1)).all()  # statistics of axial shift's norms reach everywhere
        else:
            assert (far > 1e-6).all()

    def test_maps_do_not_see_each_other(self, name):
        layer, x = mixer(name), maps(3)
        together = layer(x)
        for i in range(3):
            torch.testing.assert_close(layer(x[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-5)

    def test_nothing_is_written_into(self, name):
        layer, x = mixer(name), maps()
        before = x.clone()
        layer(x)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("training", [True, False])
    def test_nothing_to_mix(self, name, training):
        assert mixer(name).train(training)(torch.zeros(0, *SIZE, DIM)).shape == (0, *SIZE, DIM)

    def test_memory_may_be_laid_out_otherwise(self, name):
        """As a map (B, C, H, W) gives it, and as a part of a larger one."""
        layer, x = mixer(name), maps()
        other = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        assert not other.is_contiguous()
        torch.testing.assert_close(layer(other), layer(x))

    def test_gradients_repeat_exactly(self, name, deterministic_algorithms):
        def gradients() -> list[torch.Tensor]:
            layer, x = mixer(name).train(), maps().requires_grad_()
            layer(x).square().sum().backward()
            return [x.grad, *(p.grad for p in layer.parameters())]

        assert all(map(torch.equal, gradients(), gradients()))

    def test_bfloat16(self, name):
        """Autocast: near the float32 result, and gradients in the parameters' own type."""
        layer, x = mixer(name), maps().requires_grad_()
        exact = layer(x).detach()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.05 * exact.abs().max().item())
        out.float().square().sum().backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in (x, *layer.parameters()))

    @pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
    def test_other_types_are_kept(self, name, dtype, share):
        """A mixer of another type takes and gives that type; `share` is of the largest value."""
        layer, x = mixer(name), maps()
        expected = layer(x).double()
        out = layer.to(dtype)(x.to(dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=share * expected.abs().max().item())

    @pytest.mark.cuda
    def test_cuda_is_cpu(self, name):
        results = []
        for device in ("cpu", "cuda"):
            layer, x = mixer(name).to(device), maps().to(device).requires_grad_()
            out = layer(x)
            out.square().sum().backward()
            results.append([out.cpu(), x.grad.cpu(), *(p.grad.cpu() for p in layer.parameters())])
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)

    def test_wrong_shapes_are_explained(self, name):
        layer = mixer(name)
        with pytest.raises(ValueError, match=rf"takes maps \(B, H, W, {DIM}\), got \(2, {DIM}, 6, 9\); channels come"):
            layer(torch.zeros(2, DIM, *SIZE))
        with pytest.raises(ValueError, match="takes maps"):
            layer(torch.zeros(*SIZE, DIM))

    def test_other_sizes(self, name):
        layer, x = mixer(name), maps(size=(5, 3))
        if grid_mixer_info(name).fixed:
            with pytest.raises(ValueError, match=r"weights for \(6, 9\) rows and columns, got a map of \(5, 3\)"):
                layer(x)
            with pytest.raises(ValueError, match=r"say its size with size=\(H, W\)"):
                create_grid_mixer(name, dim=DIM)
        else:
            assert layer(x).shape == x.shape
            assert layer(maps(size=(1, 1))).isfinite().all()

    def test_block(self, name):
        """U = X + mixer(LN(X)), Y = U + MLP(LN(U)); without the first norm where the mixer has one of its own."""
        torch.manual_seed(0)
        block, x = create_grid_block(name, dim=DIM, size=SIZE, mlp_ratio=2, **OPTIONS.get(name, {})).eval(), maps()
        first, last = block.parts[1].mlp.fc1, block.parts[1].mlp.fc2
        assert first.out_features == 2 * DIM
        u = x + block.parts[0].mixer(x if name == "smlp" else nn.functional.layer_norm(x, [DIM]))
        expected = u + last(nn.functional.gelu(first(nn.functional.layer_norm(u, [DIM]))))
        torch.testing.assert_close(block(x), expected)

    def test_drop_path_leaves_whole_maps_as_they_are(self, name):
        block = create_grid_block(name, dim=DIM, size=SIZE, drop_path=0.5, **OPTIONS.get(name, {}))
        residuals = [module for module in block.modules() if isinstance(module, Residual)]
        assert [residual.drop_path.share for residual in residuals] == [0.5, 0.5]
        torch.manual_seed(0)
        x = maps(16)
        same = (block(x) == x).flatten(1).all(1)
        assert 0 < same.sum() < 16


def test_windows_of_every_other_layer_are_shifted():
    shifted = [create_grid_mixer("window_attention", dim=DIM, index=i).shifted for i in range(3)]
    assert shifted == [False, True, False]
    assert not create_grid_mixer("window_attention", dim=DIM, index=1, shifted=False).shifted


def test_names():
    assert list_grid_mixers("*shift") == ["axial_shift", "spatial_shift"]
    assert set(list_grid_mixers()) >= {"smlp", "permutator", "window_attention", "cross_shaped_windows"}
    with pytest.raises(ValueError, match="no grid mixer is called 'smpl'; did you mean 'smlp'"):
        create_grid_mixer("smpl", dim=8)
    with pytest.raises(TypeError, match="num_head"):
        create_grid_mixer("window_attention", dim=8, num_head=2)


def test_names_are_there_without_torch():
    names = "from pctransformer.layers.grid_mixers import list_grid_mixers; list_grid_mixers()"
    code = f"{names}; import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
