"""Charts as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]

COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#06b6d4")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
MAX_POINTS = 400
MAX_NAMED = 6
"""Different x up to which each has its own tick on a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; a dashed one with two points of one height is a level."""

    label: str
    points: Points
    dashed: bool = False

    @property
    def level(self) -> bool:
        return self.dashed and len(self.points) == 2 and self.points[0][1] == self.points[1][1]


@dataclass(frozen=True)
class Chart:
    """One chart: a title, an explanation for the reader, lines."""

    title: str
    series: Sequence[Series]
    note: str = ""
    x_label: str = "step"
    y_label: str = ""
    log: bool = False
    log_x: bool = False
    markers: bool = False


def svg(chart: Chart, name: str) -> str:
    """Draw a chart.

    Args:
        chart: what to draw.
        name: different for every chart of a page, so that the parts' ids are.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif"}
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    with matplotlib.rc_context(style | dict.fromkeys(inks, INK)):
        figure = Figure(figsize=(4.5, 2.5), layout="constrained")
        _draw(figure.add_subplot(), chart)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue().replace(INK, "currentColor")
    # Without its size in points, a drawing is as wide as its place on the page.
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", text[text.index("<svg") :].strip(), count=2)


def _draw(axes: Axes, chart: Chart) -> None:
    colors = iter(COLORS * 2)
    levels = [series for series in chart.series if series.level]
    for rank, series in enumerate(chart.series):
        if series.level:
            axes.plot(*zip(*series.points), color=INK, alpha=0.6, linewidth=1.2, linestyle=(0, (4, 3)))
            (start, y), (end, _) = series.points
            place, side = ((end, y), "right") if series is levels[0] else (((start + end) / 2, y), "center")
            axes.annotate(series.label, place, xytext=(0, 3), textcoords="offset points", ha=side, alpha=0.75)
        else:
            single = {"marker": "o", "markersize": 4} if chart.markers or len(series.points) == 1 else {}
            points = thinned(series.points)
            style: dict[str, Any] = {"linestyle": (0, (4, 3))} if series.dashed else {}
            look = {"color": next(colors), "linewidth": 1.7, "zorder": 3 - rank / 100}
            axes.plot(*zip(*points), label=series.label, **look, **single, **style)
    axes.set_xlabel(chart.x_label, alpha=0.75)
    axes.set_ylabel(chart.y_label, alpha=0.75)
    axes.grid(alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.35)
    axes.tick_params(length=0)
    axes.margins(x=0.02, y=0.12)
    places = sorted({x for series in chart.series for x, _ in series.points})
    if chart.log_x and places[0] > 0:
        axes.set_xscale("log")
        if len(places) <= MAX_NAMED:
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.set_xticks([], minor=True)
    if chart.log and all(y > 0 for series in chart.series for _, y in series.points):
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(style="sci", axis="y", scilimits=(-3, 5), useOffset=False)
    if len(chart.series) - len(levels) > 1:
        axes.legend(frameon=False, handlelength=1.4)


def thinned(points: Points) -> Points:
    """Means over stretches of equally many points, where there are more than can be seen."""
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
