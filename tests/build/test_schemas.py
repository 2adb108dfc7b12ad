"""Schema, reference, CPU kernel and CUDA kernel of an operator agree in name and signature."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pctransformer.ops import _library, reference

CSRC = Path(__file__).parents[2] / "csrc"


def implemented(pattern: str) -> set[str]:
    sources = "".join(path.read_text() for path in CSRC.glob(pattern))
    return set(re.findall(r'implement<&\w+>\(\s*"(\w+)"\)', sources))


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
@pytest.mark.parametrize("name", reference.OPERATORS)
def test_schema_is_the_signature_of_the_reference(name):
    signature = torch.library.infer_schema(reference.OPERATORS[name], mutates_args=())
    assert str(_library.operator(name)._schema) == f"{_library.NAMESPACE}::{name}{signature}"


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_every_compiled_operator_has_a_reference():
    registered = [name.split("::") for name in torch._C._dispatch_get_all_op_names()]
    ours = {name for namespace, name in registered if namespace == _library.NAMESPACE}
    assert ours == set(reference.OPERATORS)


@pytest.mark.parametrize("pattern", ["cpu/*.cpp", "cuda/*.cu"])
def test_every_operator_has_a_kernel(pattern):
    assert implemented(pattern) == set(reference.OPERATORS)


@pytest.mark.parametrize("name", reference.OPERATORS)
def test_kernels_are_named_after_their_operator(name):
    for device, suffix in (("cpu", "cpp"), ("cuda", "cu")):
        sources = "".join(path.read_text() for path in CSRC.glob(f"{device}/*.{suffix}"))
        assert re.search(rf'implement<&{name}_{device}>\(\s*"{name}"\)', sources), f"{name}_{device}"
