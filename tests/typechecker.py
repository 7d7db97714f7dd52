"""The run-time type checker of the tests."""

from __future__ import annotations

from collections.abc import Callable

from beartype import BeartypeConf, beartype

# An int will do where a float is asked for (PEP 484).
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """Checks all functions but constructors: those refuse wrong values themselves, in words the tests look at."""
    return function if function.__name__ == "__init__" else _beartype(function)
