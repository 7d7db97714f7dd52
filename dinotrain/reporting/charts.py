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
LEVEL_DASHES = ((4, 3), (1, 2), (6, 2, 1, 2))
"""By which levels are told apart."""
POWERS = (-3, 5)
"""Of ten, beyond which the numbers of an axis are written with one."""
LETTERS_PER_INCH = 12
"""Of a legend."""
LINE_LETTERS = 5
"""As wide as the line before a name, and the gap after it."""
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


def svg(chart: Chart, name: str, shape: tuple[float, float] = (4.5, 2.5)) -> str:
    """Draw a chart.

    Args:
        chart: what to draw.
        name: different for every chart of a page, so that the parts' ids are.
        shape: width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif"}
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    with matplotlib.rc_context(style | dict.fromkeys(inks, INK)):
        figure = Figure(figsize=shape, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, chart)
        if len(chart.series) > 1:
            greatest = max(abs(y) for series in chart.series for _, y in series.points)
            scaled = not chart.log and not 20 * 10 ** POWERS[0] < greatest < 0.8 * 10 ** POWERS[1]
            _add_legend(axes, shape[0], above=1.8 if scaled else 0.2)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue().replace(INK, "currentColor")
    # Without its size in points, a drawing is as wide as its place on the page.
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", text[text.index("<svg") :].strip(), count=2)


def _draw(axes: Axes, chart: Chart) -> None:
    colors = iter(COLORS * 2)
    dashes = iter(LEVEL_DASHES * 2)
    for rank, series in enumerate(chart.series):
        if series.level:
            look = {"color": INK, "alpha": 0.6, "linewidth": 1.2, "linestyle": (0, next(dashes, (4, 3)))}
            axes.plot(*zip(*series.points), label=series.label, **look)
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
    _set_x_axis(axes, chart)
    if chart.log and all(y > 0 for series in chart.series for _, y in series.points):
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(style="sci", axis="y", scilimits=POWERS, useOffset=False)


def _set_x_axis(axes: Axes, chart: Chart) -> None:
    """Logarithmic where it is to be, and whole numbers where all are whole, as steps are."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    places = sorted({x for series in chart.series for x, _ in series.points})
    whole = all(x == round(x) for x in places)
    if chart.log_x and places[0] > 0:
        axes.set_xscale("log")
        if len(places) <= MAX_NAMED:
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.set_xticks([], minor=True)
            return
    elif whole:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    if whole:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _add_legend(axes: Axes, width: float, above: float) -> None:
    """Above the lines, where it covers none, in as many columns as there is room for.

    Args:
        width: of the figure in inches.
        above: gap to the axes, in heights of a letter: there may be a power of ten.
    """
    longest = max(len(str(label)) for label in axes.get_legend_handles_labels()[1])
    columns = max(1, int(width * LETTERS_PER_INCH / (longest + LINE_LETTERS)))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
        labelspacing=0.2,
        borderaxespad=above,
        fontsize="small",
    )


def thinned(points: Points) -> Points:
    """Means over stretches of equally many points, where there are more than can be seen."""
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
