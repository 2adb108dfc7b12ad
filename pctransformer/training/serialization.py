"""How settings become JSON and the words of a command line, and are made of them again; and how two differ.

Settings are dataclasses, perhaps nested; their flags on a command line are flat.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def to_json(settings: Any) -> dict[str, Any]:
    """Plain JSON values, nested as the dataclasses are."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(settings))


def from_json(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """The settings again. Fields that an older version did not write get their default.

    Raises:
        ValueError: there is a field that this version does not know.
    """
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := set(values) - fields:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}; was it written by a later version?")
    hints = typing.get_type_hints(kind)
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_json(hints[name], value)
        elif value is not None and Path in typing.get_args(hints[name]):
            value = Path(value)
        elif typing.get_origin(hints[name]) is tuple:
            value = tuple(value)
        made[name] = value
    return kind(**made)


# ---- as words --------------------------------------------------------------------------------------------------------
def to_arguments(settings: Any, default: Any = None) -> list[str]:
    """The words of a command line that gives these settings: flags and values of all that is not as by default.

    Args:
        settings: of a dataclass that has a default for each field.
        default: what is left out; None: a new one.
    """
    default = type(settings)() if default is None else default
    words: list[str] = []
    for f in dataclasses.fields(settings):
        value, usual = getattr(settings, f.name), getattr(default, f.name)
        name = f.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += to_arguments(value, usual)
        elif value == usual:
            continue
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, Mapping):
            words += [f"--{name}", *write_options(value)]
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """{"mixer": "lstm", "depth": 4} from "mixer=lstm" and "depth=4": values are JSON, and text if they are not.

    Raises:
        ValueError: a word has no "=", or a name is there twice.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise ValueError(f"{word!r} is not of the form name=value")
        if name in options:
            raise ValueError(f"{name} is given twice")
        options[name] = _json_or_text(value)
    return options


def write_options(options: Mapping[str, Any]) -> list[str]:
    """The words that `parse_options` makes these options of."""
    return [
        f"{name}={value if isinstance(value, str) and _json_or_text(value) == value else json.dumps(value)}"
        for name, value in options.items()
    ]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# ---- compared --------------------------------------------------------------------------------------------------------
def differences(given: Any, kept: Any) -> dict[str, tuple[Any, Any]]:
    """Fields in which two settings of one kind differ, under their own names: name -> (given, kept)."""
    found: dict[str, tuple[Any, Any]] = {}
    for f in dataclasses.fields(given):
        ours, theirs = getattr(given, f.name), getattr(kept, f.name)
        if dataclasses.is_dataclass(ours):
            found |= differences(ours, theirs)
        elif ours != theirs:
            found[f.name] = (ours, theirs)
    return found
