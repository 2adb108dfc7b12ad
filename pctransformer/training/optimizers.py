"""Optimizers and the schedule of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from pctransformer.training.settings import OptimizationSettings


def create_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum 0.9. Vectors (biases, norms) get no weight decay; frozen weights are left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the model has no weights to train: every parameter is frozen")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, fused=True)


def learning_rate(step: int, steps: int, warmup_steps: int, settings: OptimizationSettings) -> float:
    """Of one step of `steps`: a linear rise, then half a cosine down to `final_lr` of the highest.

    Source: Loshchilov and Hutter, SGDR, 2017 (arXiv:1608.03983), without restarts.
    """
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * (1 + math.cos(math.pi * done)) / 2)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
