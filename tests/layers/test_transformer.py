import pytest
import torch
from torch import nn

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.mixers import create_mixer, list_mixers
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import RotaryPosition
from pctransformer.layers.recording import record_attention
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import (
    ChannelMixing,
    ClassToken,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    TokenMixing,
    Transformer,
    base_transformer,
    init_weights,
    pre_norm_encoder,
    pre_norm_layer,
)
from tests.ops.clouds import offsets_of

LENGTHS = [5, 0, 1, 9]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---- against torch's own ---------------------------------------------------------------------------------------------
def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    dim = theirs.embed_dim
    ours.query.weight.copy_(theirs.in_proj_weight[:dim])
    ours.query.bias.copy_(theirs.in_proj_bias[:dim])
    ours.key_value.weight.copy_(theirs.in_proj_weight[dim:])
    ours.key_value.bias.copy_(theirs.in_proj_bias[dim:])
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    """Weights of a torch.nn.TransformerEncoderLayer or -DecoderLayer into ours."""
    residuals = [module for module in ours.modules() if isinstance(module, Residual)]
    for i, residual in enumerate(residuals, 1):
        residual.norm.load_state_dict(getattr(theirs, f"norm{i}").state_dict())
    mlp = ours.parts[1].mlp if isinstance(ours, EncoderLayer) else ours.mlp
    mlp.fc1.load_state_dict(theirs.linear1.state_dict())
    mlp.fc2.load_state_dict(theirs.linear2.state_dict())
    if isinstance(ours, EncoderLayer):
        copy_attention(ours.parts[0].mixer, theirs.self_attn)
    else:
        copy_attention(ours.self_attention, theirs.self_attn)
        copy_attention(ours.cross_attention, theirs.multihead_attn)


@torch.no_grad()
def copied(theirs: nn.Transformer, ours: Transformer) -> Transformer:
    for part in ("encoder", "decoder"):
        for our_layer, their_layer in zip(getattr(ours, part).layers, getattr(theirs, part).layers, strict=True):
            copy_layer(our_layer, their_layer)
    return ours


def randomized(module: nn.Module) -> nn.Module:
    """So that weights of norms and biases count, too."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn(p.shape))
    return module


def test_six_and_six_layers_equal_torchs():
    """The network of 2017, post-norm, ReLU, a few channels wide; padded source and target, and a causal decoder."""
    torch.manual_seed(0)
    options = {"d_model": 64, "nhead": 8, "dim_feedforward": 96, "dropout": 0.0, "batch_first": True}
    theirs = nn.Transformer(
        **options,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(**options), 6, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**options), 6),
    )
    randomized(theirs)
    ours = copied(theirs, base_transformer(64, hidden_dim=96, dropout=0.0))
    assert parameters(ours) == parameters(theirs)
    source, target = torch.randn(2, 7, 64), torch.randn(2, 5, 64)
    source_valid = torch.arange(7) < torch.tensor([[7], [4]])
    target_valid = torch.arange(5) < torch.tensor([[5], [3]])
    expected = theirs(
        source, target, tgt_mask=torch.ones(5, 5, dtype=torch.bool).triu(1), src_key_padding_mask=~source_valid,
        tgt_key_padding_mask=~target_valid, memory_key_padding_mask=~source_valid,
    )  # fmt: skip
    out = ours(source, target, source_valid, target_valid)
    torch.testing.assert_close(out[target_valid], expected[target_valid], rtol=1e-4, atol=1e-4)


def test_pre_norm_layers_equal_torchs():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(24, 3, 40, 0.0, "gelu", batch_first=True, norm_first=True)
    randomized(theirs)
    ours = pre_norm_layer(MultiHeadAttention(24, 3), 24, mlp_ratio=40 / 24)
    decoder = nn.TransformerDecoderLayer(24, 3, 40, 0.0, "gelu", batch_first=True, norm_first=True)
    randomized(decoder)
    our_decoder = DecoderLayer(
        MultiHeadAttention(24, 3), MultiHeadAttention(24, 3), MLP(24, 40), lambda: Residual(nn.LayerNorm(24))
    )
    with torch.no_grad():
        copy_layer(ours, theirs)
        copy_layer(our_decoder, decoder)
    x, memory = torch.randn(2, 5, 24), torch.randn(2, 8, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(our_decoder(x, memory), decoder(x, memory), rtol=1e-4, atol=1e-5)


# ---- sizes -----------------------------------------------------------------------------------------------------------
def test_published_sizes():
    with torch.device("meta"):
        encoder, transformer = pre_norm_encoder(768, depth=12, num_heads=12), base_transformer()
    stem, positions, head = 3 * 16 * 16 * 768 + 768, 196 * 768, 768 * 1000 + 1000
    assert parameters(encoder) + parameters(ClassToken(768)) + stem + positions + head == 86_567_656  # ViT-B/16
    # section 3 of the 2017 paper: per layer 4 (d^2 + d) per attention, 2 d h + h + d, 2 d per norm
    attention, mlp, norm = 4 * (512**2 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 512
    assert parameters(transformer) == 6 * (attention + mlp + 2 * norm) + 6 * (2 * attention + mlp + 3 * norm)


def test_drop_path_grows_along_the_depth():
    encoder = pre_norm_encoder(24, depth=5, num_heads=3, drop_path=0.2)
    for i in range(2):
        shares = [layer.parts[i].residual.drop_path.share for layer in encoder.layers]
        assert shares == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_parts_in_any_order_and_number():
    """As published layers have them: the perceptron first and without a norm; a mixer alone."""
    torch.manual_seed(0)
    mlp, mixer, norm, x = MLP(24, 40), create_mixer("mean_pool", dim=24), nn.LayerNorm(24), torch.randn(2, 5, 24)
    layer = EncoderLayer(ChannelMixing(mlp, Residual()), TokenMixing(mixer, Residual(norm)))
    u = x + mlp(x)
    torch.testing.assert_close(layer(x), u + mixer(norm(u)))
    torch.testing.assert_close(EncoderLayer(TokenMixing(mixer, Residual()))(x), x + x.mean(1, keepdim=True))


def test_layer_scale_is_behind_each_part():
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(24, 3), torch.randn(2, 5, 24)
    plain, scaled = pre_norm_layer(attention, 24), pre_norm_layer(attention, 24, layer_scale=0.5)
    assert sum(p.numel() for p in scaled.parameters()) == sum(p.numel() for p in plain.parameters()) + 2 * 24
    scaled.load_state_dict(plain.state_dict(), strict=False)
    norm = nn.functional.layer_norm
    u = x + 0.5 * attention(norm(x, [24]))
    torch.testing.assert_close(scaled(x), u + 0.5 * plain.parts[1].mlp(norm(u, [24])))


# ---- layouts ---------------------------------------------------------------------------------------------------------
def small_encoder(depth: int = 3, **options) -> Encoder:
    torch.manual_seed(0)
    return pre_norm_encoder(24, depth=depth, num_heads=3, **options)


def small_transformer() -> Transformer:
    torch.manual_seed(0)
    return base_transformer(24, depth=2, num_heads=3, hidden_dim=40, dropout=0.0)


def test_packed_padded_and_dense_encoders_agree():
    encoder = small_encoder()
    x = torch.randn(15, 24)
    packed = encoder(x, offsets=offsets_of(LENGTHS))
    padded, valid = torch.randn(4, 9, 24), torch.zeros(4, 9, dtype=torch.bool)
    for b, part in enumerate(x.split(LENGTHS)):
        padded[b, : len(part)], valid[b, : len(part)] = part, True
        torch.testing.assert_close(encoder(part[None])[0], packed.split(LENGTHS)[b], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(padded, valid)[valid], packed, rtol=1e-5, atol=1e-5)


def test_packed_and_dense_decoders_agree():
    """With rotary positions, which must reach the attention layers they belong to."""
    torch.manual_seed(0)

    def attention(causal: bool) -> MultiHeadAttention:
        return MultiHeadAttention(24, 3, causal=causal, rotary=RotaryPosition(8, unit=0.5))

    decoder = Decoder(
        DecoderLayer(attention(True), attention(False), MLP(24, 40), lambda: Residual(nn.LayerNorm(24)))
        for _ in range(2)
    )
    x, memory, here, there = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    dense = decoder(x, memory, positions=here, memory_positions=there)
    packed = decoder(
        x.flatten(0, 1), memory.flatten(0, 1), offsets=offsets_of([5, 5]), memory_offsets=offsets_of([7, 7]),
        positions=here.flatten(0, 1), memory_positions=there.flatten(0, 1),
    )  # fmt: skip
    torch.testing.assert_close(packed.view_as(dense), dense, rtol=1e-5, atol=1e-5)
    assert (decoder(x, memory, positions=here, memory_positions=there + 1) - dense).abs().max() > 1e-3


def test_a_causal_decoder_does_not_see_what_comes():
    model = small_transformer()
    source, target = torch.randn(2, 6, 24), torch.randn(2, 5, 24)
    plain = model(source, target)
    later = target.clone()
    later[:, 3:] += 1
    changed = model(source, later)
    torch.testing.assert_close(changed[:, :3], plain[:, :3], rtol=1e-5, atol=1e-5)
    assert (changed[:, 3:] - plain[:, 3:]).abs().amax(2).min() > 1e-2
    assert (model(source + 0.1 * torch.randn(2, 6, 24), target) - plain).abs().amax(2).min() > 1e-4


def test_a_code_is_added_in_front_of_every_layer():
    encoder = small_encoder()
    x, code = torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    expected = x
    for layer in encoder.layers:
        expected = layer(expected + code)
    torch.testing.assert_close(encoder(x, code=code), encoder.norm(expected))


@pytest.mark.parametrize("name", list_mixers())
def test_any_mixer_takes_the_place_of_attention(name):
    """With padding that no real token sees, and gradients for every weight."""
    torch.manual_seed(0)
    encoder = Encoder(pre_norm_layer(create_mixer(name, dim=24, num_tokens=10), 24, mlp_ratio=2) for _ in range(2))
    x, valid = torch.randn(3, 10, 24), torch.arange(10) < torch.tensor([[10], [6], [0]])
    out = encoder(x, valid)
    out[valid].square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    changed = torch.where(valid[..., None], x, x + 1)
    torch.testing.assert_close(encoder(changed, valid)[valid], out[valid], rtol=1e-5, atol=1e-5)


def test_class_token_stands_in_front():
    layer = ClassToken(4)
    x, code = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    with record_attention(layer) as maps:
        tokens, codes = layer(x, code)
    for out, row, rest in ((tokens, layer.token, x), (codes, layer.code, code)):
        assert torch.equal(out[:, 1:], rest)
        assert torch.equal(out[:, 0], row.expand(2, 4))
    query, key, weight = maps[0].pairs()
    assert list(zip(query[weight > 0].tolist(), key[weight > 0].tolist())) == [
        (1, 0),
        (2, 1),
        (3, 2),
        (5, 3),
        (6, 4),
        (7, 5),
    ]


def test_linear_layers_start_small():
    module = nn.Sequential(nn.Linear(300, 300), nn.LayerNorm(300), nn.Linear(3, 2, bias=False)).apply(init_weights)
    assert module[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (module[0].bias == 0).all()


# ---- checkpointing ---------------------------------------------------------------------------------------------------
class Counted(nn.Module):
    """Counts how often it is called, and is as random as drop path."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.layer(*args, **kwargs)


def test_checkpointing_changes_nothing_but_when_things_are_computed():
    encoder = small_encoder(drop_path=0.5)
    layers = [Counted(layer) for layer in encoder.layers]
    x, offsets = torch.randn(15, 24), offsets_of(LENGTHS)

    def gradients(checkpoint: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        out = Encoder(layers, encoder.norm, checkpoint=checkpoint)(x, offsets=offsets)
        return [out, *torch.autograd.grad(out.square().sum(), list(encoder.parameters()), allow_unused=True)]

    plain = gradients(False)
    assert [layer.calls for layer in layers] == [1, 1, 1]
    for ours, theirs in zip(gradients(True), plain):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    assert [layer.calls for layer in layers] == [3, 3, 3]
    Encoder(layers, checkpoint=True)(x, offsets=offsets)
    with torch.no_grad():
        Encoder(layers, checkpoint=True)(x, offsets=offsets)
    assert [layer.calls for layer in layers] == [5, 5, 5]


def test_recorded_layers_are_not_checkpointed():
    encoder = small_encoder(checkpoint=True)
    x = torch.randn(2, 5, 24)
    with record_attention(encoder) as maps:
        out = encoder(x)
    out.square().sum().backward()  # a checkpointed layer would now find itself without a recorder, on another path
    assert [found.layer for found in maps] == [f"layers.{i}.parts.0.mixer" for i in range(3)]


# ---- precision, compilation, repeatability ---------------------------------------------------------------------------
def test_bfloat16_autocast():
    model = small_transformer()
    source, target = torch.randn(2, 6, 24), torch.randn(2, 5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(source, target)
        packed = small_encoder()(torch.randn(15, 24), offsets=offsets_of(LENGTHS))
    # some ten products in bfloat16 one after another, outputs normalised to a size of one
    torch.testing.assert_close(out.float(), model(source, target), rtol=0.1, atol=0.1)
    assert packed.isfinite().all()


@pytest.mark.parametrize("packed", [False, True])
def test_the_encoder_compiles_in_one_piece(packed):
    encoder = small_encoder(depth=1)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    x = torch.randn(15, 24)[None] if not packed else torch.randn(15, 24)
    where = {"offsets": offsets_of(LENGTHS)} if packed else {"valid": torch.arange(15)[None] < 12}

    def gradients(model: nn.Module) -> list[torch.Tensor]:
        out = model(x, **where)
        return [out, *torch.autograd.grad(out.square().sum(), list(encoder.parameters()))]

    for ours, theirs in zip(gradients(compiled), gradients(encoder)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_repeats_exactly():
    model = small_transformer()
    source, target, valid = torch.randn(2, 30, 24), torch.randn(2, 20, 24), torch.rand(2, 30) < 0.8

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(model(source, target, valid).square().sum(), list(model.parameters())))

    torch.use_deterministic_algorithms(True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients()))
    finally:
        torch.use_deterministic_algorithms(False)
