"""What the numbers among settings may be: a training that cannot be is refused before anything is read or written."""

from __future__ import annotations

import dataclasses
import math

from pctransformer.errors import UserError
from pctransformer.training.settings import Training

_LIMITS = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "lr": (0, math.inf),
    "final_lr": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "ema": (0, 1),
    "label_smoothing": (0, 1),
    "seed": (0, math.inf),
    "workers": (0, math.inf),
    "save_steps": (0, math.inf),
}
"""Field to (the least that it may be, what it has to be below)."""


def check_numbers(settings: Training) -> None:
    """Whether the settings that all tasks share are in their ranges; what tasks have by themselves, they check.

    Raises:
        UserError: one is not.
    """
    for part in (settings, settings.optimization):
        for field in dataclasses.fields(part):
            if field.name not in _LIMITS:
                continue
            least, below = _LIMITS[field.name]
            value = getattr(part, field.name)
            if not least <= value < below:  # NaN is in no range
                finite = f" and below {below}" if below < math.inf else ""
                raise UserError(f"--{field.name.replace('_', '-')} must be at least {least}{finite}, got {value}")
