"""A matrix as a table of coloured cells, or as a picture where it has too many; readable on light and dark pages."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from dinotrain.evaluation.outcome import Matrix

MOST_CELLS = 40
"""Rows or columns of a table; of more, a picture with a few pixels per cell is drawn."""
MOST_NUMBERS = 26
"""Columns with room for numbers in the cells."""
LONG_NAME = 6
"""Characters from which names of columns stand upright."""
COLOR = (59, 130, 246)
STRONGEST = 0.72
"""Share of the colour at the greatest number, through which both black and white letters can be read."""
PICTURE_WIDTH = 900


def heat_map(matrix: Matrix) -> str:
    """The matrix, with its names."""
    large = max(len(matrix.rows), len(matrix.columns)) > MOST_CELLS
    return _picture(matrix) if large else _table(matrix)


def _strengths(matrix: Matrix) -> np.ndarray:
    """Of the colour, 0..1, from the least to the greatest number; 0 where there is none."""
    values = np.asarray(matrix.values, np.float64)
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    least, greatest = values[known].min(), values[known].max()
    return np.where(known, (values - least) / max(greatest - least, 1e-12), 0)


def _table(matrix: Matrix) -> str:
    numbers = len(matrix.columns) <= MOST_NUMBERS
    upright = max(map(len, matrix.columns)) > LONG_NAME
    names = "".join(f"<th><span>{escape(name)}</span></th>" for name in matrix.columns)
    decimals = _decimals(matrix)
    lines = []
    for down, (name, values, strengths) in enumerate(zip(matrix.rows, matrix.values, _strengths(matrix))):
        cells = "".join(
            _cell(f"{name}, {column}", value, strength, decimals, numbers, (down, across) == matrix.marked)
            for across, (column, value, strength) in enumerate(zip(matrix.columns, values, strengths))
        )
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    kind = f"heat{' upright' * upright}{' small' * (not numbers)}"
    return f'<div class="wide"><table class="{kind}"><tr><th></th>{names}</tr>{"".join(lines)}</table></div>'


def _cell(place: str, value: float, strength: float, decimals: int, numbers: bool, marked: bool) -> str:
    mark = ' class="marked"' if marked else ""
    if not np.isfinite(value):
        return f"<td{mark}></td>"
    text = f"{value:.{decimals}f}"
    color = f"rgba({COLOR[0]},{COLOR[1]},{COLOR[2]},{STRONGEST * strength:.3f})"
    shown = ("&middot;" if value == 0 else text) if numbers else ""
    return f'<td{mark} style="background:{color}" title="{escape(place)}: {text}">{shown}</td>'


def _decimals(matrix: Matrix) -> int:
    """0 where all are whole, as of counts; one where some are large; else three."""
    values = np.asarray(matrix.values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or (values == np.round(values)).all():
        return 0
    return 1 if np.abs(values).max() >= 2 else 3


def _picture(matrix: Matrix) -> str:
    from PIL import Image

    # The root lets rare confusions be seen beside a strong diagonal.
    strengths = np.sqrt(_strengths(matrix))
    pixels = np.empty((*strengths.shape, 4), np.uint8)
    pixels[..., :3] = COLOR
    pixels[..., 3] = np.round(255 * strengths)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    ends = [f"{len(names)} {what}, {names[0]} to {names[-1]}" for what, names in _sides(matrix)]
    caption = escape("; ".join(ends) + "; the colour grows with the root of the number")
    width = max(PICTURE_WIDTH // len(matrix.columns), 1) * len(matrix.columns)
    return (
        f'<img class="map" style="width:{width}px" alt="{escape(matrix.title)}" src="data:image/png;base64,{data}">'
        f'<p class="note">{caption}</p>'
    )


def _sides(matrix: Matrix) -> list[tuple[str, tuple[str, ...]]]:
    return [("rows", matrix.rows), ("columns", matrix.columns)]
