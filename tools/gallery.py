"""Make docs/gallery.md: pictures of what trained models look at, each with the command that draws it.

    python tools/gallery.py --runs runs --meshes MESHES --modelnet10 modelnet10_1024.npz \
        --modelnet40 modelnet40_normal_resampled --kitti KITTI/training
    python tools/gallery.py --runs runs --meshes MESHES --only pct-chair-layers
    python tools/gallery.py --only    # the page alone, after a change of words

It needs chair_0001.off and toilet_0001.off of ModelNet in one folder; all shapes of ModelNet10 with 1024 points each
in one .npz (points, ids); airplane/airplane_0178.txt of ModelNet40 with normals; KITTI's folder `training` with frame
000008, of velodyne, calib and label_2; and in one folder the runs, or links to them, by the names that the commands on
the page have. `--only` asks for no more than its pictures need. The words below a picture say what was seen in it: look
at those that are made anew.

Nothing in it is by chance: the same pictures on every run with the same renderer. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.commands import show
from pctransformer.visualization.maps_picture import write_picture
from pctransformer.visualization.point_maps import PointMaps

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = DOCS / "figures" / "gallery"
WIDTH = 1160  # pixels


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of one file and one run.

    Attributes:
        name: of the PNG.
        run: name of the run's folder.
        file: name of the file.
        calls: options of `show`, one call after the other; their maps are put into one picture.
        heading, words: what stands above and below it.
    """

    name: str
    run: str
    file: str
    calls: tuple[dict[str, Any], ...]
    heading: str
    words: str


def methods(query: int) -> tuple[dict[str, Any], ...]:
    """Seven ways to look at a shape, of which similarity alone is looked at from a point."""
    return (
        *({"method": name} for name in ("rollout", "last_layer", "gradient_attention", "grad_cam", "saliency")),
        {"method": "similarity", "query": (query,)},
        {"method": "features_pca"},
    )


BEGIN = """\
# What trained models look at

Pictures of `pctransformer show`, each with the command that draws it; the same commands with `--to html` write pages
to turn in a browser. Darker is more, and below each panel stand its range and what it measures; "≥" at an end says
that some values lie beyond. Features have colours: red, green and blue are the three directions in which they differ
most, and what has the same colour has like features. Where a map is from a point, that has a green ring, broken where
other points hide it.

The shapes are of ModelNet (Princeton): chair_0001.off and toilet_0001.off as they are; airplane_0178.txt of ModelNet40
resampled, 10 000 points with normals, and as .npy with z up as in the meshes; the others from ModelNet10 with 1024
points each, as .npy. The scan is frame 000008 of KITTI (Geiger et al., 2012, CC BY-NC-SA 3.0). Neither data nor trained
models are part of this package: if nothing else is said these are runs of the commands in [results.md](results.md), on
one core of a CPU, and yours will differ. Several commands above one picture are its panels, in this order.
`tools/gallery.py` makes this page.
"""
PICTURES: tuple[Picture, ...] = (
    Picture(
        "pct-chair-layers",
        "pct",
        "chair_0001.off",
        ({"method": "layer", "query": (876,)},),
        "PCT, layer by layer, from the foot of a chair",
        (
            "From the foot of a leg, ringed. The first two layers look at the seat and the leg above it, the "
            "third along the legs and the bar between them. The fourth gives this point nothing: PCT's weights "
            "are normalised over the points that look before they are over those that are looked at, so that a "
            "layer may pass a point over."
        ),
    ),
    Picture(
        "point-transformer-chair-layers",
        "point_transformer",
        "chair_0001.off",
        ({"method": "layer", "query": (876,)},),
        "Point Transformer, layer by layer, from the foot of a chair",
        (
            "The layers see 1024, 256, 64, 16 and 4 points. A shape of 1024 points has come down to 4 when the "
            "last of them looks, and all maps are carried down to the points through what was sampled on the way; "
            "so none of them is as local as the neighbourhoods of 8 and 16 in which this model attends. That the "
            "first looks at all of the chair is this: what stands at the foot in the end is one of four points, "
            "each of a quarter of the shape."
        ),
    ),
    Picture(
        "pct-aeroplane",
        "pct_aeroplane",
        "airplane_0178.npy",
        (
            {"method": "layer", "query": (606,)},
            {"method": "rollout", "query": (606,)},
            {"method": "similarity", "query": (606,)},
        ),
        "PCT, layer by layer, from a wing tip",
        (
            "The first two layers look along the wing that the point belongs to and at its engine, the first at the "
            "tail as well, the second at the fuselage where the wing meets it. The third looks at the front of the "
            "fuselage and at the nearer tip of the tailplane; the fourth passes the point over, as above. Rollout sums "
            "up: wing, engine and fuselage, nothing of the other wing. The features are alike along the whole wing. "
            "ModelNet10 has no aeroplanes. This run is the one above, gone on with on 60 shapes of each of its "
            "classes and 42 aeroplanes of ModelNet40 in one .npz, by `train classification --pretrained runs/pct "
            "--num-points 1024 --augmentation pointnet2 --epochs 8 --lr 5e-4 --warmup-epochs 1 --ema 0.9`. It knows "
            "15 of 15 other aeroplanes and 92.2 % of ModelNet10's test shapes; the one in the picture is in neither."
        ),
    ),
    Picture(
        "point-transformer-aeroplane",
        "point_transformer_public",
        "airplane_0178.txt",
        (
            {"method": "layer", "layer": ("blocks.0", "blocks.2"), "query": (606,), "up": "y"},
            {"method": "rollout", "query": (606,), "up": "y"},
            *({"method": "similarity", "layer": (f"blocks.{i}",), "query": (606,), "up": "y"} for i in range(3)),
        ),
        "Point Transformer, from the same wing tip",
        (
            "The aeroplane is seen from behind. Attention is carried down from one of the four points that are left "
            "in the end, as above: the first layer, the third and all together look at the fuselage and the tail, "
            "hardly at the wing. Features tell more of the place, and other things from layer to layer: in the first "
            "points are alike whose surfaces face the same way, such as one side of the fin (over all points "
            "similarity and the cosine between normals correlate with 0.75); in the second those at the tip, and after "
            "them those of the engine; in the third the whole wing. These are the public weights of "
            "github.com/souheib1/Point-Transformer for ModelNet40 and normals, made a run by `pctransformer "
            "import-weights best_model.pt --model point_transformer --classes modelnet40_shape_names.txt --normals "
            "--out runs/point_transformer_public`; the shape is of ModelNet40's training part."
        ),
    ),
    Picture(
        "point-transformer-heads",
        "point_transformer",
        "chair_0001.off",
        ({"method": "layer", "layer": ("encoder.blocks.2.*",), "head": tuple(range(8)), "query": (876,)},),
        "Heads of one layer",
        (
            "Eight of the sixteen groups of channels of the third layer, each of which has weights of its own. "
            "They differ little: this model was trained for 40 epochs on one core, and its groups have not "
            "specialised."
        ),
    ),
    Picture(
        "point-mae-class-token",
        "point_mae",
        "chair_0890.npy",
        ({"method": "class_token", "head": (0, 1, 2, 3)},),
        "Point-MAE: where the class token looks",
        (
            "The heads of the last layer, from the token that is classified. The first looks at all of the chair, the "
            "others each at a place: at the end of a front leg, and a little at that of the leg behind it; at the top "
            "of the back; at the corner of the seat above that leg. Nobody has told the model of parts. It is "
            "point_mae_small, pretrained as a masked autoencoder, then trained for 120 epochs on a tenth of "
            "ModelNet10's labels; of the test shapes it classifies 90.7 % rightly. Its tokens are patches, in some of "
            "which a point may be and its neighbour not: hence the speckles."
        ),
    ),
    Picture(
        "pct-methods",
        "pct",
        "chair_0890.npy",
        methods(582),
        "PCT: seven ways to look",
        (
            "Attention by three methods, then what speaks for the class by the gradient, the similarity to the "
            "end of a leg, and the features' three main directions in colours. Similarity finds all four legs, "
            "although the model was never told about parts, and in colours they all end in blue, while the back is "
            "red and the right of the seat green. Attention and gradients disagree on where the chair is recognised; "
            "none of them is the truth. tools/deletion_test.py takes the points away that a map marks, and counts what "
            "that costs."
        ),
    ),
    Picture(
        "point-transformer-methods",
        "point_transformer",
        "toilet_0001.off",
        methods(717),
        "Point Transformer: seven ways to look",
        (
            "The same of a toilet by Point Transformer. Its last features are those of four points, which makes "
            "Grad-CAM and similarity smooth: mind the colour bars, similarity goes from 0.98 to 1 only. Colours "
            "show the four: black at the top of the tank, blue at its lower end, green at the front of the bowl, red "
            "at the foot, and mixtures between them."
        ),
    ),
    Picture(
        "pct-desk",
        "pct",
        "desk_0201.npy",
        ({"method": "rollout", "query": (828, 132)},),
        "PCT: from two points of a desk",
        (
            "Rollout of all layers, from the end of a leg and from a point of the top's edge, which others hide. "
            "Each looks at what is near it, and both at the middle."
        ),
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
        (
            "The same box: attention that raises its score is on the car's own points; moving these, or some of those "
            "on the road and behind the car, changes the score fastest."
        ),
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
            "object from layer to layer: here the first layer and the last. The samples lie on the car and beside "
            "it. All five labelled cars in the picture are found, some of them too high. Farther away, beyond the "
            "picture, it invents some: this run of results.md has seen four epochs of simulated streets, and never a "
            "real scan."
        ),
    ),
)


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [BEGIN]
    for picture in PICTURES:
        image = f"![{picture.heading}](figures/gallery/{picture.name}.png)"
        words = textwrap.fill(picture.words, 120)
        parts.append(f"## {picture.heading}\n\n{commands(picture)}\n\n{image}\n\n{words}\n")
    return "\n".join(parts)


def commands(picture: Picture) -> str:
    """What a user types to see its panels, as lines of Markdown."""
    lines = []
    for options in picture.calls:
        words = [f"--{name} {_text(value)}" for name, value in options.items()]
        lines.append(" ".join(["    pctransformer show", picture.file, f"--model runs/{picture.run}", *words]))
    return "\n".join(lines)


def _text(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"'{one}'" if "*" in str(one) else str(one) for one in values)


def draw(picture: Picture, run: Path, file: Path, path: Path) -> None:
    """Write the picture as a PNG.

    Args:
        picture: what to look at, and how.
        run: folder of the run.
        file: what is looked at.
        path: of the PNG.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, options in enumerate(picture.calls):
            out = Path(folder) / str(number)
            with contextlib.redirect_stdout(io.StringIO()):
                show.run(show.Config(file, run, out=out, to=("npz",), device="cpu", **options))
            found.append(PointMaps.load_npz(out / f"{file.stem}.npz"))
    write_picture(dataclasses.replace(found[0], maps=tuple(one for maps in found for one in maps.maps)), path)
    shrink(path)


def shrink(path: Path) -> None:
    """Fewer pixels and colours, for a page in a repository."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def gather(pictures: Sequence[Picture], arguments: argparse.Namespace, folder: Path) -> None:
    """Put all files that the pictures are of into one folder, under the names that commands show."""
    for name in sorted({picture.file for picture in pictures}):
        path = folder / name
        if name.endswith(".bin"):  # the folder as a whole: the calibration says what the camera sees
            kitti = _given(arguments, "kitti")
            _check(kitti.parent / name)
            (folder / kitti.name).symlink_to(kitti.resolve())
        elif name.startswith("airplane"):
            source = _given(arguments, "modelnet40") / "airplane" / f"{path.stem}.txt"
            _check(source)
            if path.suffix == ".npy":
                np.save(path, np.loadtxt(source, np.float32, delimiter=",")[:, [0, 2, 1]])  # z up, as in the meshes
            else:
                path.symlink_to(source.resolve())
        elif path.suffix == ".npy":
            with np.load(_given(arguments, "modelnet10"), allow_pickle=False) as shapes:
                np.save(path, shapes["points"][shapes["ids"].tolist().index(path.stem)])
        else:
            source = _given(arguments, "meshes") / name
            _check(source)
            path.symlink_to(source.resolve())


def _given(arguments: argparse.Namespace, option: str) -> Path:
    path = getattr(arguments, option)
    if path is None:
        raise SystemExit(f"--{option} is needed for these pictures; see --help")
    return Path(path)


def _check(file: Path) -> None:
    if not file.exists():
        raise SystemExit(f"{file}: there is no such file; see --help")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, words in (
        ("runs", "folder of the runs"),
        ("meshes", "folder of chair_0001.off and toilet_0001.off"),
        ("modelnet10", ".npz of points and ids"),
        ("modelnet40", "folder of airplane/airplane_0178.txt"),
        ("kitti", "KITTI's folder training, with velodyne/000008.bin and calib/000008.txt"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=words)
    names = [picture.name for picture in PICTURES]
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", choices=names, help=f"these pictures alone, of {', '.join(names)}"
    )
    arguments = parser.parse_args()
    pictures = [one for one in PICTURES if arguments.only is None or one.name in arguments.only]
    FIGURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gather(pictures, arguments, folder)
        for picture in pictures:
            run = _given(arguments, "runs") / picture.run
            _check(run)
            path = FIGURES / f"{picture.name}.png"
            draw(picture, run, folder / picture.file, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
