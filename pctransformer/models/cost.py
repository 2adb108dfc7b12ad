"""What a model costs: its parameters, and the multiply-adds of one pass, in all and part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pctransformer.layers.sparse_convolution import SparseConv3d, SubmanifoldConv3d


@dataclass(frozen=True)
class Cost:
    """Of a model, or of one part of it.

    Attributes:
        parameters: all of them, each counted once; batch norm's running statistics are none.
        multiply_adds: of one pass, forwards.
    """

    parameters: int
    multiply_adds: int


def cost(model: nn.Module, *inputs: Any) -> tuple[Cost, dict[str, Cost]]:
    """Count a model's parameters, and run it once in evaluation mode to count its multiply-adds.

    Counted are matrix products, convolutions and attention (scores and weighted sums), as is usual: not what works
    value by value (norms, activations, softmax), nor searches for neighbours. Of sparse convolutions and of attention
    in windows it is what these cells need, so a detector's cost is that of the scan it is given.

    Args:
        model: left as it is.
        inputs: what its `forward` gets.

    Returns:
        the whole, and its direct parts by name, in the order of their definition. Parts may sum to less than the
        whole: the model may have parameters, and compute, outside of them.
    """
    training = [module for module in model.modules() if module.training]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    # torch's counter stumbles over a part that gives a view of a parameter, as tables of positions do, if it is learnt
    model.requires_grad_(False)
    # spconv's kernels are closed to the counter; torch's do the same products
    sparse = [conv for conv in model.modules() if isinstance(conv, (SparseConv3d, SubmanifoldConv3d))]
    backends = [conv.backend for conv in sparse]
    for conv in sparse:
        conv.backend = "torch"
    counter = FlopCounterMode(display=False)
    try:
        # on CPU, torch counts attention in its explicit form only
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(*inputs)
    finally:
        for module in training:
            module.training = True
        for parameter in learnt:
            parameter.requires_grad = True
        for conv, backend in zip(sparse, backends, strict=True):
            conv.backend = backend
    counts = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    parts = {
        name: Cost(_parameters(part), _flops(part, f"{type(model).__name__}.{name}", counts) // 2)
        for name, part in model.named_children()
    }
    return Cost(_parameters(model), counter.get_total_flops() // 2), parts  # two flops are a multiply-add


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, name: str, counts: Mapping[str, int]) -> int:
    """Of a module, or if it is never called itself, as a ModuleList, of its parts."""
    if name in counts:
        return counts[name]
    return sum(_flops(child, f"{name}.{inner}", counts) for inner, child in module.named_children())
