"""Curves of a run as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinotrain.reporting.run_folder import Points, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#06b6d4")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart: a title, an explanation for the reader, lines."""

    title: str
    series: Sequence[Series]
    note: str = ""
    x_label: str = "step"
    log: bool = False
    markers: bool = False


@dataclass(frozen=True)
class Group:
    """Charts under one heading."""

    title: str
    charts: Sequence[Chart]


def groups(run: RunFolder) -> list[Group]:
    """All charts that there is anything to draw for."""
    found = (
        Group("Evaluation", _evaluation(run)),
        Group("Loss", _losses(run)),
        Group("Health", _health(run)),
        Group("Optimisation", _optimisation(run)),
        Group("Speed", _speed(run)),
    )
    drawn = [Group(group.title, [chart for chart in group.charts if _has_points(chart)]) for group in found]
    return [group for group in drawn if group.charts]


def _has_points(chart: Chart) -> bool:
    return any(series.points and not series.dashed for series in chart.series)


def _lines(run: RunFolder, **keys: str) -> list[Series]:
    """Lines by key of the rows, with their labels; those without points are left out."""
    found = [Series(label, run.points(key)) for key, label in keys.items()]
    return [series for series in found if series.points]


def _level(label: str, value: float | None, like: Sequence[Series]) -> list[Series]:
    """A dashed line at a value, as long as other lines are."""
    xs = [x for series in like for x, _ in series.points]
    return [Series(label, [(min(xs), value), (max(xs), value)], dashed=True)] if xs and value is not None else []


def _evaluation(run: RunFolder) -> list[Chart]:
    unit, divisor = _time_unit(run.seconds or 0.0)
    over_steps = [Series("trained teacher", run.points("knn_top1_untrained") + run.points("knn_top1"))]
    times = run.points("knn_top1_untrained", over="time") + run.points("knn_top1", over="time")
    over_time = [Series("trained teacher", [(x / divisor, y) for x, y in times])]

    def levels(like: Sequence[Series]) -> list[Series]:
        untrained = _level("same network, untrained", run.latest("knn_top1_untrained"), like)
        return untrained + _level("raw pixels", run.latest("knn_top1_pixels"), like)

    note = "Accuracy of the nearest neighbours' vote on the teacher's features, in percent"
    return [
        Chart("k-NN over steps", over_steps + levels(over_steps), note, markers=True),
        Chart("k-NN over time", over_time + levels(over_time), note, f"time ({unit})", markers=True),
    ]


def _losses(run: RunFolder) -> list[Chart]:
    terms = _lines(run, dino_loss="DINO", ibot_loss="iBOT")
    return [
        Chart("Total loss", _lines(run, loss="loss"), "The weighted sum of the terms: what is optimised"),
        Chart(
            "DINO and iBOT terms",
            terms + _level("ln K", run.chance, terms),
            "Cross-entropies in nats; a network that is collapsed or untrained sits at ln K",
        ),
        Chart("KoLeo term", _lines(run, koleo_loss="KoLeo"), "Lower when features lie further apart; can be negative"),
    ]


def _health(run: RunFolder) -> list[Chart]:
    entropies = _lines(run, teacher_entropy="teacher's targets", student_entropy="student")
    return [
        Chart(
            "Entropy",
            entropies + _level("ln K", run.chance, entropies),
            "In nats; targets at 0 have collapsed to one prototype, at ln K they say nothing",
        ),
        Chart(
            "KL(teacher || student)",
            _lines(run, teacher_student_kl="KL"),
            "What the student has still to learn, in nats",
        ),
        Chart(
            "Effective rank",
            _lines(run, effective_rank="rank"),
            "Dimensions that the CLS features vary in, at most the batch less one; a few only mean collapse",
        ),
        Chart(
            "Prototypes used",
            _lines(run, prototypes_used="share"),
            "Share of the prototypes a batch could use that are some image's most probable one",
        ),
        Chart(
            "Feature standard deviation",
            _lines(run, feature_std="std"),
            "1 when features are spread evenly, 0 when all are the same",
        ),
        Chart(
            "Nearest neighbour distance",
            _lines(run, nearest_distance="distance"),
            "Mean over a batch, between normalised features",
        ),
    ]


def _optimisation(run: RunFolder) -> list[Chart]:
    norms = dict.fromkeys(key for row in run.rows for key in row if key.startswith("grad_norm_"))
    labels = {key: key.removeprefix("grad_norm_").replace("_", " ") for key in norms}
    return [
        Chart("Learning rate", _lines(run, lr="all layers", last_layer_lr="last layer of the heads")),
        Chart("Gradient norms", _lines(run, **labels), "Before clipping", log=True),
        Chart("Weight decay", _lines(run, weight_decay="weight decay")),
        Chart("Momentum", _lines(run, momentum="momentum"), "Share of itself that the teacher keeps in a step"),
        Chart("Teacher temperature", _lines(run, teacher_temperature="temperature")),
        Chart("Loss scale", _lines(run, loss_scale="scale"), "Of fp16; halved whenever a gradient overflows", log=True),
    ]


def _speed(run: RunFolder) -> list[Chart]:
    wait = [Series("waiting", [(x, 100 * y) for x, y in run.points("data_wait")])]
    return [
        Chart("Throughput", _lines(run, images_per_second="images/s"), "Images per second, over all processes"),
        Chart("Waiting for data", wait, "Share of the time, in percent; above 30 the data pipeline is the bottleneck"),
        Chart("Memory", _lines(run, memory_gb="peak"), "Most memory used so far by one process, in GiB"),
    ]


def svg(chart: Chart, name: str) -> str:
    """Draw a chart.

    Args:
        chart: what to draw.
        name: different for every chart of a page, so that the parts' ids are.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif"}
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    with matplotlib.rc_context(style | dict.fromkeys(inks, INK)):
        figure = Figure(figsize=(4.5, 2.5), layout="constrained")
        _draw(figure.add_subplot(), chart)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK, "currentColor")
    text = text[text.index("<svg") :].strip()
    return re.sub(
        r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"|(<svg[^>]*?) width="[^"]*"', r"\1\2\3", text, count=1
    )


def _draw(axes: Axes, chart: Chart) -> None:
    colors = iter(COLORS * 2)
    for rank, series in enumerate(chart.series):
        if series.dashed:
            axes.plot(*zip(*series.points), color=INK, alpha=0.6, linewidth=1.2, linestyle=(0, (4, 3)))
            offset = {"xytext": (-2, 3), "textcoords": "offset points"}
            axes.annotate(series.label, series.points[-1], ha="right", alpha=0.75, **offset)
        else:
            single = {"marker": "o", "markersize": 4} if chart.markers or len(series.points) == 1 else {}
            points = thinned(series.points)
            axes.plot(
                *zip(*points), color=next(colors), linewidth=1.7, label=series.label, zorder=3 - rank / 100, **single
            )
    axes.set_xlabel(chart.x_label, alpha=0.75)
    axes.grid(alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.35)
    axes.tick_params(length=0)
    axes.margins(x=0.02, y=0.12)
    if chart.log and all(y > 0 for series in chart.series for _, y in series.points):
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(style="sci", axis="y", scilimits=(-3, 5), useOffset=False)
    if sum(not series.dashed for series in chart.series) > 1:
        axes.legend(frameon=False, handlelength=1.4)


def thinned(points: Points) -> Points:
    """Means over stretches of equally many points, where there are more than can be seen."""
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[start:end] for start, end in zip(edges, edges[1:])]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 600:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)
