"""What a task has to say of a backbone: numbers, how they came about, and what is worth looking at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """What is needed to draw the test images anew (bootstrap).

    Args:
        kind: how the headline is made of them, a key of `dinotrain.evaluation.bootstrap.STATISTICS`.
        rows: [m] which images of the test split these are; those that could not be read are missing.
        arrays: each with m rows.
    """

    kind: str
    rows: np.ndarray
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; a dashed one is a level, with two points."""

    label: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one quantity."""

    title: str
    series: tuple[Series, ...]
    note: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Numbers in rows and columns, shown as colours; `marked` is the row and column of one that stands out."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    note: str = ""
    unit: str = ""
    marked: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image to look at; `name` is that of its file."""

    name: str
    title: str
    image: UInt8[np.ndarray, "H W 3"]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one task.

    Args:
        numbers: the first is the headline; shares in percent, depths in metres.
        protocol: all that decides the numbers, in types that JSON has.
        per_image: None where images can't be drawn anew.
        notes: what the user is told.
    """

    numbers: dict[str, float]
    protocol: dict[str, Any]
    per_image: PerImage | None = None
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = field(default=())
