"""Outputs of every small model, kept beside the tests, so that a change of numbers does not go unseen.

    python -m tests.models.stored_outputs    # after a change that is meant

writes `stored_outputs.json`: of each model the mean of its outputs for two random clouds, their standard deviation, and
eight of them. Weights and clouds are drawn by torch's own generator.
"""

import json
from pathlib import Path

import torch

from pctransformer.models import list_models
from tests.models.small import output, shapes, small

FILE = Path(__file__).with_suffix(".json")


def numbers(name: str) -> torch.Tensor:
    """(10,) of a model as it is now."""
    model = small(name).eval()
    with torch.no_grad():
        values = output(model, shapes(model, 2)).flatten()
    places = torch.linspace(0, len(values) - 1, 8).long()
    return torch.cat([values.mean()[None], values.std()[None], values[places]])


def main() -> None:
    """Write the file."""
    rows = [f'  "{name}": {json.dumps([float(f"{n:.7g}") for n in numbers(name).tolist()])}' for name in list_models()]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{FILE}: {len(rows)} models, torch {torch.__version__}")


if __name__ == "__main__":
    main()
