"""Turn the rows that the benchmark scripts wrote with --json into the tables of docs/benchmarks.md.

python -m tests.benchmarks.report results.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict


def table(rows: list[dict], rate: bool = False) -> str:
    """Ours beside the best peer, per case and number of threads; the latest row of a candidate counts.

    Args:
        rows: as the harness writes them.
        rate: show how many things a second, not the milliseconds of a call.
    """
    unit = "per second" if rate else "ms"
    cells: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    settings: list[tuple[str, int]] = []
    for row in rows:
        setting = (row["device"], row["threads"])
        if setting not in settings:
            settings.append(setting)
        cells[row["case"]][setting][row["name"]] = row["per_second" if rate else "median_ms"]
    head = ["case"]
    for device, threads in sorted(settings):
        where = "CUDA" if device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
        head += [f"ours {unit}, {where}", f"best peer {unit}", "ours / peer" if rate else "peer / ours"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for case, by_setting in cells.items():
        line = [case]
        for setting in sorted(settings):
            values = by_setting.get(setting, {})
            best = max if rate else min
            ours = best((value for name, value in values.items() if name.startswith("ours")), default=None)
            peers = {name: value for name, value in values.items() if not name.startswith("ours")}
            peer = best(peers, key=lambda name: peers[name], default=None)
            line.append("" if ours is None else f"{ours:.3g}")
            line.append("" if peer is None else f"{peers[peer]:.3g} ({peer})")
            faster = None if ours is None or peer is None else ours / peers[peer] if rate else peers[peer] / ours
            line.append("" if faster is None else f"**{faster:.2f}**")
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file]
    operators, models = ([row for row in rows if ("per_second" in row) is rate] for rate in (False, True))
    if operators:
        print(table(operators))
    if models:
        print(f"\nWhole models, shapes per second:\n\n{table(models, rate=True)}")
