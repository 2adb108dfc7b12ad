"""Which GPU architectures a library was compiled for, read from the file itself (cuobjdump is not everywhere).

    python -m tests.build.cuda_architectures pctransformer/_cuda.so sm_75 sm_90 compute_120

prints what is inside and fails where one that is named is not. sm_* is machine code, compute_* is PTX, from which a
driver makes machine code for later GPUs.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_KINDS = {1: "compute", 2: "sm"}


def architectures(library: Path) -> set[str]:
    """The architectures in a library's fat binaries: one header each, then entries of kind, size and target."""
    data = library.read_bytes()
    found = set()
    position = data.find(_MAGIC)
    while position >= 0:
        header_size, size = struct.unpack_from("<HQ", data, position + 6)
        entry, end = position + header_size, position + header_size + size
        while entry < end:
            kind, entry_header, entry_size = struct.unpack_from("<HxxIQ", data, entry)
            (target,) = struct.unpack_from("<I", data, entry + 28)
            found.add(f"{_KINDS.get(kind, 'unknown')}_{target}")
            entry += entry_header + entry_size
        position = data.find(_MAGIC, end)
    return found


def main() -> None:
    library, *expected = sys.argv[1:]
    found = architectures(Path(library))
    print(f"{library}: {' '.join(sorted(found)) or 'no CUDA code'}")
    if lacking := set(expected) - found:
        sys.exit(f"{library} lacks {' '.join(sorted(lacking))}")


if __name__ == "__main__":
    main()
