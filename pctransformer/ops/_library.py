"""Finds and loads the compiled operators, and registers what torch needs to know about each of them.

An operator is the same for the rest of the package whether it was compiled or not: it lives at
`torch.ops.pctransformer.<name>`, has the schema of `csrc/library.cpp`, and the fake kernel, gradient and autocast
rule that its file in `pctransformer/ops/` registers. Where a compiled library is missing, the plain-torch function of
the same name in `pctransformer/ops/reference/` is registered in its place: slower, never different.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pctransformer
from pctransformer.ops import reference

NAMESPACE = "pctransformer"
_VALUE_MARK = "[value] "  # csrc/cpu/values.h marks errors about values with it


def _load(name: str) -> str | None:
    """Load `<name>.so`; return None when it is loaded, else the reason why it is not."""
    # A wheel has one folder. An editable install has two, its own and the sources, where `make extension` builds: what
    # was built last counts.
    candidates = [Path(folder) / f"{name}.so" for folder in pctransformer.__path__]
    built = [path for path in candidates if path.exists()]
    if not built:
        return f"{name}.so was not built"
    newest = max(built, key=lambda path: path.stat().st_mtime)
    try:
        torch.ops.load_library(str(newest))
    except OSError as error:
        return f"{newest} cannot be loaded: {error.__cause__ or error}"
    return None


def _load_all() -> dict[str, str | None]:
    """Load what there is; return per device None, or the reason why its compiled operators are missing."""
    if os.environ.get("PCTRANSFORMER_REFERENCE") == "1":
        missing: dict[str, str | None] = {"cpu": "PCTRANSFORMER_REFERENCE=1 is set"}
    else:
        missing = {"cpu": _load("_cpu")}
    if torch.version.cuda is not None:
        missing["cuda"] = missing["cpu"] or _load("_cuda")
    return missing


missing: dict[str, str | None] = _load_all()
"""Devices this torch knows ("cpu", "cuda"): None where compiled operators are loaded, else why they are not."""

_absent = [name for name in reference.OPERATORS if not hasattr(getattr(torch.ops, NAMESPACE), name)]

lacking: list[str] = _absent if missing["cpu"] is None else []
"""Operators that the compiled library does not have, because it was built before they were written."""

_kept_alive: list[torch.library.Library] = []


def _register_references() -> None:
    if _absent:
        library = torch.library.Library(NAMESPACE, "FRAGMENT" if missing["cpu"] is None else "DEF")
        for name in _absent:
            function = reference.OPERATORS[name]
            library.define(name + torch.library.infer_schema(function, mutates_args=()))
            library.impl(name, function, "CompositeExplicitAutograd")
        _kept_alive.append(library)
    if missing["cpu"] is None and missing.get("cuda") is not None:
        library = torch.library.Library(NAMESPACE, "IMPL", "CUDA")
        for name, function in reference.OPERATORS.items():
            library.impl(name, function)
        _kept_alive.append(library)
    if lacking:
        warnings.warn(
            f"The compiled operators of pctransformer are older than its sources: {', '.join(lacking)} run in slow"
            " plain torch. Build them anew with `make extension` or `pip install .`",
            stacklevel=2,
        )
    reasons = {device: reason for device, reason in missing.items() if reason is not None}
    if reasons and os.environ.get("PCTRANSFORMER_REFERENCE") != "1":
        device, reason = next(iter(reasons.items()))
        warnings.warn(
            f"pctransformer runs on its slow plain-torch operators on {device}: {reason}. "
            "`pctransformer doctor` tells what to install.",
            stacklevel=2,
        )


_register_references()


def operator(name: str) -> Any:
    """The registered operator `torch.ops.pctransformer.<name>`."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def register(
    name: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    autocast: bool = True,
) -> Any:
    """Tell torch what it needs to know about operator `name`, and return the operator.

    Args:
        name: the operator, as in `csrc/library.cpp`.
        fake: shapes and dtypes of the results from those of the arguments.
        backward: gradient formula, with `setup_context` saving what it needs; None where there is no gradient.
        setup_context: see `torch.library.register_autograd`.
        autocast: whether half-precision arguments become float32 under autocast, as coordinates and sums need.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context)
    if autocast:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(qualified, device, torch.float32)
    return operator(name)


def call(op: Any, *args: Any) -> Any:
    """Call an operator; what it says about values comes as ValueError (compiled kernels only raise RuntimeError)."""
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except RuntimeError as error:
        _, mark, text = str(error).partition(_VALUE_MARK)
        if mark:
            raise ValueError(text.partition("\n")[0]) from None
        raise
