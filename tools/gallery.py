"""Make docs/gallery.md: pictures of what trained models look at, each with the command that draws it.

    python tools/gallery.py --meshes MESHES --modelnet10 modelnet10_1024.npz --kitti KITTI/training \
        --pct runs/pct --point-transformer runs/point_transformer --voxel runs/voxel --deformable runs/deformable

It needs chair_0001.off and toilet_0001.off of ModelNet in one folder; all shapes of ModelNet10 with 1024 points each
in one .npz (points, ids); KITTI's folder `training` with frame 000008, of velodyne, calib and label_2; and four runs:
pct_small and point_transformer_26 trained on ModelNet10, voxel_transformer_small and deformable_detector_small
trained on simulated streets (`pctransformer train detection`).
Nothing in it is by chance: the same pictures on every run with the same renderer. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer import load
from pctransformer.commands import show
from pctransformer.visualization.maps_picture import write_picture
from pctransformer.visualization.point_maps import PointMaps

DOCS = Path(__file__).parent.parent / "docs"
WIDTH = 1160  # pixels
LEG = (1.0, -1.0, -3.0)
"""Down, to the front right: the point of a shape farthest there is the end of a leg."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of one file and one run.

    Attributes:
        name: of the PNG.
        run: key of the run, which is the name of its folder in the commands shown.
        file: name of the file; a shape of ModelNet10 is NAME.npy.
        calls: options of `show`, one call after the other; their maps are put into one picture.
        query: the call looks from the points of the shape that are farthest in these directions.
        heading, words: what stands above and below it.
    """

    name: str
    run: str
    file: str
    calls: tuple[dict[str, Any], ...]
    heading: str
    words: str
    query: tuple[tuple[float, float, float], ...] = ()


METHODS = (
    {"method": "rollout", "from_query": False},
    {"method": "last_layer", "from_query": False},
    {"method": "gradient_attention", "from_query": False},
    {"method": "grad_cam", "from_query": False},
    {"method": "saliency", "from_query": False},
    {"method": "similarity"},
    {"method": "features_pca", "from_query": False},
)
"""Similarity alone is looked at from a point."""
BEGIN = """\
# What trained models look at

Pictures of `pctransformer show`, each with the command that draws it; the same commands with `--to html` write pages
to turn in a browser. Darker is more, and below each panel stand its range and what it measures; "≥" at an end says
that some values lie beyond. Features have colours: red, green and blue are the three directions in which they differ
most, and what has the same colour has like features. Where a map is from a point, that has a green ring, broken where
other points hide it.

The shapes are of ModelNet (Princeton; chair_0001.off and toilet_0001.off as they are, others from ModelNet10 with
1024 points each, as .npy), the scan is frame 000008 of KITTI (Geiger et al., 2012, CC BY-NC-SA 3.0). Neither data nor
trained models are part of this package: the classifiers here are runs of the commands in [results.md](results.md), on
one core of a CPU, and yours will differ. Several commands above one picture are its panels, in this order.
`tools/gallery.py` makes this page.
"""
PICTURES: tuple[Picture, ...] = (
    Picture(
        "pct-chair-layers",
        "pct",
        "chair_0001.off",
        ({"method": "layer"},),
        "PCT, layer by layer, from the foot of a chair",
        (
            "From the foot of a leg, ringed. The first two layers look at the seat and the leg above it, the "
            "third along the legs and the bar between them. The fourth gives this point nothing: PCT's weights "
            "are normalised over the points that look before they are over those that are looked at, so that a "
            "layer may pass a point over."
        ),
        (LEG,),
    ),
    Picture(
        "point-transformer-chair-layers",
        "point_transformer",
        "chair_0001.off",
        ({"method": "layer"},),
        "Point Transformer, layer by layer, from the foot of a chair",
        (
            "The layers see 1024, 256, 64, 16 and 4 points. A shape of 1024 points has come down to 4 when the "
            "last of them looks, and all maps are carried down to the points through what was sampled on the way; "
            "so none of them is as local as the neighbourhoods of 8 and 16 in which this model attends. That the "
            "first looks at all of the chair is this: what stands at the foot in the end is one of four points, "
            "each of a quarter of the shape."
        ),
        (LEG,),
    ),
    Picture(
        "point-transformer-heads",
        "point_transformer",
        "chair_0001.off",
        ({"method": "layer", "layer": ("encoder.blocks.2.*",), "head": (0, 1, 2, 3, 4, 5, 6, 7)},),
        "Heads of one layer",
        (
            "Eight of the sixteen groups of channels of the third layer, each of which has weights of its own. "
            "They differ little: this model was trained for 40 epochs on one core, and its groups have not "
            "specialised."
        ),
        (LEG,),
    ),
    Picture(
        "pct-methods",
        "pct",
        "chair_0890.npy",
        METHODS,
        "PCT: seven ways to look",
        (
            "Attention by three methods, then what speaks for the class by the gradient, the similarity to the "
            "end of a leg, and the features' three main directions. Similarity finds all four legs, although the "
            "model was never told about parts. Attention and gradients disagree on where the chair is recognised; "
            "none of them is the truth. tools/deletion_test.py takes the points away that a map marks, and counts "
            "what that costs."
        ),
        (LEG,),
    ),
    Picture(
        "point-transformer-methods",
        "point_transformer",
        "toilet_0001.off",
        METHODS,
        "Point Transformer: seven ways to look",
        (
            "The same of a toilet by Point Transformer. Its last features are those of four points, which makes "
            "Grad-CAM, similarity and components smooth: mind the colour bars, similarity goes from 0.96 to 0.995 "
            "only."
        ),
        (LEG,),
    ),
    Picture(
        "pct-desk",
        "pct",
        "desk_0201.npy",
        ({"method": "rollout"},),
        "PCT: from two points of a desk",
        (
            "Rollout of all layers, from the end of a leg and from a point of the top's edge, which others hide. "
            "Each looks at what is near it, and both at the middle."
        ),
        (LEG, (-1.0, 1.0, 1.0)),
    ),
    Picture(
        "voxel-boxes",
        "voxel",
        "training/velodyne/000008.bin",
        ({"score": 0.3, "query": (0, 1)},),
        "Voxel transformer: what two boxes look at in a KITTI scan",
        (
            "Black is the box that is looked from; red and purple ones were found, green ones are KITTI's labels. "
            "The detector has seen four epochs of simulated streets and never a real scan. It finds the parked "
            "cars, and takes some other things for cars and cyclists. From a box it looks at the car's own "
            "points, at the road beside it, and at what stands beyond the shadow that the car casts."
        ),
    ),
    Picture(
        "voxel-methods",
        "voxel",
        "training/velodyne/000008.bin",
        tuple({"method": method, "score": 0.3} for method in ("gradient_attention", "saliency")),
        "Voxel transformer: what speaks for one box",
        ("The same box: attention that raises its score, and how fast the score changes as points move."),
    ),
    Picture(
        "voxel-features",
        "voxel",
        "training/velodyne/000008.bin",
        ({"method": "features_pca", "score": 0.3},),
        "Voxel transformer: features of a scan",
        (
            "The three directions in which the features of the map differ most, at the points, as red, green and "
            "blue: the road near the scanner has one colour, what stands beside it has others, and the two ends of a "
            "parked car differ, too."
        ),
    ),
    Picture(
        "deformable-boxes",
        "deformable",
        "training/velodyne/000008.bin",
        (
            {
                "method": "layer",
                "layer": ("head.decoder.layers.0.cross_attention", "head.decoder.layers.2.cross_attention"),
                "score": 0.7,
            },
        ),
        "Deformable detector: where the query of a box samples",
        (
            "A query of the decoder takes a few samples from maps of three resolutions, and moves towards its "
            "object from layer to layer: here the first layer and the last. The samples lie on the car, while the "
            "box is turned against its label: after four epochs of simulated streets, the run of results.md, headings "
            "are what this detector has learned least, and its scores on real scans are far too high."
        ),
    ),
)


def make(picture: Picture, run: Path, folder: Path) -> str:
    """Write the picture, and tell the commands of it as lines of Markdown."""
    file = folder / picture.file
    rows: tuple[int, ...] = ()
    if picture.query:
        points = load(run).prepare(file).points[:, :3]  # type: ignore[union-attr]
        rows = tuple(int((points @ points.new_tensor(direction)).argmax()) for direction in picture.query)
    found, lines = [], []
    for number, options in enumerate(picture.calls):
        options = dict(options)
        if options.pop("from_query", bool(rows)):
            options["query"] = rows
        out = folder / f"{picture.name}-{number}"
        with contextlib.redirect_stdout(io.StringIO()):
            show.run(show.Config(file, run, out=out, to=("npz",), device="cpu", **options))
        found.append(PointMaps.load_npz(out / f"{file.stem}.npz"))
        words = [f"--{name} {_text(value)}" for name, value in options.items()]
        lines.append(" ".join(["    pctransformer show", picture.file, f"--model runs/{picture.run}", *words]))
    whole = dataclasses.replace(found[0], maps=tuple(one for maps in found for one in maps.maps))
    path = DOCS / "figures" / "gallery" / f"{picture.name}.png"
    write_picture(whole, path)
    shrink(path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)
    return "\n".join(lines)


def _text(value: Any) -> str:
    return (
        " ".join(f"'{part}'" if "*" in str(part) else str(part) for part in value)
        if isinstance(value, tuple)
        else value
    )


def shrink(path: Path) -> None:
    """Fewer pixels and colours, for a page in a repository."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def gather(arguments: argparse.Namespace, folder: Path) -> None:
    """Put all files into one folder, under the names that commands show."""
    with np.load(arguments.modelnet10, allow_pickle=False) as shapes:
        ids, points = shapes["ids"].tolist(), shapes["points"]
    for file in sorted({picture.file for picture in PICTURES}):
        if file.endswith(".npy"):
            np.save(folder / file, points[ids.index(Path(file).stem)])
        else:
            source = arguments.meshes / file if file.endswith(".off") else arguments.kitti.parent / file
            if not source.is_file():
                raise SystemExit(f"{source}: there is no such file; see --help")
            link = folder / Path(file).parts[0]  # KITTI's folder as a whole: the calibration says what the camera sees
            link.symlink_to((arguments.kitti if file.endswith(".bin") else source).resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, words in (
        ("meshes", "folder of chair_0001.off and toilet_0001.off"),
        ("modelnet10", ".npz of points and ids"),
        ("kitti", "KITTI's folder training, with velodyne/000008.bin and calib/000008.txt"),
        ("pct", "run of pct_small"),
        ("point-transformer", "run of point_transformer_26"),
        ("voxel", "run of voxel_transformer_small"),
        ("deformable", "run of deformable_detector_small"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=words)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these pictures alone, and no page")
    arguments = parser.parse_args()
    (DOCS / "figures" / "gallery").mkdir(parents=True, exist_ok=True)
    page = [BEGIN]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gather(arguments, folder)
        for picture in PICTURES:
            if arguments.only and picture.name not in arguments.only:
                continue
            commands = make(picture, getattr(arguments, picture.run), folder)
            image = f"![{picture.heading}](figures/gallery/{picture.name}.png)"
            words = textwrap.fill(picture.words, 120)
            page.append(f"## {picture.heading}\n\n{commands}\n\n{image}\n\n{words}\n")
    if not arguments.only:
        (DOCS / "gallery.md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
