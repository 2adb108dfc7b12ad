import pytest
import torch
import torch.nn.functional as F

from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.models.point_mae import convert_point_mae, point_mae, point_mae_pretraining
from pctransformer.models.weights import load_weights
from pctransformer.point_view.patches import make_patches
from pctransformer.points import PointBatch

SMALL = {"dim": 24, "depth": 2, "num_heads": 3, "num_patches": 10, "patch_size": 6, "widths": (8, 16)}


def shapes(count: int = 3, points: int = 60) -> torch.Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(1))


def test_published_sizes():
    """22.1 M and 29.0 M: the authors' code."""
    assert sum(p.numel() for p in create_model("point_mae").parameters()) == 22_099_752
    assert sum(p.numel() for p in point_mae_pretraining().parameters()) == 29_006_432


# ---- public weights --------------------------------------------------------------------------------------------------
def public_layout(
    part: str, depth: int, decoder_depth: int, dim: int, widths: tuple[int, int], patch_size: int
) -> dict:
    """Names and shapes of the authors' state dicts, with random values: of a "classifier" or of "pretraining"."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    narrow, wide = widths

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = torch.randn(*shape, generator=generator) / shape[1] ** 0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator)

    def norm(name: str, channels: int, batch: bool = False) -> None:
        for value in ("weight", "bias") + (("running_mean", "running_var") if batch else ()):
            weights[f"{name}.{value}"] = torch.rand(channels, generator=generator) + 0.5
        if batch:
            weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def blocks(name: str, count: int) -> None:
        for i in range(count):
            norm(f"{name}.{i}.norm1", dim)
            layer(f"{name}.{i}.attn.qkv", 3 * dim, dim, bias=False)
            layer(f"{name}.{i}.attn.proj", dim, dim)
            norm(f"{name}.{i}.norm2", dim)
            layer(f"{name}.{i}.mlp.fc1", 4 * dim, dim)
            layer(f"{name}.{i}.mlp.fc2", dim, 4 * dim)

    inside = "" if part == "classifier" else "MAE_encoder."
    layer(f"{inside}encoder.first_conv.0", narrow, 3, 1)
    norm(f"{inside}encoder.first_conv.1", narrow, batch=True)
    layer(f"{inside}encoder.first_conv.3", wide, narrow, 1)
    layer(f"{inside}encoder.second_conv.0", 2 * wide, 2 * wide, 1)
    norm(f"{inside}encoder.second_conv.1", 2 * wide, batch=True)
    layer(f"{inside}encoder.second_conv.3", dim, 2 * wide, 1)
    layer(f"{inside}pos_embed.0", 128, 3)
    layer(f"{inside}pos_embed.2", dim, 128)
    blocks(f"{inside}blocks.blocks", depth)
    norm(f"{inside}norm", dim)
    if part == "classifier":
        weights["cls_token"], weights["cls_pos"] = torch.randn(2, 1, 1, dim, generator=generator)
        layer("cls_head_finetune.0", 256, 2 * dim)
        norm("cls_head_finetune.1", 256, batch=True)
        layer("cls_head_finetune.4", 256, 256)
        norm("cls_head_finetune.5", 256, batch=True)
        layer("cls_head_finetune.8", 40, 256)
    else:
        weights["mask_token"] = torch.randn(1, 1, dim, generator=generator)
        layer("decoder_pos_embed.0", 128, 3)
        layer("decoder_pos_embed.2", dim, 128)
        blocks("MAE_decoder.blocks", decoder_depth)
        norm("MAE_decoder.norm", dim)
        layer("increase_dim.0", 3 * patch_size, dim, 1)
    return weights


def small_layout(part: str) -> dict[str, torch.Tensor]:
    return public_layout(part, depth=2, decoder_depth=1, dim=24, widths=(8, 16), patch_size=6)


class Public:
    """What the authors' networks compute, from their names of weights, one cloud at a time, in evaluation mode."""

    def __init__(self, weights: dict[str, torch.Tensor], inside: str = "") -> None:
        self.weights, self.inside = weights, inside

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"].flatten(1), self.weights.get(f"{name}.bias"))

    def batch_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, var = (
            self.weights[f"{name}.{v}"] for v in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def code(self, name: str, xyz: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{name}.2", F.gelu(self.linear(f"{name}.0", xyz)))

    def token(self, patch: torch.Tensor) -> torch.Tensor:
        name = f"{self.inside}encoder"
        x = self.batch_norm(f"{name}.first_conv.1", self.linear(f"{name}.first_conv.0", patch)).relu()
        x = self.linear(f"{name}.first_conv.3", x)
        x = torch.cat([x.amax(0, keepdim=True).expand_as(x), x], 1)
        x = self.batch_norm(f"{name}.second_conv.1", self.linear(f"{name}.second_conv.0", x)).relu()
        return self.linear(f"{name}.second_conv.3", x).amax(0)

    def blocks(self, name: str, x: torch.Tensor, code: torch.Tensor, depth: int, heads: int) -> torch.Tensor:
        for i in range(depth):
            x = x + code
            qkv = self.linear(f"{name}.{i}.attn.qkv", self.layer_norm(f"{name}.{i}.norm1", x))
            query, key, value = qkv.view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
            mean = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
            x = x + self.linear(f"{name}.{i}.attn.proj", mean.transpose(0, 1).flatten(1))
            hidden = self.linear(f"{name}.{i}.mlp.fc1", self.layer_norm(f"{name}.{i}.norm2", x))
            x = x + self.linear(f"{name}.{i}.mlp.fc2", F.gelu(hidden))
        return x

    def logits(self, patches: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([self.weights["cls_token"].flatten(), *map(self.token, patches)])
        code = torch.cat([self.weights["cls_pos"].view(1, -1), self.code("pos_embed", centers)])
        x = self.layer_norm("norm", self.blocks("blocks.blocks", tokens, code, depth=2, heads=3))
        x = torch.cat([x[0], x[1:].amax(0)])
        for i in (0, 4):
            x = self.batch_norm(f"cls_head_finetune.{i + 1}", self.linear(f"cls_head_finetune.{i}", x)).relu()
        return self.linear("cls_head_finetune.8", x)

    def made_up(self, patches: torch.Tensor, centers: torch.Tensor, hidden: list[int]) -> torch.Tensor:
        seen = [i for i in range(len(patches)) if i not in hidden]
        tokens = torch.stack([self.token(patches[i]) for i in seen])
        x = self.blocks("MAE_encoder.blocks.blocks", tokens, self.code("MAE_encoder.pos_embed", centers[seen]), 2, 3)
        x = self.layer_norm("MAE_encoder.norm", x)
        x = torch.cat([x, self.weights["mask_token"].view(1, -1).expand(len(hidden), -1)])
        code = self.code("decoder_pos_embed", centers[seen + hidden])
        x = self.layer_norm("MAE_decoder.norm", self.blocks("MAE_decoder.blocks", x, code, 1, 3)[-len(hidden) :])
        return self.linear("increase_dim.0", x).view(len(hidden), -1, 3)


def saved(weights: dict[str, torch.Tensor], path) -> str:
    torch.save({"base_model": {f"module.{k}": v for k, v in weights.items()}, "epoch": 300}, path)
    return path


def test_public_classifier_gives_the_public_logits(tmp_path):
    weights = small_layout("classifier")
    model = create_model(
        "point_mae", **SMALL, skip_near_origin=True, pretrained=saved(weights, tmp_path / "a.pth")
    ).eval()
    patches = make_patches(PointBatch.from_dense(shapes()), 10, 6, skip_near_origin=True)
    points, centers = patches.points.view(3, 10, 6, 3), patches.centers.xyz.view(3, 10, 3)
    expected = torch.stack([Public(weights).logits(*cloud) for cloud in zip(points, centers)])
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(shapes()), expected, rtol=1e-4, atol=1e-4)


def test_public_pretraining_makes_up_the_public_points(tmp_path):
    weights = small_layout("pretraining")
    model = point_mae_pretraining(**SMALL, decoder_depth=1).eval()
    load_weights(model, saved(weights, tmp_path / "a.pth"), public={"MAE_encoder.norm.weight": convert_point_mae})
    patches = make_patches(PointBatch.from_dense(shapes()), 10, 6)
    points, centers = patches.points.view(3, 10, 6, 3), patches.centers.xyz.view(3, 10, 3)
    with torch.no_grad():
        made_up = model(shapes(), torch.Generator().manual_seed(0))
    for b in range(3):
        hidden = [int((centers[b] == center).all(1).nonzero()) for center in made_up.centers[b]]
        assert len(hidden) == 6
        expected = Public(weights, "MAE_encoder.").made_up(points[b], centers[b], hidden)
        torch.testing.assert_close(made_up.predicted[b], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(made_up.target[b], points[b][hidden])
        seen = [i for i in range(10) if i not in hidden]
        torch.testing.assert_close(made_up.visible[b], points[b][seen] + centers[b][seen][:, None])


def test_entries_of_the_published_size():
    full = {"depth": 12, "decoder_depth": 4, "dim": 384, "widths": (128, 256), "patch_size": 32}
    for part, entries, model in (("classifier", 174, point_mae()), ("pretraining", 209, point_mae_pretraining())):
        weights = public_layout(part, **full)
        assert len(weights) == entries
        renamed = convert_point_mae(weights)
        assert {name: value.shape for name, value in renamed.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }


# ---- from pretraining to classification ------------------------------------------------------------------------------
@pytest.mark.parametrize("origin", ["public", "own"])
def test_pretrained_encoder_joins_a_new_head(tmp_path, origin):
    pretrained = point_mae_pretraining(**SMALL, decoder_depth=1).eval()
    path = tmp_path / "a.pth"
    if origin == "public":
        load_weights(
            pretrained, saved(small_layout("pretraining"), path), public={"MAE_encoder.norm.weight": convert_point_mae}
        )
    else:
        torch.save({"model": pretrained.state_dict()}, path)
    model = create_model("point_mae", num_classes=5, pretrained=path, **SMALL).eval()
    batch = PointBatch.from_dense(shapes())
    for ours, theirs in zip(model.tokenizer(batch)[1:], pretrained.tokenizer(batch)[1:]):
        assert torch.equal(ours, theirs)
    x, code = torch.randn(2, 4, 24), torch.randn(2, 4, 24)
    assert torch.equal(model.encoder(x, code=code), pretrained.encoder(x, code=code))
    assert model(batch).shape == (3, 5)
    encoded = pretrained.eval().encode(batch)
    assert torch.equal(encoded.features, model.encode(batch).features)
    assert encoded.features.shape == (3 * 10, 24)  # all patches, and no class token
    assert torch.equal(encoded.xyz, make_patches(batch, 10, 6).centers.xyz)


def test_half_a_head_is_not_loaded(tmp_path):
    weights = small_layout("classifier")
    del weights["cls_head_finetune.0.weight"]
    with pytest.raises(ValueError, match=r"missing: head\.hidden\.0\.weight"):
        create_model("point_mae", pretrained=saved(weights, tmp_path / "a.pth"), **SMALL)


# ---- masked pretraining ----------------------------------------------------------------------------------------------
def pretraining() -> torch.nn.Module:
    torch.manual_seed(0)
    return point_mae_pretraining(**SMALL, decoder_depth=1, drop_path=0.0)


def test_what_is_hidden_stays_hidden():
    """Tokens of hidden patches have no part in what is made up, only their centres; those of visible ones have."""
    model = pretraining().eval()

    def made_up(change: torch.Tensor) -> torch.Tensor:
        def hook(module, inputs, tokens):
            return tokens.replace(features=tokens.features + change)

        handle = model.tokenizer.embedding.register_forward_hook(hook)
        try:
            return model(shapes(), torch.Generator().manual_seed(0))
        finally:
            handle.remove()

    plain = made_up(torch.zeros(30, 1))
    centers = make_patches(PointBatch.from_dense(shapes()), 10, 6).centers.xyz
    hidden = (centers[:, None] == plain.centers.flatten(0, 1)).all(2).any(1)
    assert int(hidden.sum()) == 18
    elsewhere = torch.randn(30, 24)
    assert torch.equal(made_up(elsewhere * hidden[:, None]).predicted, plain.predicted)
    different = made_up(elsewhere * ~hidden[:, None]).predicted - plain.predicted
    assert different.abs().flatten(1).amax(1).min() > 1e-3


def test_generator_decides_what_is_hidden():
    model = pretraining().eval()
    first, again, other = (model(shapes(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.centers, again.centers)
    assert torch.equal(first.predicted, again.predicted)
    assert not torch.equal(first.centers, other.centers)
    assert first.predicted.shape == first.target.shape == (3, 6, 6, 3)
    assert first.visible.shape == (3, 4, 6, 3)


def test_clouds_of_any_size_and_every_weight_learns():
    model = pretraining()
    clouds = [torch.randn(n, 3) for n in (60, 3, 1)]
    loss = model.loss(model(clouds))
    assert list(loss) == ["chamfer"]
    loss["chamfer"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_learns_to_make_up_and_repeats_exactly():
    """Three clouds and one choice of patches, again and again, are learned by heart; equal runs give equal losses."""

    def run() -> list[float]:
        model = pretraining()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(60):
            loss = model.loss(model(shapes(), torch.Generator().manual_seed(0)))["chamfer"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    torch.use_deterministic_algorithms(True)
    try:
        losses = run()
        assert losses[-1] < 0.3 * losses[0]
        assert run() == losses
    finally:
        torch.use_deterministic_algorithms(False)


def test_maps_lead_from_the_pooled_vector_to_the_points():
    torch.manual_seed(0)
    model = point_mae(num_classes=5, **SMALL).eval()
    with record_attention(model) as maps:
        model(shapes())
    names = ["tokenizer.embedding", "class_token", *(f"encoder.layers.{i}.parts.0.mixer" for i in (0, 1)), "head"]
    assert [found.layer for found in maps] == names
    rows = 180
    for found, queries in zip(maps, (30, 33, 33, 33, 3)):
        query, key, weight = found.pairs()
        assert key.max() < rows
        total = torch.zeros(queries).index_add(0, query, weight)
        expected = torch.ones(queries)
        if found.layer == "class_token":
            expected[::11] = 0  # it is learned, and has no children
        torch.testing.assert_close(total, expected)
        rows = queries
