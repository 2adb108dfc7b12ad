import pytest
import torch

from pctransformer.models import create_model
from pctransformer.models.point_gpt import point_gpt, point_gpt_pretraining
from pctransformer.point_view.curve_order import curve_order
from pctransformer.points import PointBatch

SMALL = {"dim": 24, "depth": 2, "num_heads": 3, "num_patches": 10, "patch_size": 6, "widths": (8, 16)}


def shapes(count: int = 3, points: int = 60) -> torch.Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(1))


def pretraining(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return point_gpt_pretraining(**SMALL, generator_depth=1, **options)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_size():
    """PointGPT-S has 29.2 M parameters: extractor, generator and the head for classification together."""
    assert round((parameters(point_gpt_pretraining()) + parameters(point_gpt().head)) / 1e6, 1) == 29.2


def predictions(model: torch.nn.Module, change: torch.Tensor) -> torch.Tensor:
    """What is made up (3, 10, 6, 3) if tokens (30, C) of patches were others."""
    handle = model.tokenizer.embedding.register_forward_hook(
        lambda module, inputs, tokens: tokens.replace(features=tokens.features + change)
    )
    try:
        return model(shapes(), torch.Generator().manual_seed(0)).predicted
    finally:
        handle.remove()


def test_a_patch_is_made_up_from_those_before_it():
    """Another token at place i changes what is made up at i + 1 and later, and nothing at i and earlier."""
    model = pretraining(mask_ratio=0.0).eval()
    plain = predictions(model, torch.zeros(30, 1))
    for i in (0, 4, 8, 9):
        change = torch.zeros(3, 10, 24)
        change[:, i] = torch.randn(3, 24)
        different = (predictions(model, change.flatten(0, 1)) - plain).abs().amax((2, 3))  # (3, 10)
        assert (different[:, : i + 1] == 0).all()
        assert (different[:, i + 1 :] > 1e-4).all()


def test_tokens_that_are_hidden_on_top():
    """All but the start token are hidden: what is made up at place i rests on token i - 1 alone, the one it holds."""
    model = pretraining(mask_ratio=1.0).eval()
    model.always_seen = 1
    plain = predictions(model, torch.zeros(30, 1))
    change = torch.zeros(3, 10, 24)
    change[:, 4] = torch.randn(3, 24)
    different = (predictions(model, change.flatten(0, 1)) - plain).abs().amax((2, 3))
    assert (different > 0).nonzero()[:, 1].unique().tolist() == [5]


def test_how_many_are_hidden_and_by_whom():
    model = pretraining(mask_ratio=0.7)
    model.always_seen = 3
    seen = model._seen(4, 13, torch.Generator().manual_seed(0))
    assert seen.shape == (4, 13, 13)
    of_others = seen & ~torch.eye(13, dtype=torch.bool)
    columns = of_others.any(1)
    assert columns[:, :3].all()
    assert columns[:, 3:].sum(1).tolist() == [3] * 4  # 7 of 10 are hidden
    assert seen.diagonal(dim1=1, dim2=2).all()
    assert torch.equal(seen, model._seen(4, 13, torch.Generator().manual_seed(0)))
    assert not torch.equal(seen[0], seen[1])


def test_patches_are_in_morton_order_and_the_next_centre_is_told():
    model = pretraining().eval()
    made_up = model(shapes(), torch.Generator().manual_seed(0))
    batch = PointBatch.from_dense(made_up.centers)
    assert torch.equal(curve_order(batch, "morton"), torch.arange(30))
    told: list[torch.Tensor] = []
    model.tokenizer.position.register_forward_hook(lambda module, inputs, code: told.append(inputs[0]))
    model(shapes(), torch.Generator().manual_seed(0))
    steps = told[-1]
    torch.testing.assert_close(steps.cumsum(1), made_up.centers)
    assert made_up.visible.shape == (3, 0, 6, 3)


def test_the_last_token_of_the_classifier_has_seen_all_and_the_first_nothing():
    torch.manual_seed(0)
    model = create_model("point_gpt", num_classes=5, **SMALL).eval()
    plain = model.forward_features(shapes()).features.view(3, 11, 24)
    handle = model.tokenizer.embedding.register_forward_hook(
        lambda module, inputs, tokens: tokens.replace(
            features=tokens.features + torch.randn(24) * (torch.arange(30) % 10 == 6)[:, None]
        )
    )
    changed = model.forward_features(shapes()).features.view(3, 11, 24)
    handle.remove()
    different = (changed - plain).abs().amax(2)
    assert (different[:, :7] == 0).all()
    assert (different[:, 7:] > 1e-4).all()


def test_pretrained_extractor_joins_a_new_head(tmp_path):
    pretrained = pretraining().eval()
    torch.save({"model": pretrained.state_dict()}, tmp_path / "a.pth")
    model = create_model("point_gpt", num_classes=5, pretrained=tmp_path / "a.pth", **SMALL).eval()
    own = model.state_dict()
    shared = [name for name in pretrained.state_dict() if name in own]
    assert {name.split(".")[0] for name in own} - {name.split(".")[0] for name in shared} == {"head"}
    assert all(torch.equal(own[name], pretrained.state_dict()[name]) for name in shared)
    encoded, features = pretrained.eval().encode(shapes()), model.encode(shapes())
    assert torch.equal(encoded.features, features.features)
    assert torch.equal(encoded.features, model.forward_features(shapes()).features)
    assert encoded.features.shape == (3 * 11, 24)  # the start token, too


def test_clouds_of_any_size_and_every_weight_learns():
    model = pretraining()
    loss = model.loss(model([torch.randn(n, 3) for n in (60, 3, 1)]))
    assert list(loss) == ["chamfer_1", "chamfer_2"]
    sum(loss.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("autocast", [False, True])
def test_learns_to_go_on(autocast):
    """Three clouds, and the same tokens hidden again and again, are learned by heart, in bfloat16 too."""
    model = pretraining()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = sum(model.loss(model(shapes(), torch.Generator().manual_seed(0))).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
