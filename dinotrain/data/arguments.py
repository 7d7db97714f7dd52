"""Numbers given to constructors, checked: each function returns its value or raises `ValueError` with one line."""

from __future__ import annotations

import math

import numpy as np


def whole(name: str, value: object, least: int, greatest: float = math.inf) -> int:
    """A whole number in least..greatest."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= greatest:
        raise ValueError(f"{name}: got {value!r}, must be a whole number {_bounds(least, greatest)}")
    return int(value)


def number(name: str, value: object, least: float, greatest: float = math.inf) -> float:
    """A finite number in least..greatest."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value <= greatest
        or math.isinf(value)
    ):
        raise ValueError(f"{name}: got {value!r}, must be a number {_bounds(least, greatest)}")
    return float(value)


def share(name: str, value: object) -> float:
    """A number in 0..1."""
    return number(name, value, 0, 1)


def interval(name: str, value: object, greatest: float = math.inf) -> tuple[float, float]:
    """Two numbers with 0 < first <= second <= greatest."""
    try:
        low, high = value  # pyright: ignore[reportGeneralTypeIssues]
        if not 0 < low <= high <= greatest or math.isinf(high):
            raise ValueError
        return float(low), float(high)
    except (TypeError, ValueError):
        limit = "" if greatest == math.inf else f" <= {greatest:g}"
        raise ValueError(f"{name}: got {value}, must be two numbers with 0 < first <= second{limit}") from None


def _bounds(least: float, greatest: float) -> str:
    return f"at least {least}" if greatest == math.inf else f"in {least}..{greatest}"
