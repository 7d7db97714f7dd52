"""Pieces of HTML and of text that several sections are made of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from dinotrain.reporting.charts import Chart, svg
from dinotrain.reporting.quantities import interval_text, number_text, unit

SHAPES = ((12.0, 3.2), (6.5, 2.9), (4.5, 2.5))
"""Of a chart, by the number of cards beside it: inches, at the same size of letters."""


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and texts."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f"<table>{cells}</table>"


def image(path: Path) -> str:
    """A picture within the page; says so where its file can't be read."""
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return f'<p class="note">{escape(path.name)} is missing</p>'
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'


def chart_card(chart: Chart, place: str, *, beside: int = 2) -> str:
    """A chart with its title and explanation, as wide as suits the number of cards beside it.

    Args:
        place: tells it from others of the page.
    """
    return (
        f'<div class="card chart"><h3>{escape(chart.title)}</h3><p class="note">{escape(chart.note)}</p>'
        f"{svg(chart, f'{place} {chart.title}', SHAPES[min(beside, 2)])}</div>"
    )


def number_bar(key: str, value: float, between: tuple[float, float] | None) -> str:
    """A bar for a number in percent, with its interval as a band, and the number in words beside it."""
    bar, brackets = "<div></div>", ""
    if unit(key) == "%":
        band = ""
        if between is not None:
            low, high = max(between[0], 0), min(between[1], 100)
            band = f'<s style="left:{low:.2f}%;width:{max(high - low, 0.3):.2f}%"></s>'
        bar = f'<div class="bar first"><i style="width:{min(max(value, 0), 100):.2f}%"></i>{band}</div>'
    if between is not None:
        brackets = f" <em>[{interval_text(key, *between)}]</em>"
    return f'{bar}<span class="number"><b>{number_text(key, value)}</b>{brackets}</span>'


def fact(value: Any) -> str:
    """A value of a JSON file as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        simple = not any(isinstance(item, Mapping | list | tuple) for item in value)
        return (", " if simple else "; ").join(map(fact, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def amount(value: float, unit: str, thousandth: str) -> str:
    """Three significant digits, in the unit that suits."""
    if value < 1:
        value, unit = 1000 * value, thousandth
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
