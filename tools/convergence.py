"""Draw the average precision on held-out scans over the scans seen in training, of several runs in one figure.

    python tools/convergence.py runs/pointpillars runs/detr --names PointPillars PointDETR --out convergence.png

Runs are folders of `pctransformer train detection`, finished or not, that hold scans out. Scans that an epoch repeats
count each time. Runs can be compared that look for the same classes in the same held-out scans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.run_folder import RunFolder
from pctransformer.visualization.detection_scores import Convergence, convergence_figure

_KEYS = ("epoch", "validation_ap_bev", "validation_ap_3d")


def read(run: Path) -> Convergence:
    """What a run reached, epoch by epoch.

    Raises:
        UserError: it is no run of detection, has no epochs that were judged, or mixes sources in unequal shares.
    """
    about = checkpoint.read(run / "checkpoints" / checkpoint.LAST).about
    if about.get("task") != "detection":
        raise UserError(f"{run}: its task is {about.get('task')!r}, not detection")
    repeats = set(about["settings"]["data"].get("repeat") or (1,))
    if len(repeats) > 1:
        raise UserError(f"{run}: its sources come differently often in an epoch, so scans seen are not known")
    rows = [row for row in RunFolder(run).metrics() if row.get("validation_ap_3d") is not None]
    if not rows:
        raise UserError(f"{run}: no epoch was judged by held-out scans")
    epochs, bev, space = (np.array([row[key] for row in rows]) for key in _KEYS)
    kept = np.flatnonzero(epochs == about["progress"]["best_epoch"])
    return Convergence(epochs * about["data"]["train"] * repeats.pop(), bev, space, int(kept[0]) if len(kept) else None)


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--names", nargs="+", help="in the legend, one for each run; by default those of the folders")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    given = parser.parse_args()
    names = given.names or [run.name for run in given.runs]
    try:
        if len(names) != len(given.runs):
            raise UserError(f"--names wants one for each of {len(given.runs)} runs, got {len(names)}")
        if len(set(names)) != len(names):
            raise UserError(f"names must differ, got {', '.join(names)}; give others with --names")
        curves = {name: read(run) for name, run in zip(names, given.runs)}
    except UserError as error:
        raise SystemExit(f"convergence: {error}") from None
    given.out.parent.mkdir(parents=True, exist_ok=True)
    convergence_figure(curves).savefig(given.out, dpi=150)
    for name, curve in curves.items():
        shown = -1 if curve.kept is None else curve.kept
        numbers = f"{curve.bev[shown]:.1f} from above, {curve.space[shown]:.1f} in space"
        print(f"{name}: {numbers} after {curve.scans[shown]} scans")
    print(given.out)


if __name__ == "__main__":
    main()
