"""One table of detectors that were trained alike: what they find, and what they cost.

    python -m tests.benchmarks.detectors --table cost.json --models pointpillars_small second_small
    python tools/detectors.py runs/pointpillars-0 runs/pointpillars-1 runs/second-0 --cost cost.json

Runs of one model, and of the same options of it, differ in their seed only and are one line: mean and, of several
seeds, sample standard deviation. AP is KITTI's R40 of moderate objects, in percent, seen from above / in space. The
lines are sorted by the mean AP in space over classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pctransformer.training.settings import shared_by_seeds

METRICS = ("bev", "3d")


def average_precisions(results: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(class, metric) -> R40 of moderate objects, percent, by the strict overlap."""
    return {
        (curve["class"], curve["metric"]): curve["R40"]
        for curve in results["test"]["kitti"]["curves"]
        if (curve["difficulty"], curve["overlap"]) == ("moderate", "strict") and curve["metric"] in METRICS
    }


def grouped(runs: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Name of a line -> its runs, each with "settings" and "results".

    Raises:
        ValueError: runs of one model differ in more than their seed, or share a seed; a run is not of a detector.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in runs:
        run = {part: json.loads((folder / f"{part}.json").read_text()) for part in ("settings", "results")}
        if run["results"]["task"] != "detection":
            raise ValueError(f"{folder} is a training for {run['results']['task']}, not for detection")
        settings = run["settings"]
        options = " ".join(f"{name}={value}" for name, value in settings["model_options"].items())
        found.setdefault(f"{settings['model']} {options}".strip(), []).append(run)
    for name, group in found.items():
        shared = [shared_by_seeds("detection", run["settings"]) for run in group]
        if any(settings != shared[0] for settings in shared):
            raise ValueError(f"the runs of {name} differ in more than their seed")
        if len({run["settings"]["seed"] for run in group}) < len(group):
            raise ValueError(f"two runs of {name} have the same seed")
    return found


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]], costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each model; of models whose cost is not known, dashes."""
    precisions = {name: [average_precisions(run["results"]) for run in group] for name, group in runs.items()}
    classes = list(dict.fromkeys(name for group in precisions.values() for one in group for name, _ in one))
    costs_of = {"M parameters": ("parameters", 1e-6, 2), "G multiply-adds": ("multiply_adds", 1e-9, 2),
                "step, ms": ("train_ms", 1, 0), "one scan, ms": ("find_ms", 1, 0),
                "step, MB": ("train_peak_mb", 1, 0), "one scan, MB": ("find_peak_mb", 1, 0)}  # fmt: skip
    columns = ["model", *(f"{name} BEV / 3D" for name in classes), "mean", "seeds", *costs_of]
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) - 1)]

    def mean_3d(name: str) -> float:
        return statistics.mean(one[kind, "3d"] for one in precisions[name] for kind in classes)

    for name in sorted(runs, key=mean_3d, reverse=True):
        own = precisions[name]
        cells = [_spread([[one[kind, metric] for one in own] for metric in METRICS]) for kind in classes]
        means = [[statistics.mean(one[kind, metric] for kind in classes) for one in own] for metric in METRICS]
        seeds = ", ".join(str(seed) for seed in sorted(run["settings"]["seed"] for run in runs[name]))
        cost = costs.get(name, {})
        numbers = [
            f"{cost[key] * scale:.{digits}f}" if key in cost else "-" for key, scale, digits in costs_of.values()
        ]
        lines.append(f"| {' | '.join([name, *cells, _spread(means), seeds, *numbers])} |")
    return "\n".join(lines)


def _spread(values: Sequence[Sequence[float]]) -> str:
    """ "51.3 ± 0.4 / 36.7 ± 1.0" of the values of each seed, from above and in space."""
    parts = []
    for of_seeds in values:
        several = len(of_seeds) > 1
        parts.append(f"{statistics.mean(of_seeds):.1f}" + (f" ± {statistics.stdev(of_seeds):.1f}" if several else ""))
    return " / ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--cost", type=Path, help="rows of tests.benchmarks.detectors")
    arguments = parser.parse_args()
    rows = json.loads(arguments.cost.read_text())["rows"] if arguments.cost else []
    print(table(grouped(arguments.runs), {row["model"]: row for row in rows}))


if __name__ == "__main__":
    main()
