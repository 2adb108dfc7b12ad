"""How scores write a number that may be missing: NaN in computation, None in JSON, a dash in tables."""

from __future__ import annotations

import math


def or_none(value: float) -> float | None:
    """The number, or None for NaN, which JSON lacks."""
    return None if math.isnan(value) else value


def percent(share: float) -> str:
    """0.1234 as 12.3, NaN as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
