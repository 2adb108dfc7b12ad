"""What goes wrong by the user's doing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A fault that the user can mend: a file that is not there, a folder in the way, a name misspelt.

    The message says what happened, what was expected, and how to mend it. The command line prints it without a
    traceback and exits with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name ends with: names like it, or all there are."""
    known = sorted(known)
    spelled = {_plain(one): one for one in known}
    similar = [spelled[one] for one in difflib.get_close_matches(_plain(name), spelled, n=3)]
    return f"did you mean {' or '.join(map(repr, similar))}?" if similar else f"there are {', '.join(known)}"


def _plain(name: str) -> str:
    """A name without what people spell differently: PointTransformerV3, point-transformer-v3."""
    return "".join(filter(str.isalnum, name.lower()))
