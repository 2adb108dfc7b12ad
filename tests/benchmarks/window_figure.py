"""Time and memory of attention inside windows against the number of cells: a figure, a table, and slopes.

    python -m tests.benchmarks.window_figure docs/benchmarks.jsonl --figure docs/figures/window_attention.png

Reads the rows that `window_attention` wrote with --json; the latest row of a candidate counts. Times are CPU time, what
a call takes on a core of its own: waiting for others who use the core does not count.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.visualization.style import BLUE, DARK, GREY, MANY, MIDDLE, ORANGE, bare, heading, new_figure, place

METHODS = {
    "ours": ("ours", BLUE),
    "torch, window by window": ("window by window", ORANGE),
    "torch, bucketed by size": ("bucketed", MANY[2]),
    "torch, padded": ("padded", MANY[5]),
    "torch, dense": ("dense", MIDDLE),
}
"""Name in the rows -> name and colour in the figure."""
PASSES = ("forward", "forward + backward")
PANELS = {"cpu_ms": "milliseconds", "peak_mb": "peak memory, MB"}

Curves = dict[tuple[str, str], dict[int, dict[str, float]]]
"""(name, pass) -> cells -> row."""


def read_curves(path: Path, with_bias: bool, threads: int = 1) -> Curves:
    """Rows of one CPU setting."""
    pattern = re.compile(rf"WINDOWS {'with' if with_bias else 'without'} bias: (\d+) cells, .*?, (forward.*)")
    found: Curves = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if (match := pattern.fullmatch(row["case"])) and (row["device"], row["threads"]) == ("cpu", threads):
            found.setdefault((row["name"], match[2]), {})[int(match[1])] = row
    return found


def slope(curve: dict[int, dict[str, float]], value: str) -> float:
    """Of a straight line through all points, in logarithms: 1 is proportional to the cells."""
    counts = sorted(curve)
    return float(np.polyfit(np.log(counts), np.log([curve[count][value] for count in counts]), 1)[0])


def number(value: float) -> str:
    """Three digits, more before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(curves: Curves) -> str:
    counts = sorted({count for curve in curves.values() for count in curve})
    head = ["", *(f"{count} cells" for count in counts), "slope"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for direction in PASSES:
        for name in dict.fromkeys(name for name, _ in curves):
            curve = curves.get((name, direction), {})
            cells = [
                f"{number(curve[count]['cpu_ms'])} / {number(curve[count]['peak_mb'])}" if count in curve else ""
                for count in counts
            ]
            slopes = f"{slope(curve, 'cpu_ms'):.2f} / {slope(curve, 'peak_mb'):.2f}" if len(curve) > 1 else ""
            lines.append(f"| {direction}, {name} | {' | '.join(cells)} | {slopes} |")
    return "\n".join(lines)


def curves_figure(curves: Curves) -> Any:
    """Four panels: time above memory, the forward pass beside both passes."""
    counts = sorted({count for curve in curves.values() for count in curve})
    width, height, left, bottom = 4.7, 3.3, 0.85, 0.65
    figure = new_figure(11.6, 9.35)
    for row, (value, label) in enumerate(reversed(PANELS.items())):
        for column, direction in enumerate(PASSES):
            axes = place(figure, left + 5.6 * column, bottom + row * (height + 0.55), width, height)
            bare(axes)
            axes.set(xscale="log", yscale="log", xlim=(counts[0] / 1.25, counts[-1] * 1.25))
            drawn = {name: curves[name, direction] for name in METHODS if (name, direction) in curves}
            for name, curve in drawn.items():
                at = sorted(curve)
                axes.plot(
                    at, [curve[count][value] for count in at], "o-", color=METHODS[name][1],
                    linewidth=2.8 if name == "ours" else 1.6, markersize=5.5 if name == "ours" else 4,
                    zorder=4 if name == "ours" else 3,
                )  # fmt: skip
            ours = drawn["ours"]
            every = [one[value] for curve in drawn.values() for one in curve.values()]
            # the reference, below everything
            begin = min(ours[count][value] * counts[0] / count for count in ours) / 1.8
            axes.set_ylim(begin / 1.6, max(every) * 2.5)
            axes.plot(counts, [begin * count / counts[0] for count in counts], "--", color=GREY, linewidth=1.4)
            axes.annotate(
                "slope 1", (counts[-2], begin * counts[-2] / counts[0]), (6, -10), textcoords="offset points",
                fontsize=9, color=MIDDLE,
            )  # fmt: skip
            if row == 1:
                axes.set_title(direction, fontsize=12, fontweight="bold", loc="left", pad=8)
            axes.text(
                0.985, 0.03, f"slope of ours {slope(ours, value):.2f}", transform=axes.transAxes, ha="right",
                fontsize=10, color=BLUE,
            )  # fmt: skip
            axes.set_xticks(counts, [f"{count:,}".replace(",", " ") for count in counts])
            axes.minorticks_off()
            if row == 0:
                axes.set_xlabel("occupied voxels", fontsize=10.5, color=DARK)
            if column == 0:
                axes.set_ylabel(label, fontsize=10.5, color=DARK)
    heading(
        figure, 0.3, 9.2, "Attention inside windows of voxels, with position bias, and torch's own four ways to it",
        "8 heads of 24 channels, windows of 12 x 12 columns; one thread of a CPU; lines end where a mask exceeds 2 GB",
    )  # fmt: skip
    across = 0.85
    for name, (short, colour) in METHODS.items():
        if any(method == name for method, _ in curves):
            figure.text(across / 11.6, 8.45 / 9.35, short, fontsize=11.5, fontweight="bold", color=colour, va="top")
            across += 0.45 + 0.098 * len(short)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what window_attention wrote with --json")
    parser.add_argument("--figure", type=Path, help="where to draw the curves with biases")
    chosen = parser.parse_args()
    for with_bias in (False, True):
        curves = read_curves(chosen.rows, with_bias)
        print(f"\n{'With' if with_bias else 'Without'} biases, milliseconds / MB:\n\n{table(curves)}")
    if chosen.figure:
        curves_figure(curves).savefig(chosen.figure, dpi=110)


if __name__ == "__main__":
    main()
