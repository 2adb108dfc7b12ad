"""`pctransformer demo operators`: the operators at work on a cloud made by a formula, their times, a picture.

Needs no data, no GPU, no display and no network.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.errors import UserError
from pctransformer.visualization.clouds import camera
from pctransformer.visualization.style import BLUE, DARK, GREY, MANY, MIDDLE, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "operators.json"  # also the mark of a folder that this command may write into again
PICTURE = "operators.png"


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/demo-operators")
    """Folder for the picture and the figures. Replaced if an earlier demo made it."""
    points: int = 8192
    """Points of the cloud, 256 to 100 000 (plain torch, which is timed too, is slow beyond)."""


def trefoil(points: int, seed: int = 0) -> np.ndarray:
    """(points, 3) float32: the surface of a tube, 0.45 thick, around a trefoil knot of about 6 x 6 x 2 metres."""
    random = np.random.default_rng(seed)
    # candidates are uniform in both angles; keeping them in proportion to their share of the surface makes them even
    along, around = random.uniform(0, 2 * np.pi, (2, 4 * points))

    def middle(t: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], 1)

    step = 1e-4
    tangent = (middle(along + step) - middle(along - step)) / (2 * step)
    speed = np.linalg.norm(tangent, axis=1)
    keep = np.flatnonzero(random.uniform(0, speed.max(), len(speed)) < speed)[:points]
    along, around, tangent = along[keep], around[keep], tangent[keep] / speed[keep, None]
    sideways = np.cross(tangent, [0.0, 0.0, 1.0])
    sideways /= np.linalg.norm(sideways, axis=1, keepdims=True)
    normal = np.cos(around)[:, None] * sideways + np.sin(around)[:, None] * np.cross(tangent, sideways)
    return (middle(along) + 0.45 * normal).astype(np.float32)


# ---- the operators ---------------------------------------------------------------------------------------------------
SAMPLES = 64
NEIGHBOURS = 32
RADIUS = 0.45
BITS = 8
HEADS, CHANNELS = 4, 16


@dataclass(frozen=True)
class Timing:
    operator: str
    did: str
    ours_ms: float
    plain_torch_ms: float


@dataclass(frozen=True)
class Seen:
    """What the picture shows, all in rows of the cloud."""

    xyz: np.ndarray  # (N, 3)
    samples: np.ndarray  # (M,) farthest point samples
    patch: np.ndarray  # (N,) the sample nearest to each point, 0 to M - 1
    query: int  # one sample
    nearest: np.ndarray  # (K,) its nearest neighbours
    ball: np.ndarray  # (any,) all points around it
    order: np.ndarray  # (N,) the points along the Hilbert curve


def _times(slow: float, fast: float) -> str:
    """How often the slower takes as long, in words: 1.5x, 490x."""
    ratio = slow / fast
    return f"{float(f'{ratio:.2g}'):.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _milliseconds(function: Callable[[], Any], seconds: float = 0.3) -> float:
    """Median time of a call, after one to warm up; as many calls as fit into `seconds`, at least one."""
    function()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 50):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def look_and_time(cloud: np.ndarray) -> tuple[Seen, list[Timing]]:
    """Run each operator on the cloud, compiled and in plain torch."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from pctransformer import PointBatch, ops
    from pctransformer.ops import reference

    class PlainTorch(TorchDispatchMode):
        """Inside, operators of this package run their plain-torch functions."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "pctransformer":
                return reference.OPERATORS[function._opname](*args)
            return function(*args, **(kwargs or {}))

    timings: list[Timing] = []

    def trial(operator: str, did: str, call: Callable[[], Any]) -> Any:
        ours = _milliseconds(call)
        with PlainTorch():
            timings.append(Timing(operator, did, ours, _milliseconds(call)))
        return call()

    batch = PointBatch.from_list([torch.from_numpy(cloud)])
    xyz, offsets = batch.xyz, batch.offsets
    n = len(cloud)

    samples = trial(
        "farthest_point_sample",
        f"{SAMPLES} points that cover {n} evenly",
        lambda: ops.farthest_point_sample(xyz, offsets, SAMPLES),
    )
    centres, centre_offsets = xyz[samples], torch.tensor([0, SAMPLES])
    nearest, _ = trial(
        f"knn, k = {NEIGHBOURS}",
        f"{NEIGHBOURS} nearest of {n} around each of {SAMPLES}",
        lambda: ops.knn(xyz, offsets, centres, centre_offsets, NEIGHBOURS),
    )
    patch, _ = trial(
        "knn, k = 1",
        f"the nearest of {SAMPLES} samples for each of {n}",
        lambda: ops.knn(centres, centre_offsets, xyz, offsets, 1),
    )
    ball = trial(
        "ball_query",
        f"up to 128 within {RADIUS} m of each of {SAMPLES}",
        lambda: ops.ball_query(xyz, offsets, centres, centre_offsets, RADIUS, 128),
    )
    trial(
        "group",
        f"coordinates of {NEIGHBOURS} neighbours, relative to each of {SAMPLES}",
        lambda: ops.group(xyz, centres, nearest),
    )
    extent = (xyz.max(0).values - xyz.min(0).values).max()
    cells = ((xyz - xyz.min(0).values) / extent * (2**BITS - 1)).long()
    code = trial("hilbert_code", f"{n} cells along a curve", lambda: ops.hilbert_code(cells, BITS))

    random = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, n, HEADS, CHANNELS, generator=random).unbind()
    lengths = torch.bincount(patch[:, 0], minlength=SAMPLES)
    patch_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    trial(
        "ragged_attention",
        f"{n} tokens in {SAMPLES} patches of {lengths.min()} to {lengths.max()}, {HEADS} heads",
        lambda: ops.ragged_attention(queries, keys, values, patch_offsets, patch_offsets),
    )

    query = int((centres.numpy() @ TOWARDS_US).argmax())  # the one that the picture shows from above
    around = ball[query]
    seen = Seen(
        xyz=cloud,
        samples=samples.numpy(),
        patch=patch[:, 0].numpy(),
        query=int(samples[query]),
        nearest=nearest[query].numpy(),
        ball=around[around >= 0].numpy(),
        order=code.argsort(stable=True).numpy(),
    )
    return seen, timings


# ---- the picture -----------------------------------------------------------------------------------------------------
ELEVATION_DEG, AZIMUTH_DEG = 58, -70
CAMERA = camera(ELEVATION_DEG, AZIMUTH_DEG)
RIGHT, UP, TOWARDS_US = CAMERA


def draw(seen: Seen, timings: list[Timing]) -> Figure:
    """Five views of the cloud and the times, as one figure of 15 x 10 inches."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 10), facecolor="white")
    points = seen.xyz
    size = 40 * (8192 / len(points)) ** 0.5
    order = np.empty(len(points))
    order[seen.order] = np.linspace(0, 1, len(points))
    height = (points[:, 2] - points[:, 2].min()) / np.ptp(points[:, 2])
    patch_colours = np.array([to_rgb(colour) for colour in MANY])
    plain = np.broadcast_to(to_rgb(GREY), points.shape)

    cloud = _view(figure, 0, "cloud", f"{len(points)} points on a trefoil knot", points)
    _scatter(cloud, points, colormaps["viridis"](height)[:, :3], size)

    samples = _view(figure, 1, "farthest_point_sample", f"{len(seen.samples)} points that cover it evenly", points)
    _scatter(samples, points, plain, size, marked=seen.samples)

    patches = _view(figure, 2, "knn, k = 1", "each point joins its nearest sample", points)
    _scatter(patches, points, patch_colours[seen.patch % len(patch_colours)], size)

    _draw_neighbours(figure, seen)

    curve = _view(figure, 4, "hilbert_code", "the order in which points become tokens, first to last", points)
    _scatter(curve, points, colormaps["turbo"](order)[:, :3], size)

    _draw_times(figure, timings)
    return figure


def _place(place: int) -> tuple[float, float]:
    """Left and lower edge of one of six places, each 0.3 x 0.4 of the figure below its title."""
    return 0.02 + 0.33 * (place % 3), 0.53 - 0.5 * (place // 3)


def _title(figure: Figure, place: int, name: str, text: str) -> None:
    left, low = _place(place)
    figure.text(left, low + 0.43, name, fontsize=15, fontweight="bold")
    figure.text(left, low + 0.405, text, fontsize=11.5, color=DARK)


def _view(figure: Figure, place: int, name: str, text: str, points: np.ndarray) -> Any:
    """A bare 3-D view from the camera in which all axes have one scale and `points` fill the frame."""
    _title(figure, place, name, text)
    axes: Any = figure.add_axes((*_place(place), 0.3, 0.4), projection="3d", computed_zorder=False)
    seen = points @ CAMERA.T
    middle = (seen.max(0) + seen.min(0)) / 2 @ CAMERA
    half = np.ptp(seen[:, :2], 0).max() / 2
    low, high = middle - half, middle + half
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_proj_type("ortho")
    axes.set_box_aspect((1, 1, 1), zoom=1.7)
    axes.view_init(elev=ELEVATION_DEG, azim=AZIMUTH_DEG)
    axes.set_axis_off()
    return axes


def _scatter(axes: Any, points: np.ndarray, colours: np.ndarray, size: float, marked: Any = ()) -> None:
    """Opaque points, darker the farther they are, so that strands pass in front of each other; `marked` rows are dots.

    Everything is one collection, because matplotlib sorts by depth within collections only.
    """
    depth = points @ TOWARDS_US
    light = 0.6 + 0.4 * (depth - depth.min()) / np.ptp(depth)
    layers = [(points, colours * light[:, None], size)]
    for lift, colour, dot_size in ((0.12, (1.0, 1.0, 1.0), 120), (0.14, (0.16, 0.38, 0.68), 65)):  # off the surface
        dots = points[list(marked)] + lift * TOWARDS_US
        layers.append((dots, np.broadcast_to(colour, dots.shape), dot_size))
    axes.scatter(
        *np.concatenate([where for where, _, _ in layers]).T,
        c=np.concatenate([colour for _, colour, _ in layers]),
        s=np.concatenate([np.full(len(where), area) for where, _, area in layers]),
        linewidths=0,
        depthshade=False,
        clip_on=False,
    )


def _draw_neighbours(figure: Figure, seen: Seen) -> None:
    centre = seen.xyz[seen.query]
    away = seen.xyz - centre
    # the side of the tube that faces us
    near = seen.xyz[(np.linalg.norm(away, axis=1) < 2.2 * RADIUS) & (away @ TOWARDS_US > -RADIUS)]
    text = f"{len(seen.ball)} points within {RADIUS} m of a sample, and its {len(seen.nearest)} nearest"
    axes = _view(figure, 3, "ball_query, knn", text, near)
    axes.scatter(*near.T, c=GREY, s=45, linewidths=0, depthshade=False, clip_on=False)
    for rows, colour, label in ((seen.ball, BLUE, "in the ball"), (seen.nearest, ORANGE, "nearest")):
        axes.scatter(*seen.xyz[rows].T, c=colour, s=45, linewidths=0, label=label, depthshade=False, clip_on=False)
    axes.scatter(*centre, c="black", s=160, marker="*", linewidths=0, label="sample", depthshade=False, clip_on=False)
    turn = np.linspace(0, 2 * np.pi, 200)[:, None]
    axes.plot(*(centre + RADIUS * (np.cos(turn) * RIGHT + np.sin(turn) * UP)).T, color=BLUE, linewidth=1)
    axes.legend(loc="lower center", ncols=3, frameon=False, fontsize=11, handletextpad=0.1, borderaxespad=-1.2)


def _draw_times(figure: Figure, timings: list[Timing]) -> None:
    _title(figure, 5, "time of one call", "compiled and in plain torch, on this machine")
    left, low = _place(5)
    axes = figure.add_axes((left + 0.12, low + 0.05, 0.17, 0.31))
    rows = np.arange(len(timings))
    ours = np.array([timing.ours_ms for timing in timings])
    plain = np.array([timing.plain_torch_ms for timing in timings])
    axes.hlines(rows, ours, plain, color=GREY, linewidth=3, zorder=1)
    axes.scatter(ours, rows, c=BLUE, s=70, zorder=3)
    axes.scatter(plain, rows, c=MIDDLE, s=70, zorder=2)
    for row, (fast, slow) in enumerate(zip(ours, plain)):
        axes.annotate(_times(slow, fast), (max(fast, slow), row), (9, -4), textcoords="offset points", fontsize=11)
    for x, label, colour, side in ((ours[0], "compiled", BLUE, "right"), (plain[0], "plain torch", DARK, "left")):
        axes.annotate(label, (x, 0), (0, 10), textcoords="offset points", ha=side, fontsize=11, color=colour)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.1)
    axes.set_yticks(rows, [timing.operator for timing in timings], fontsize=11)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds", fontsize=11)
    axes.grid(axis="x", color="#e8eaee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


# ---- the command -----------------------------------------------------------------------------------------------------
def _claim(folder: Path) -> None:
    """Make the folder, unless something is in it that no demo made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder with --out")
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).exists():
        raise UserError(f"{folder} holds files that no demo made; nothing was written. Give another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); give another folder with --out") from None


def run(config: Config) -> int:
    """Generate, run, time, print, draw."""
    if not 256 <= config.points <= 100_000:
        raise UserError(f"--points must be between 256 and 100000, got {config.points}")
    _claim(config.out)
    seen, timings = look_and_time(trefoil(config.points))
    _print_table(timings)
    record = {
        "made by": "pctransformer demo operators",
        "points": config.points,
        "timings": [asdict(timing) for timing in timings],
    }
    (config.out / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    draw(seen, timings).savefig(config.out / PICTURE, dpi=160)
    print(f"picture: {config.out / PICTURE}")
    return 0


def _print_table(timings: list[Timing]) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from pctransformer.ops import _library

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("operator", no_wrap=True)
    table.add_column("what it did")
    for column in ("ms", "plain torch ms", "ratio"):
        table.add_column(column, justify="right")
    for timing in timings:
        times = f"{timing.ours_ms:.3g}", f"{timing.plain_torch_ms:.3g}", _times(timing.plain_torch_ms, timing.ours_ms)
        table.add_row(timing.operator, timing.did, *times)
    console = Console()
    console.print(table)
    if reason := _library.missing["cpu"]:
        console.print(f"Both columns are plain torch: {reason}. `pctransformer doctor` tells what to install.")
    else:
        console.print(f"On CPU, {torch.get_num_threads()} threads.")
