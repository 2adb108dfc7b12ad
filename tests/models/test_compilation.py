"""`torch.compile` and `torch.export` of every model, as `ModelInfo.graph` promises them."""

import re

import pytest
import torch

from pctransformer.models import list_models, model_info
from tests.models.small import output, shapes, small

NAMES = [name for name in list_models() if not re.search("_small|_50|_msg|spct", name)]
"""Of models that run the same code in other sizes, one each."""
WHOLE = [name for name in NAMES if model_info(name).graph == "whole"]


@pytest.fixture(autouse=True)
def _without_gradients():
    torch._dynamo.reset()
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_compiled_is_eager(name):
    """Traced as for any compiler, run by torch's own kernels; models whose graph is whole, without a break."""
    model = small(name).eval()
    points = shapes(model, 2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name in WHOLE)
    torch.testing.assert_close(output(compiled, points), output(model, points))


@pytest.mark.parametrize("name", [name for name in WHOLE if model_info(name).task != "pretraining"])
def test_exported_is_eager(name):
    """The program for dense clouds of these sizes, on clouds that it was not traced with."""
    model = small(name).eval()
    first, *others = shapes(model, 4).split(2)
    program = torch.export.export(model, (first,)).module()
    for points in (first, *others):
        torch.testing.assert_close(program(points), model(points))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
@pytest.mark.parametrize("name", ["npct", "patch_mixer"])
def test_inductor_is_eager(name):
    """Compiled to C++: every point a token, and patches along a curve; two clouds, then two others."""
    model = small(name, **({"depth": 1} if name == "patch_mixer" else {})).eval()
    compiled = torch.compile(model, fullgraph=True, options={"compile_threads": 1})
    for points in shapes(model, 4).split(2):
        torch.testing.assert_close(compiled(points), model(points), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_compiled_model():
    model = small("point_vit").eval()
    points = shapes(model, 2)

    def gradients(of: torch.nn.Module) -> list[torch.Tensor]:
        with torch.enable_grad():
            return list(torch.autograd.grad(of(points).square().sum(), list(model.parameters())))

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(gradients(compiled), gradients(model)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_other_sizes_promise_the_same():
    promises: dict[tuple[str, str], set[str]] = {}
    for info in map(model_info, list_models()):
        promises.setdefault((info.module, info.task), set()).add(info.graph)
    assert [key for key, graphs in promises.items() if len(graphs) > 1] == []
