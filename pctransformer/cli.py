"""The command line: `pctransformer COMMAND`, where a command is one word or two.

Behind each command are a frozen dataclass, whose fields are its options, and a function that takes it and returns the
exit code. The table below is all that this file knows of them. `pctransformer --help` imports neither torch nor tyro;
a command's own `--help` imports the module of its dataclass, which should therefore do without torch; the function's
module is imported when the command runs. Where options have a field `resume`, and it is given, the others are read on
top of those that the run in that folder was begun with.
"""

from __future__ import annotations

import difflib
import errno
import functools
import importlib
import os
import select
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pctransformer
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo


@dataclass(frozen=True)
class Command:
    """What there is to know of a command without importing it.

    Attributes:
        config: "module:Class", the options.
        run: "module:function", which takes them and returns the exit code.
        summary: one line, without a full stop.
        examples: whole command lines; the first one is the plainest.
    """

    config: str
    run: str
    summary: str
    examples: tuple[str, ...]


COMMANDS = {
    "demo": Command(
        "pctransformer.demo.classification:Config",
        "pctransformer.demo.classification:run",
        "train a transformer on generated shapes in a few minutes, test it, draw figures",
        ("pctransformer demo", "pctransformer demo --out runs/another --seed 1"),
    ),
    "demo operators": Command(
        "pctransformer.demo.operators:Config",
        "pctransformer.demo.operators:run",
        "run the operators on a generated cloud, time them, draw a picture",
        ("pctransformer demo operators", "pctransformer demo operators --out runs/small --points 1000"),
    ),
    "demo detection": Command(
        "pctransformer.demo.detection:Config",
        "pctransformer.demo.detection:run",
        "train a LiDAR detector on simulated streets in less than ten minutes, test it, draw what it finds",
        ("pctransformer demo detection", "pctransformer demo detection --out runs/another --seed 1"),
    ),
    "train classification": Command(
        "pctransformer.training.settings:ClassificationTraining",
        "pctransformer.training.classification:run",
        "train a classifier on generated shapes, ModelNet or your own folders, and test it",
        (
            "pctransformer train classification",
            "pctransformer train classification --data FOLDER --epochs 60 --out runs/first",
            "pctransformer train classification --model patch_mixer_small --model-options mixer=lstm",
            "pctransformer train classification --resume runs/first",
            "pctransformer train classification --model point_mae_small --pretrained runs/pretrained --freeze",
        ),
    ),
    "train part-segmentation": Command(
        "pctransformer.training.settings:PartSegmentationTraining",
        "pctransformer.training.part_segmentation:run",
        "train a model to tell the parts of generated shapes or of ShapeNet's, and test it",
        (
            "pctransformer train part-segmentation",
            "pctransformer train part-segmentation --data FOLDER --num-points 2048 --eval-points 2048 --out runs/parts",
            "pctransformer train part-segmentation --model point_mae_small_seg --pretrained runs/pretrained",
            "pctransformer train part-segmentation --resume runs/parts",
        ),
    ),
    "train semantic-segmentation": Command(
        "pctransformer.training.settings:SemanticSegmentationTraining",
        "pctransformer.training.semantic_segmentation:run",
        "train a model to tell what each point of a room is, on generated rooms or your own scans, and test it",
        (
            "pctransformer train semantic-segmentation",
            "pctransformer train semantic-segmentation --data FOLDER --cell-size 0.02 --out runs/scans",
            "pctransformer train semantic-segmentation --resume runs/scans",
        ),
    ),
    "train detection": Command(
        "pctransformer.training.settings:DetectionTraining",
        "pctransformer.training.detection:run",
        "train a detector on simulated streets, KITTI or your own LiDAR scans with boxes, and test it",
        (
            "pctransformer train detection",
            "pctransformer train detection --data data/kitti --model second --epochs 80 --out runs/second",
            "pctransformer train detection --data generated data/kitti --repeat 1 20",
            "pctransformer train detection --model pointpillars_small --model-options head=center",
            "pctransformer train detection --resume runs/second",
        ),
    ),
    "train pretraining": Command(
        "pctransformer.training.settings:Pretraining",
        "pctransformer.training.pretraining:run",
        "let a model learn from shapes or LiDAR scans without labels, by making up what is hidden of them",
        (
            "pctransformer train pretraining",
            "pctransformer train pretraining --data generated FOLDER --epochs 60 --out runs/pretrained",
            "pctransformer train pretraining --model point_gpt_small_pretraining",
            "pctransformer train pretraining --model pillar_transformer_small_pretraining --data FOLDER",
            "pctransformer train pretraining --resume runs/pretrained",
        ),
    ),
    "evaluate": Command(
        "pctransformer.commands.evaluate:Config",
        "pctransformer.commands.evaluate:run",
        "evaluate a trained model: accuracies, confusions, errors; IoUs of parts; average precisions of a detector",
        (
            "pctransformer evaluate runs/first",
            "pctransformer evaluate runs/first --votes 10",
            "pctransformer evaluate runs/first --data FOLDER --out runs/first-elsewhere",
        ),
    ),
    "evaluate-kitti": Command(
        "pctransformer.commands.evaluate_kitti:Config",
        "pctransformer.commands.evaluate_kitti:run",
        "evaluate detections by KITTI's official rules: 2-D, seen from above, 3-D, orientation",
        (
            "pctransformer evaluate-kitti training/label_2 detections",
            "pctransformer evaluate-kitti training/label_2 detections --frames ImageSets/val.txt --json results.json",
            "pctransformer evaluate-kitti training/label_2 detections --picture curves.png",
        ),
    ),
    "prepare kitti": Command(
        "pctransformer.commands.prepare_kitti:Config",
        "pctransformer.commands.prepare_kitti:run",
        "compute once what training on KITTI needs: infos of its frames, a database of its objects",
        ("pctransformer prepare kitti data/kitti", "pctransformer prepare kitti data/kitti --out prepared"),
    ),
    "prepare street": Command(
        "pctransformer.commands.prepare_street:Config",
        "pctransformer.commands.prepare_street:run",
        "generate streets as a LiDAR on a car sees them, with labels, in KITTI's folders",
        ("pctransformer prepare street data/street", "pctransformer prepare street data/street --frames 4000 --seed 1"),
    ),
    "robustness": Command(
        "pctransformer.commands.robustness:Config",
        "pctransformer.commands.robustness:run",
        "test trained classifiers on corrupted clouds: 7 corruptions in 5 severities, mCE",
        (
            "pctransformer robustness runs/first",
            "pctransformer robustness runs/first runs/second --baseline runs/pointnet2",
            "pctransformer robustness runs/first --data FOLDER --json --out runs/first-corrupted",
        ),
    ),
    "few-shot": Command(
        "pctransformer.commands.few_shot:Config",
        "pctransformer.commands.few_shot:run",
        "say how well a model's features tell classes apart after a handful of labels",
        (
            "pctransformer few-shot runs/pretrained",
            "pctransformer few-shot runs/pretrained --data FOLDER --ways 5 --shots 1 5",
        ),
    ),
    "predict": Command(
        "pctransformer.commands.predict:Config",
        "pctransformer.commands.predict:run",
        "say what class a trained model takes clouds for, what their parts are, or what it finds in LiDAR scans",
        (
            "pctransformer predict chair.ply --model runs/first",
            "pctransformer predict scans/ table.off --model runs/first --top 3 --out runs/scans",
            "pctransformer predict chair.ply --model runs/parts --category chair",
            "pctransformer predict velodyne/000008.bin --model runs/detection --score 0.3",
            "pctransformer predict chair.ply --model runs/first/checkpoints/last.safetensors --json --no-pictures",
        ),
    ),
    "show": Command(
        "pctransformer.commands.show:Config",
        "pctransformer.commands.show:run",
        "show what a trained model looks at: its attention, in layers and rolled out to the points, Grad-CAM, features",
        (
            "pctransformer show chair.ply --model runs/first",
            "pctransformer show chair.ply --model runs/first --method layer --layer attention.3 --head 0 1 --to html",
            "pctransformer show chair.ply --model runs/first --method grad_cam --target sofa",
            "pctransformer show chair.ply --model runs/parts --category chair --query 400",
            "pctransformer show velodyne/000008.bin --model runs/detection --query 2 --to png ply",
        ),
    ),
    "import-weights": Command(
        "pctransformer.commands.import_weights:Config",
        "pctransformer.commands.import_weights:run",
        "make a run of weights that others have trained, so that predict, show and all other commands take them",
        (
            "pctransformer import-weights best_model.pt --model point_transformer --classes names.txt --normals",
            "pctransformer import-weights pointpillar_7728.pth --model pointpillars --out runs/pointpillars",
        ),
    ),
    "compare-mixers": Command(
        "pctransformer.commands.compare_mixers:Config",
        "pctransformer.commands.compare_mixers:run",
        "train one backbone with each token mixer and compare them: accuracy, cost, whether attention is necessary",
        (
            "pctransformer compare-mixers --data FOLDER --jobs 2",
            "pctransformer compare-mixers --mixers self_attention lstm mean_pool --seeds 0 1 --epochs 5",
            "pctransformer compare-mixers --resume runs/mixers-modelnet10",
        ),
    ),
    "compare-grid-mixers": Command(
        "pctransformer.commands.compare_grid_mixers:Config",
        "pctransformer.commands.compare_grid_mixers:run",
        "train one LiDAR detector with each grid mixer and compare them: AP, cost, whether attention is necessary",
        (
            "pctransformer compare-grid-mixers --seeds 0",
            "pctransformer compare-grid-mixers --data data/kitti --mixers smlp window_attention identity --epochs 20",
            "pctransformer compare-grid-mixers --resume runs/grid-mixers-generated",
        ),
    ),
    "models": Command(
        "pctransformer.commands.models:Config",
        "pctransformer.commands.models:run",
        "list the models that there are",
        ("pctransformer models", "pctransformer models pct --json"),
    ),
    "info": Command(
        "pctransformer.commands.info:Config",
        "pctransformer.commands.info:run",
        "say what a model or a checkpoint is made of, and what it costs",
        ("pctransformer info pct", "pctransformer info runs/first --num-points 2048", "pctransformer info pct --json"),
    ),
    "doctor": Command(
        "pctransformer.commands.doctor:Config",
        "pctransformer.commands.doctor:run",
        "say what is installed, what is missing, what that costs and how to mend it",
        ("pctransformer doctor", "pctransformer doctor --imports --json"),
    ),
}
"""A command that is also the first word of others, as `demo` may be of `demo operators`, takes no bare words itself."""

_HELP = ("-h", "--help", "help")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of disks
_FORBIDDEN = (errno.EACCES, errno.EROFS)
_METAVARS = {Path: "PATH", str: "STR", int: "INT", float: "FLOAT"}  # as tyro has them


def _help(first: str | None = None) -> str:
    """The text of `--help`: of all commands, or of those that begin with a word."""
    commands = {name: command for name, command in COMMANDS.items() if first in (None, name.split()[0])}
    width = max(map(len, commands))
    start = "usage: pctransformer [--help] [--version] [--debug]" if first is None else f"usage: pctransformer {first}"
    return "\n".join(
        [
            f"{start} COMMAND [options]",
            "",
            "Transformers for point clouds.",
            "",
            "commands:",
            *(f"  {name:{width}}  {command.summary}" for name, command in commands.items()),
            "",
            "examples:",
            *(f"  {command.examples[0]}" for command in commands.values()),
            "",
            "`pctransformer COMMAND --help` lists a command's options. --debug shows the traceback of an error.",
        ]
    )


def _second_words(first: str) -> list[str]:
    return [words[1] for words in map(str.split, COMMANDS) if words[0] == first and len(words) > 1]


def _find(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command that the arguments begin with, the longest that there is, and the other arguments."""
    first, *rest = arguments
    seconds = _second_words(first)
    if rest and rest[0] in seconds:
        return f"{first} {rest[0]}", rest[1:]
    bare = rest and not rest[0].startswith("-")
    if first in COMMANDS and not (seconds and bare):
        return first, rest
    if not seconds:
        raise UserError(f"no {'option' if first.startswith('-') else 'command'} {first!r}; {_similar(first, rest)}")
    names = ", ".join(f"`{first} {second}`" for second in seconds)
    if not bare:
        raise UserError(f"{first} what? there is {names}")
    close = difflib.get_close_matches(rest[0], seconds, n=1)
    raise UserError(
        f"no command {f'{first} {rest[0]}'!r}; "
        + (f"did you mean `pctransformer {first} {close[0]}`?" if close else f"there is {names}")
    )


def _similar(first: str, rest: Sequence[str]) -> str:
    """What somebody may have meant whose first word begins no command: it is misspelt, or it is a second word."""
    firsts = dict.fromkeys(name.split()[0] for name in COMMANDS)
    meant = [name for name in COMMANDS if difflib.get_close_matches(first, name.split()[1:])]
    for word in difflib.get_close_matches(first, firsts, n=1):
        seconds = _second_words(word)
        close = difflib.get_close_matches(rest[0], seconds, n=1) if rest else []
        meant = [f"{word} {second}" for second in close or seconds] if close or word not in COMMANDS else [word]
    if meant:
        return f"did you mean {' or '.join(f'`pctransformer {name}`' for name in meant)}?"
    return f"there are: {', '.join(COMMANDS)}"


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _run(name: str, arguments: Sequence[str]) -> int:
    import tyro

    command = COMMANDS[name]
    lines = [f"{command.summary[0].upper()}{command.summary[1:]}.", "", "examples:"]
    lines += [f"  {example}" for example in command.examples]
    lines += [f"\nsee also: pctransformer {name} {second}" for second in _second_words(name)]
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_optional)
    with registry:
        read = functools.partial(
            tyro.cli,
            _load(command.config),
            prog=f"pctransformer {name}",
            description="\n".join(lines),
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),  # settings may be nested; their flags are flat
        )
        config = read()
        if getattr(config, "resume", None) is not None:  # what was not given is not as by default, but as in the run
            kept_settings = _load("pctransformer.training.resuming:kept_settings")
            config = read(default=kept_settings(type(config), config.resume))
    return _load(command.run)(config)


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An option that may be left out, `int | None`, wants an INT, not what tyro would say: {None}|INT."""
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = [kind for kind in typing.get_args(info.type) if kind is not type(None)]
    if len(kinds) != 1 or kinds[0] not in _METAVARS or type(None) not in typing.get_args(info.type):
        return None
    (kind,) = kinds
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_METAVARS[kind],
        instance_from_str=lambda words: kind(words[0]),
        is_instance=lambda value: value is None or isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _answer(arguments: list[str]) -> int:
    """Help, the version, or a command."""
    if not arguments or arguments[0] in _HELP:
        print(_help())
        return 0
    if len(arguments) > 1 and arguments[1] in _HELP and arguments[0] not in COMMANDS and _second_words(arguments[0]):
        print(_help(arguments[0]))
        return 0
    if arguments[0] == "--version":
        print(f"pctransformer {pctransformer.__version__}")
        return 0
    return _run(*_find(arguments))


def _reader_has_gone() -> bool:
    """Whether nobody reads any more what is printed, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 the command's own "no", 2 the user's fault."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in rest
    if debug:
        rest.remove("--debug")
    try:
        code = _answer(rest)
        sys.stdout.flush()  # so that a reader who has gone is noticed here and not at the interpreter's end
        return code
    except UserError as error:
        if debug:
            raise
        print(f"pctransformer: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if debug or not error.name or error.name.startswith("pctransformer"):
            raise
        print(f"pctransformer: {error.name} is not installed; pip install {error.name}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pctransformer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter flushes what is left
        return 141
    except OSError as error:
        if debug or error.errno not in _FULL + _FORBIDDEN:
            raise
        where = f"{error.filename}: " if error.filename else ""
        room = "; make room; a training goes on with --resume, what it saved before is whole"
        print(
            f"pctransformer: {where}{error.strerror}{room if error.errno in _FULL else ''}",
            file=sys.stderr,
        )
        return 1
