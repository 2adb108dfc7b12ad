"""What holds for every token mixer, whatever its name."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pctransformer.layers.mixers import create_block, create_mixer, list_mixers, mixer_info
from pctransformer.layers.transformer import pre_norm_layer

DIM, K = 16, 9


def mixer(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    made = create_mixer(name, dim=DIM, num_tokens=K, **options)
    # away from special values, such as a gate that is one whatever the tokens are
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def patches(count: int = 3) -> torch.Tensor:
    return torch.randn(count, K, DIM, generator=torch.Generator().manual_seed(1))


def mask() -> torch.Tensor:
    """A full patch, one with padding behind, one with a hole, one token, none."""
    valid = torch.ones(5, K, dtype=torch.bool)
    valid[1, 6:] = False
    valid[2, 4] = False
    valid[3, 1:] = False
    valid[4] = False
    return valid


@pytest.mark.parametrize("name", list_mixers())
class TestEveryMixer:
    def test_gradients_reach_every_parameter_and_token(self, name):
        layer, tokens = mixer(name), patches().requires_grad_()
        out = layer(tokens)
        assert out.shape == tokens.shape
        out.square().sum().backward()
        assert tokens.grad.abs().sum(2).min() > 0
        without = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []

    def test_tokens_see_each_other(self, name):
        """A change of one token changes what others receive."""
        layer, tokens = mixer(name), patches()
        changed = tokens.clone()
        changed[:, 4] += 1
        difference = (layer(changed) - layer(tokens)).abs().amax(2)
        assert (difference[:, [3, 5]] > 1e-6).all()

    def test_order_matters_where_weights_belong_to_places(self, name):
        """And along a curve, but not to attention of any kind, nor to the mean: these take tokens as a set."""
        layer, tokens = mixer(name), patches()
        order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 5, 4])
        difference = (layer(tokens[:, order]) - layer(tokens)[:, order]).abs().max().item()
        is_a_set = "attention" in mixer_info(name).family or name == "mean_pool"
        assert difference < 1e-4 if is_a_set else difference > 1e-2

    def test_patches_do_not_see_each_other(self, name):
        layer, tokens = mixer(name), patches()
        together = layer(tokens)
        for i in range(3):
            torch.testing.assert_close(layer(tokens[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("training", [True, False])
    def test_what_stands_at_padding_does_not_matter(self, name, training):
        layer, valid = mixer(name).train(training), mask()
        tokens = patches(5)
        other = torch.where(valid[..., None], tokens, 1e4)
        broken = torch.where(valid[..., None], tokens, torch.nan)
        expected = layer(tokens, valid)
        assert expected.isfinite().all()
        assert (expected[~valid] == 0).all()
        assert torch.equal(layer(other, valid), expected)
        assert torch.equal(layer(broken, valid), expected)

    def test_no_gradient_comes_from_padding(self, name):
        layer, valid = mixer(name), mask()
        tokens = patches(5).requires_grad_()
        layer(tokens, valid).square().sum().backward()
        assert (tokens.grad[~valid] == 0).all()
        assert all(p.grad.isfinite().all() for p in layer.parameters())

    def test_a_mask_without_padding_changes_nothing(self, name):
        layer, tokens = mixer(name), patches()
        full = torch.ones(3, K, dtype=torch.bool)
        torch.testing.assert_close(layer(tokens, full), layer(tokens), rtol=1e-5, atol=1e-5)

    def test_nothing_is_written_into(self, name):
        layer, tokens, valid = mixer(name), patches(5), mask()
        before = tokens.clone(), valid.clone()
        layer(tokens, valid)
        assert torch.equal(tokens, before[0])
        assert torch.equal(valid, before[1])

    def test_nothing_to_mix(self, name):
        assert mixer(name)(torch.zeros(0, K, DIM)).shape == (0, K, DIM)

    def test_gradients_repeat_exactly(self, name):
        def gradients() -> list[torch.Tensor]:
            layer, tokens = mixer(name), patches(5).requires_grad_()
            layer(tokens, mask()).square().sum().backward()
            return [tokens.grad, *(p.grad for p in layer.parameters())]

        torch.use_deterministic_algorithms(True)
        try:
            assert all(map(torch.equal, gradients(), gradients()))
        finally:
            torch.use_deterministic_algorithms(False)

    def test_bfloat16(self, name):
        """Autocast: near the float32 result, and gradients in the parameters' own type."""
        layer, tokens = mixer(name), patches(5).requires_grad_()
        exact = layer(tokens, mask()).detach()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(tokens, mask())
        torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.05 * exact.abs().max().item())
        out.float().square().sum().backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in (tokens, *layer.parameters()))

    @pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
    def test_other_types_are_kept(self, name, dtype, share):
        """A mixer of another type takes and gives that type; `share` is of the largest value."""
        layer, tokens = mixer(name), patches(5)
        expected = layer(tokens, mask()).double()
        out = layer.to(dtype)(tokens.to(dtype), mask())
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=share * expected.abs().max().item())

    @pytest.mark.cuda
    def test_cuda_is_cpu(self, name):
        results = []
        for device in ("cpu", "cuda"):
            layer = mixer(name).to(device)
            tokens = patches(5).to(device).requires_grad_()
            out = layer(tokens, mask().to(device))
            out.square().sum().backward()
            results.append([out.cpu(), tokens.grad.cpu(), *(p.grad.cpu() for p in layer.parameters())])
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)

    def test_wrong_shapes_are_explained(self, name):
        layer = mixer(name)
        with pytest.raises(ValueError, match=rf"takes tokens \(P, K, {DIM}\), got \(2, {K}, {DIM + 1}\)"):
            layer(torch.zeros(2, K, DIM + 1))
        with pytest.raises(ValueError, match=rf"valid must be \(P, K\) = \(2, {K}\)"):
            layer(torch.zeros(2, K, DIM), torch.ones(2, K - 1, dtype=torch.bool))
        with pytest.raises(TypeError, match="valid must be bool"):
            layer(torch.zeros(2, K, DIM), torch.ones(2, K))

    def test_other_numbers_of_tokens(self, name):
        layer, tokens = mixer(name), torch.randn(2, K - 1, DIM)
        if mixer_info(name).fixed:
            with pytest.raises(ValueError, match=f"weights for {K} tokens per patch, got {K - 1}"):
                layer(tokens)
            with pytest.raises(ValueError, match="say how many with num_tokens="):
                create_mixer(name, dim=DIM)
        else:
            assert layer(tokens).shape == tokens.shape
            create_mixer(name, dim=DIM)

    def test_published_block(self, name):
        """Built from the same mixer; what stands at padding does not reach real tokens in the whole block."""
        torch.manual_seed(0)
        block = create_block(name, dim=DIM, num_tokens=K).eval()
        assert type(mixer(name)) in map(type, block.modules())
        tokens, valid = patches(5), mask()
        out = block(tokens, valid)[valid]
        assert torch.equal(block(torch.where(valid[..., None], tokens, 7), valid)[valid], out)
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())

    def test_pre_norm_layer(self, name):
        """X + mixer(LN(X)), then + perceptron(LN): the surroundings in which mixers are compared."""
        layer, tokens = mixer(name), patches()
        block = pre_norm_layer(layer, DIM, mlp_ratio=2)
        first, last = block.parts[1].mlp.fc1, block.parts[1].mlp.fc2
        assert first.out_features == 2 * DIM
        u = tokens + layer(nn.functional.layer_norm(tokens, [DIM]))
        expected = u + last(nn.functional.gelu(first(nn.functional.layer_norm(u, [DIM]))))
        torch.testing.assert_close(block(tokens), expected)


@pytest.mark.parametrize("name", [name for name in list_mixers() if not mixer_info(name).fixed])
def test_padded_is_unpadded(name):
    """Mixers for any number of tokens: a padded patch gives what it gives at its own length."""
    layer, valid, tokens = mixer(name), mask(), patches(5)
    padded = layer(tokens, valid)
    torch.testing.assert_close(padded[1, :6], layer(tokens[1:2, :6])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded[3, :1], layer(tokens[3:4, :1])[0], rtol=1e-5, atol=1e-5)


def test_names():
    assert list_mixers("p*") == ["pct_attention"]
    assert len(list_mixers("*attention")) == 5
    assert set(list_mixers()) >= {"rnn", "lstm", "shift", "mean_pool", "mlp_mixer"}
    with pytest.raises(ValueError, match="no mixer is called 'res_mlp'; did you mean 'resmlp'"):
        create_mixer("res_mlp", dim=8)
    with pytest.raises(ValueError, match="there are external_attention, feed_forward_only, gmlp"):
        mixer_info("?")
    with pytest.raises(TypeError, match="num_head"):
        create_mixer("mlp_mixer", dim=8, num_tokens=4, num_head=2)


def test_names_are_there_without_torch():
    code = (
        "from pctransformer.layers.mixers import list_mixers; list_mixers(); import sys; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
