"""The command line: `pctransformer COMMAND`.

Each command is a module with a frozen dataclass `Config`, whose fields are its options, and a function `run(Config)`
that returns the exit code. The table below is all that this file knows of them, and a command's module is imported when
it is called: `pctransformer --help` imports neither torch nor tyro.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pctransformer
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Command:
    module: str
    summary: str
    examples: tuple[str, ...]


COMMANDS = {
    "demo": Command(
        "pctransformer.demo",
        "run the operators on a generated cloud, time them, draw a picture",
        ("pctransformer demo", "pctransformer demo --out runs/small --points 1000"),
    ),
    "doctor": Command(
        "pctransformer.doctor",
        "say what is installed, what is missing, what that costs and how to mend it",
        ("pctransformer doctor", "pctransformer doctor --imports --json"),
    ),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: pctransformer [--help] [--version] [--debug] COMMAND [options]",
            "",
            "Transformers for point clouds.",
            "",
            "commands:",
            *(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()),
            "",
            "examples:",
            *(f"  {command.examples[0]}" for command in COMMANDS.values()),
            "",
            "`pctransformer COMMAND --help` lists a command's options. --debug shows the traceback of an error.",
        ]
    )


def _find(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `pctransformer {close[0]}`?" if close else f"there are: {', '.join(COMMANDS)}"
    what = "option" if name.startswith("-") else "command"
    raise UserError(f"no {what} {name!r}; {hint}")


def _run(name: str, arguments: Sequence[str]) -> int:
    command = _find(name)
    import tyro

    module = importlib.import_module(command.module)
    description = f"{command.summary[0].upper()}{command.summary[1:]}.\n\nexamples:\n  " + "\n  ".join(command.examples)
    config = tyro.cli(module.Config, prog=f"pctransformer {name}", description=description, args=arguments)
    return module.run(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 the command's own "no", 2 the user's fault."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in rest
    if debug:
        rest.remove("--debug")
    if not rest or rest[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if rest[0] == "--version":
        print(f"pctransformer {pctransformer.__version__}")
        return 0
    try:
        return _run(rest[0], rest[1:])
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
