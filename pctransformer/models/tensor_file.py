"""The package's own files of tensors: safetensors with a JSON header and a checksum. Reading one never runs code.

safetensors does not notice a flipped bit, and refuses tensors that share memory. So the header holds the sha256 of all
names, shapes and bytes, and tensors that are one and the same are stored once, with the other names in the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pctransformer.atomic import replace_file
from pctransformer.errors import UserError

_HEADER = "pctransformer"
_FORMAT = 1


class DamagedFileError(UserError, ValueError):
    """A file that is cut off, changed, or something else than its name says."""


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is to be known about them, as a whole or not at all.

    Args:
        path: a `.safetensors` file; other programs can read it too.
        tensors: by name, on any device.
        about: plain JSON values.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            kept[name] = tensor.detach().cpu().contiguous()
    header = {"format": _FORMAT, "sha256": _digest(kept), "aliases": aliases, "about": about}
    # views of one storage (a slice of a larger tensor) are no aliases, but safetensors wants memory of their own
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept.values()}
    if len(storages) < len(kept):
        kept = {name: tensor.clone() for name, tensor in kept.items()}
    replace_file(path, save(kept, {_HEADER: json.dumps(header)}))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors by name, on CPU, and what is said about them; `{}` for safetensors that others have written.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is cut off, its bytes have changed, or a later version has written it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a readable safetensors file: {error}") from error
    if _HEADER not in metadata:
        return tensors, {}
    try:
        header = json.loads(metadata[_HEADER])
        version, digest, aliases, about = (header[key] for key in ("format", "sha256", "aliases", "about"))
        if version != _FORMAT:
            raise DamagedFileError(f"{path} has format {version}, this version reads {_FORMAT}; install a newer one")
        whole = {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"the header of {path} is damaged: {type(error).__name__} {error}") from error
    if _digest(tensors) != digest:
        raise DamagedFileError(f"{path} has changed since it was written (its sha256 differs); take another copy")
    return whole, about


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
