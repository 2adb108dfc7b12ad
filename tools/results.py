"""Put finished runs into docs/results.json, and print the lines of docs/results.md.

    python tools/results.py runs/modelnet10-0 runs/modelnet10-1 runs/modelnet10-2 --title "PCT, half width"

Runs of one call differ in their seed only; their results are given as mean and sample standard deviation. An entry with
the same title is replaced.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def read(run: Path) -> dict[str, Any]:
    """What a run says of itself: settings, and its results where it is done."""
    names = {"settings": "settings.json", "results": "results.json"}
    return {key: json.loads((run / name).read_text()) for key, name in names.items()}


def entry(title: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: what the runs share, and what each reached.

    Raises:
        ValueError: they differ in more than their seed and their folder.
    """
    shared = [{k: v for k, v in run["settings"].items() if k not in ("seed", "out", "resume")} for run in runs]
    if any(settings != shared[0] for settings in shared):
        raise ValueError("the runs differ in more than their seed; give them titles of their own")
    environments = [run["results"]["environment"] for run in runs]
    first = environments[0]
    reached = []
    for run, environment in zip(runs, environments):
        test, results = run["results"]["test"], run["results"]
        reached.append(
            {
                "seed": run["settings"]["seed"],
                "overall_accuracy": test["overall_accuracy"],
                "mean_class_accuracy": test["mean_class_accuracy"],
                "epoch": results["epoch"],
                "validation_overall_accuracy": results["validation"]["oa"],
                "seconds": results["seconds"],
                "commit": environment["commit"],
            }
        )
    return {
        "title": title,
        "task": runs[0]["results"]["task"],
        "data": Path(shared[0]["data"]["data"]).name,
        "settings": {**shared[0], "data": {**shared[0]["data"], "data": Path(shared[0]["data"]["data"]).name}},
        "machine": {key: first[key] for key in ("gpu", "processor", "threads", "processes", "torch", "python")},
        "runs": reached,
        **{
            name: {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
            for name in ("overall_accuracy", "mean_class_accuracy")
            if (values := [run[name] for run in reached])
        },
    }


def line(row: dict[str, Any]) -> str:
    """The row of the table."""

    def spread(name: str) -> str:
        mean, std = row[name]["mean"], row[name]["std"]
        return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")

    minutes = statistics.mean(run["seconds"] for run in row["runs"]) / 60
    seeds = ", ".join(str(run["seed"]) for run in row["runs"])
    each = ", ".join(f"{100 * run['overall_accuracy']:.1f}" for run in row["runs"])
    oa, macc = spread("overall_accuracy"), spread("mean_class_accuracy")
    return f"| {row['title']} | {row['data']} | {oa} | {macc} | {seeds} | {each} | {minutes:.0f} min |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--json", type=Path, default=DOCS / "results.json")
    arguments = parser.parse_args()
    row = entry(arguments.title, [read(run) for run in arguments.runs])
    kept = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    rows = [other for other in kept if other["title"] != row["title"]] + [row]
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(line(row))


if __name__ == "__main__":
    main()
