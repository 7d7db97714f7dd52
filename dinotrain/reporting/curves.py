"""The curves of a run: which there are, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dinotrain.reporting.charts import Chart, Series
from dinotrain.reporting.quantities import number_label, task_title, unit
from dinotrain.reporting.run_folder import RunFolder
from dinotrain.reporting.task_points import task_points

FEATURE_TERMS = ("cosine", "smooth_l1")


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
    time_unit, divisor = _time_unit(run.seconds or 0.0)
    over_steps = [Series(run.trained, run.points("knn_top1_untrained") + run.points("knn_top1"))]
    times = run.points("knn_top1_untrained", over="time") + run.points("knn_top1", over="time")
    over_time = [Series(run.trained, [(x / divisor, y) for x, y in times])]

    def levels(like: Sequence[Series]) -> list[Series]:
        found = [_level(label, run.latest(key), like) for label, key in run.accuracies[1:]]
        return [line for lines in found for line in lines]

    note = f"Accuracy of the nearest neighbours' vote on the features of the {run.trained}, in percent"
    return [
        Chart("k-NN over steps", over_steps + levels(over_steps), note, markers=True),
        Chart("k-NN over time", over_time + levels(over_time), note, f"time ({time_unit})", markers=True),
        *_tasks(run),
    ]


def _tasks(run: RunFolder) -> list[Chart]:
    """A chart for each task, with a line per data set; a single step is in the table of evaluations alone."""
    lines: dict[tuple[str, str], list[Series]] = {}
    for each in task_points(run):
        if len(each.points) > 1:
            lines.setdefault((each.task, each.key), []).append(Series(each.data or "while training", each.points))
    charts = []
    for (task, key), series in lines.items():
        data = f" on {series[0].label}" if len(series) == 1 and series[0].label != "while training" else ""
        label = f"{number_label(key)} ({unit(key)})" if unit(key) else number_label(key)
        note = f"Of the {run.trained}{data}"
        charts.append(Chart(f"{task_title(task)}: {number_label(key)}", series, note, y_label=label, markers=True))
    return charts


def _losses(run: RunFolder) -> list[Chart]:
    terms = _lines(run, dino_loss="DINO", ibot_loss="iBOT")
    features = {f"{token}_{kind}_loss": f"{token} {kind}" for token in ("cls", "patch") for kind in FEATURE_TERMS}
    labels = {key: label.replace("cls", "CLS").replace("_", " ") for key, label in features.items()}
    return [
        Chart("Total loss", _lines(run, loss="loss"), "The weighted sum of the terms: what is optimised"),
        Chart(
            "DINO and iBOT terms",
            terms + _level("ln K", run.chance, terms),
            "Cross-entropies in nats; a network that is collapsed or untrained sits at ln K",
        ),
        Chart(
            "Feature terms",
            _lines(run, **labels),
            "Distances to the teacher's standardised features; 1 (cosine) says nothing of them, 0 is equality",
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
        Chart("Momentum", _lines(run, momentum="momentum"), "Share of itself that the moving average keeps in a step"),
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


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 600:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)
