"""Put what was reached into docs/results.json, and print the line of docs/results.md.

    python tools/results.py runs/modelnet10-0 runs/modelnet10-1 runs/modelnet10-2 --title "PCT, half width"
    python tools/results.py runs/mixers/comparison.json --title "Token mixers"
    python tools/results.py runs/streets/evaluation/results.json --title "PointPillars on real scans"

Run folders of one call differ in their seed only; their results are given as mean and sample standard deviation. A JSON
file, which other commands write as their result, is taken as it is, but for curves, of which the numbers are kept and
not the points; of an evaluation of detections its table is printed. Of paths the last part is kept. An entry with the
same title is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from pctransformer.training.settings import shared_by_seeds

DOCS = Path(__file__).parents[1] / "docs"
MEASURES = {
    "classification": ("overall_accuracy", "mean_class_accuracy"),
    "part-segmentation": ("instance_mean_iou", "class_mean_iou", "point_accuracy"),
    "semantic-segmentation": ("mean_iou", "mean_class_accuracy", "overall_accuracy"),
    "detection": ("ap_bev", "ap_3d"),
}
"""Of the test, by task; the first is given for each seed, too."""
IN_PERCENT = ("ap_bev", "ap_3d")
"""Those that are percent already; the others are shares of 1."""


def read(run: Path) -> dict[str, Any]:
    """What a run says of itself: settings, and its results where it is done."""
    names = {"settings": "settings.json", "results": "results.json"}
    return {key: json.loads((run / name).read_text()) for key, name in names.items()}


def without_folders(value: Any) -> Any:
    """The same JSON, with absolute paths cut down to their last part."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str):
        return " ".join(Path(word).name if word.startswith("/") else word for word in value.split(" "))
    return value


def without_points(value: Any) -> Any:
    """The same JSON, without the points of curves of average precision, and without what is not KITTI's of those."""
    if isinstance(value, list):
        return [without_points(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    left_out = {"curves"} if "mAP" in value else set()
    if "all_point" in value:
        left_out = {key for key, inner in value.items() if isinstance(inner, list)}
    return {key: without_points(inner) for key, inner in value.items() if key not in left_out}


def kitti_table(report: dict[str, Any]) -> str:
    """KITTI's averages of an evaluation of detections, in percent, with what R40 can reach at most."""
    curves = {
        (curve["class"], curve["difficulty"], curve["metric"], curve["overlap"]): curve
        for curve in report["result"]["kitti"]["curves"]
    }
    columns = ("objects", "R40 at most", "R40 BEV", "R40 3D", "BEV, loose", "3D, loose", "all-point BEV", "3D")
    lines = [f"| class | difficulty | {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * len(columns)]
    for name, difficulty in dict.fromkeys((key[0], key[1]) for key in curves):
        own = {key[2:]: curve for key, curve in curves.items() if key[:2] == (name, difficulty)}
        shown = [own[metric, overlap]["R40"] for overlap in ("strict", "loose") for metric in ("bev", "3d")]
        shown += [own[metric, "strict"]["all_point"] for metric in ("bev", "3d")]
        numbers = " | ".join("-" if value is None else f"{value:.1f}" for value in shown)
        curve = own["bev", "strict"]
        lines.append(f"| {name} | {difficulty} | {curve['count']} | {curve['R40_bound']:.1f} | {numbers} |")
    return "\n".join(lines)


def entry(title: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: what the runs share, and what each reached.

    Raises:
        ValueError: they differ in more than their seed and their folder.
    """
    first = runs[0]["results"]
    shared = [shared_by_seeds(first["task"], run["settings"]) for run in runs]
    if any(settings != shared[0] for settings in shared):
        raise ValueError("the runs differ in more than their seed; give them titles of their own")
    measures = MEASURES[first["task"]]
    reached = [
        {
            "seed": run["settings"]["seed"],
            "test": {name: run["results"]["test"][name] for name in measures},
            "epoch": run["results"]["epoch"],
            "validation": run["results"]["validation"],
            "seconds": run["results"]["seconds"],
            "commit": run["results"]["environment"]["commit"],
        }
        for run in runs
    ]
    test = {}
    for name in measures:
        values = [run["test"][name] for run in reached]
        test[name] = {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
    machine = ("gpu", "processor", "threads", "processes", "torch", "python")
    return {
        "title": title,
        "task": first["task"],
        "settings": shared[0],
        "machine": {key: first["environment"][key] for key in machine},
        "test": test,
        "runs": reached,
    }


def line(row: dict[str, Any]) -> str:
    """The row of the table: all measures, the seeds, the first measure of each, minutes."""
    measures = MEASURES[row["task"]]

    def spread(name: str, mean: float, std: float | None) -> str:
        scale = 1 if name in IN_PERCENT else 100
        return f"{scale * mean:.1f}" + (f" ± {scale * std:.1f}" if std is not None else "")

    minutes = statistics.mean(run["seconds"] for run in row["runs"]) / 60
    seeds = ", ".join(str(run["seed"]) for run in row["runs"])
    each = ", ".join(spread(measures[0], run["test"][measures[0]], None) for run in row["runs"])
    cells = [row["title"], *(spread(name, **row["test"][name]) for name in measures), seeds, each, f"{minutes:.0f} min"]
    return f"| {' | '.join(cells)} |"


def written(rows: list[dict[str, Any]]) -> str:
    """JSON, indented, but what holds nothing nested stands on one line."""
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    return re.sub(r"\{[^][{}]*\}|\[[^][{}]*\]", lambda found: re.sub(r"\n *", " ", found[0]), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RUN|JSON")
    parser.add_argument("--title", required=True)
    parser.add_argument("--json", type=Path, default=DOCS / "results.json")
    arguments = parser.parse_args()
    if len(arguments.results) == 1 and arguments.results[0].is_file():
        report = json.loads(arguments.results[0].read_text())
        row = {"title": arguments.title, "report": without_points(report)}
        if "kitti" in report.get("result", {}):
            print(kitti_table(report))
    else:
        row = entry(arguments.title, [read(run) for run in arguments.results])
        print(line(row))
    kept = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    rows = [other for other in kept if other["title"] != row["title"]] + [without_folders(row)]
    arguments.json.write_text(written(rows))


if __name__ == "__main__":
    main()
