"""How commands print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Fits lines to the terminal; into a pipe or a file they go in full length."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Columns side by side, without lines, folded to the width of the terminal; into a pipe, one line per row.

    Args:
        header: of each column; all empty for none.
        rows: as many texts each.
        right: numbers of the columns that are set flush right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for i, title in enumerate(header):
        table.add_column(Text(title), justify="right" if i in right else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    out = console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as lines:
        out.print(table)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()))


def grouped(number: int) -> str:
    """1 234 567."""
    return f"{number:,}".replace(",", " ")
