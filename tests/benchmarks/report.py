"""Turn the rows that the benchmark scripts wrote with --json into the table of docs/benchmarks.md.

python -m tests.benchmarks.report results.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict


def table(rows: list[dict]) -> str:
    """Ours beside the best peer, per case and number of threads; the latest row of a candidate counts."""
    cells: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    settings: list[tuple[str, int]] = []
    for row in rows:
        setting = (row["device"], row["threads"])
        if setting not in settings:
            settings.append(setting)
        cells[row["case"]][setting][row["name"]] = row["median_ms"]
    head = ["case"]
    for device, threads in sorted(settings):
        where = "CUDA" if device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
        head += [f"ours ms, {where}", "best peer ms", "peer / ours"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for case, by_setting in cells.items():
        line = [case]
        for setting in sorted(settings):
            times = by_setting.get(setting, {})
            ours = min((ms for name, ms in times.items() if name.startswith("ours")), default=None)
            peers = {name: ms for name, ms in times.items() if not name.startswith("ours")}
            best = min(peers, key=lambda name: peers[name], default=None)
            line.append("" if ours is None else f"{ours:.3g}")
            line.append("" if best is None else f"{peers[best]:.3g} ({best})")
            line.append("" if ours is None or best is None else f"**{peers[best] / ours:.2f}**")
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(table([json.loads(line) for line in file]))
