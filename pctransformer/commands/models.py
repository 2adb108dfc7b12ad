"""`pctransformer models`: the models that there are. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tyro.conf import Positional

from pctransformer.commands.terminal import print_table
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    pattern: Positional[str] = "*"
    """Only models whose name contains this, or matches it where it has * or ?."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Print the table."""
    from pctransformer.models.registry import list_models, model_info

    plain = not set(config.pattern) & set("*?[")
    names = list_models(f"*{config.pattern}*" if plain else config.pattern)
    if not names:
        raise UserError(f"no model's name matches {config.pattern!r}; there are {', '.join(list_models())}")
    found = [model_info(name) for name in names]
    if config.json:
        print(json.dumps([dataclasses.asdict(info) for info in found], indent=2))
    else:
        rows = [(info.name, info.task, info.summary, info.source) for info in found]
        print_table(("model", "task", "", "paper"), rows)
        print("\n`pctransformer info MODEL` tells more.")
    return 0
