"""KITTI's images: PNG files of the left colour camera."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from pctransformer.datasets.formats.common import FileFormatError

_MAX_PIXELS = 100_000_000  # 80 times what KITTI's cameras take; a small file may claim any size


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header.

    Raises:
        FileFormatError: the file is missing or no PNG.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(path, "there is no such file")
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise FileFormatError(path, "this is not a PNG")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def read_image(path: str | Path) -> np.ndarray:
    """The pixels (height, width, 3) float32 of a PNG: red, green and blue in [0, 1], thrice the same of a grey one.

    Raises:
        FileFormatError: the file is missing, no PNG, broken, or larger than any camera's.
    """
    from matplotlib.image import imread

    path = Path(path)
    width, height = read_image_size(path)
    if width * height > _MAX_PIXELS:
        raise FileFormatError(path, f"the image claims {width} x {height} pixels; at most {_MAX_PIXELS} are read")
    try:
        # what Pillow raises, from within the chunks of a broken file
        pixels = imread(path)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise FileFormatError(path, f"the image is broken: {error}") from None
    pixels = np.asarray(pixels, np.float32)
    if pixels.ndim == 2 or pixels.shape[2] < 3:  # grey, perhaps with alpha
        pixels = np.repeat(pixels.reshape(height, width, -1)[..., :1], 3, axis=2)
    return pixels[..., :3]
