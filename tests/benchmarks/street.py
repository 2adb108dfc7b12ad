"""Generated streets beside real frames of KITTI: points per object by distance, as a table and as a figure.

    python -m tests.benchmarks.street --frames 200 --figure docs/figures/street_points_per_car.png

Real medians are the stored ones of 33 frames. Where the frames themselves are there (`tests/real_data.py` says where),
each of their cars is a dot in the figure, and `--scans` draws one of them beside a generated one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.datasets.kitti import CLASS_NAMES, KittiFrame, read_frame
from pctransformer.datasets.street import street_frames
from pctransformer.visualization.style import BLUE, DARK, GREY, ORANGE, bare, heading, new_figure, place
from tests.datasets.street.likeness import REAL_COUNTS, REAL_MEDIANS, STEP, medians, points_per_object
from tests.real_data import FOLDER


def real_frames() -> list[KittiFrame]:
    """Whatever labelled frames of KITTI there are."""
    folder = FOLDER / "kitti"
    return [read_frame(folder, path.stem) for path in sorted((folder / "training" / "velodyne").glob("*.bin"))]


def table(generated: dict[str, np.ndarray]) -> str:
    """Medians by distance, generated, real, and their ratio."""
    lines = ["| class | metres | real: n | median | generated: n | median | ratio |", f"|{'---|' * 7}"]
    for kind, real in REAL_MEDIANS.items():
        found, counts = medians(generated[kind], len(real))
        for i, (median, number) in enumerate(zip(real, REAL_COUNTS[kind])):
            metres = f"{i * STEP:.0f}-{(i + 1) * STEP:.0f}"
            shown = f"{median:.4g} | {counts[i]} | {found[i]:.4g} | {found[i] / median:.2f}"
            lines.append(
                f"| {kind} | {metres} | {number} | {shown if number else f'| {counts[i]} | {found[i]:.4g} |'} |"
            )
    return "\n".join(lines)


def cars_figure(generated: np.ndarray, real: np.ndarray, num_frames: int) -> Any:
    """Points per car over distance: half of the generated ones within the band, the real ones as dots.

    Args:
        generated, real: (n, 2) distance, points; no real ones: only their medians are drawn.
        num_frames: that the generated ones are of.
    """
    known = np.array(REAL_MEDIANS["Car"])
    edges = STEP * np.arange(len(known) + 1)
    step = (generated[:, 0] // STEP).astype(int)
    low, middle, high = (
        np.array([np.percentile(generated[step == i, 1], share) for i in range(len(known))]) for share in (25, 50, 75)
    )
    figure = new_figure(8.6, 5.6)
    axes = place(figure, 0.85, 0.65, 7.4, 3.65)
    for values, colour, width in ((middle, BLUE, 2.6), (known, ORANGE, 2.6)):
        axes.hlines(values, edges[:-1] + 0.35, edges[1:] - 0.35, color=colour, linewidth=width, zorder=4)
    for i in range(len(known)):
        axes.fill_between([edges[i] + 0.35, edges[i + 1] - 0.35], low[i], high[i], color=BLUE, alpha=0.16, linewidth=0)
        axes.annotate(
            f"{middle[i] / known[i]:.2f}", ((edges[i] + edges[i + 1]) / 2, 1), (0, 6),
            ("data", "axes fraction"), "offset points", ha="center", fontsize=11, color=DARK,
        )  # fmt: skip
    axes.annotate("ratio", (0, 1), (-8, 6), "axes fraction", "offset points", ha="right", fontsize=11, color=DARK)
    shown = real[(real[:, 0] < edges[-1]) & (real[:, 1] > 0)]
    axes.plot(shown[:, 0], shown[:, 1], "o", color=ORANGE, markersize=3.2, alpha=0.55, markeredgewidth=0, zorder=3)
    axes.set(yscale="log", xlim=(0, edges[-1]), ylim=(1.5, 14_000))
    axes.set_yticks([2, 10, 100, 1000, 10_000], ["2", "10", "100", "1 000", "10 000"])
    axes.minorticks_off()
    axes.set_xlabel("metres from the scanner", fontsize=10.5, color=DARK)
    axes.set_ylabel("points in the box", fontsize=10.5, color=DARK)
    bare(axes)
    heading(
        figure, 0.3, 5.4, "Points per car, generated streets and KITTI",
        "medians of each ten metres, and their ratio; whole sweeps, 64 lasers",
    )  # fmt: skip
    cars = int((generated[:, 0] < edges[-1]).sum())
    left, up = 4.9, 4.05
    for text, colour in (
        (f"generated: {cars} cars of {num_frames} frames", BLUE),
        ("(band: the middle half of them)", "#8fa9d3"),
        (f"KITTI: {sum(REAL_COUNTS['Car'])} cars of 33 frames", ORANGE),
    ):
        figure.text(left / 8.6, up / 5.6, text, fontsize=11, color=colour, va="top")
        up -= 0.24
    return figure


def scans_figure(real: KittiFrame | None, generated: KittiFrame) -> Any:
    """Two frames from above, side by side, with their boxes."""
    from matplotlib.patches import Polygon

    from pctransformer.datasets.kitti.boxes import box_corners

    shown = [(name, frame) for name, frame in (("KITTI", real), ("generated", generated)) if frame is not None]
    figure = new_figure(0.9 + 4.9 * len(shown), 7.6)
    for i, (name, frame) in enumerate(shown):
        axes = place(figure, 0.6 + 4.9 * i, 0.55, 4.5, 5.625)
        points = frame.read_points()
        points = points[frame.calibration.in_view(points[:, :3], frame.image_size)]
        axes.scatter(
            points[:, 1], points[:, 0], c=np.clip(points[:, 2], -2, 1), cmap="Greys", vmin=-4, s=0.5, linewidths=0
        )
        for corners in box_corners(frame.boxes)[:, :4, :2]:
            axes.add_patch(Polygon(corners[:, ::-1], facecolor=BLUE, alpha=0.16, linewidth=0))
            axes.add_patch(Polygon(corners[:, ::-1], fill=False, edgecolor=BLUE, linewidth=1.3))
        axes.set(xlim=(24, -24), ylim=(0, 60), aspect="equal")
        bare(axes)
        axes.annotate(
            f"{name}, frame {frame.name}", (0, 1), (0, 20), "axes fraction", "offset points", fontsize=12,
            fontweight="bold",
        )  # fmt: skip
        axes.annotate(
            f"{len(points)} points, {len(frame.boxes)} labelled objects", (0, 1), (0, 6), "axes fraction",
            "offset points", fontsize=10, color=DARK,
        )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.8)
    heading(figure, 0.3, 7.4, "A real frame and a generated one", "what the camera sees, from above; metres")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="where to draw points per car")
    parser.add_argument("--scans", type=Path, help="where to draw a real and a generated frame")
    chosen = parser.parse_args(arguments)
    begin = time.perf_counter()
    frames = street_frames(chosen.frames, seed=chosen.seed, camera_view=False, workers=chosen.workers)
    seconds = time.perf_counter() - begin
    print(f"{chosen.frames} whole sweeps in {seconds:.1f} s, {chosen.frames / seconds:.1f} a second\n")
    generated, real = points_per_object(frames), real_frames()
    print(table(generated))
    near = [(frame.objects.types, np.hypot(*frame.boxes[:, :2].T) < 70) for frame in frames]
    means = {kind: np.mean([((types == kind) & within).sum() for types, within in near]) for kind in CLASS_NAMES}
    print(f"\nin view within 70 m, a frame: {', '.join(f'{mean:.1f} {kind}' for kind, mean in means.items())}")
    if chosen.figure:
        cars_figure(generated["Car"], points_per_object(real)["Car"], len(frames)).savefig(chosen.figure, dpi=110)
    if chosen.scans:
        named = [frame for frame in real if frame.name == "000008"]
        scans_figure(named[0] if named else None, frames[0]).savefig(chosen.scans, dpi=110)


if __name__ == "__main__":
    main()
