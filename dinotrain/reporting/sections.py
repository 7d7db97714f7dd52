"""The sections of a report as HTML; each is empty where a run folder has nothing for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dinotrain.reporting.curves import groups
from dinotrain.reporting.elements import amount, chart_card, duration, fact, facts, image, number_bar
from dinotrain.reporting.energy import energy_of_run
from dinotrain.reporting.quantities import number_label, task_title
from dinotrain.reporting.run_folder import RunFolder, is_number, picture_step
from dinotrain.reporting.task_points import task_points

EARLIER_PICTURES = 8
"""Of each kind, evenly spaced; the folder keeps them all."""
LISTED_FILES = 50
LISTED_EVENTS = 40
PICTURE_NOTES = {
    "features": "Top: images. Middle: patch tokens, their first three principal components as red, green and blue. "
    "Bottom: what the CLS token of the last block attends to, mean over heads."
}


def header(run: RunFolder) -> str:
    """Name, state, when and how it was started."""
    total = run.total_steps
    place = f"step {run.step:,} of {total:,}" if isinstance(total, int) else f"step {run.step:,}"
    if run.finished:
        kind, state = "good", "finished"
    elif run.stopped:
        kind, state = "warn", f"interrupted at {place}"
    else:
        kind, state = "warn", f"running or cut off; last record at {place}"
    lines = [run.environment.get("time"), run.environment.get("command")]
    return (
        f'<header><div class="line"><h1>{escape(run.name)}</h1><span class="state {kind}">{state}</span></div>'
        + "".join(f'<p class="soft">{escape(str(line))}</p>' for line in lines if line)
        + "</header>"
    )


def knn(run: RunFolder) -> str:
    """The closing table."""
    found = [(label, run.latest(key)) for label, key in run.accuracies]
    rows = [
        f'<span class="{mark}">{label}</span><div class="bar {mark}"><i style="width:{min(value, 100):.2f}%"></i></div>'
        f'<span class="number {mark}">{value:.1f} %</span>'
        for (label, value), mark in zip(found, ("first", "", "", ""))
        if is_number(value)
    ]
    return f'<section class="card knn"><h3>k-NN accuracy (top 1)</h3>{"".join(rows)}</section>' if rows else ""


def evaluations(run: RunFolder) -> str:
    """The latest headline of each task."""
    rows = []
    for each in task_points(run):
        step, value = each.points[-1]
        about = ", ".join(text for text in (number_label(each.key), each.data, f"step {step:,.0f}") if text)
        name = f"<span>{escape(task_title(each.task))} <em>{escape(about)}</em></span>"
        rows.append(name + number_bar(each.key, value, each.intervals.get(step)))
    return f'<section class="card knn"><h3>Evaluations</h3>{"".join(rows)}</section>' if rows else ""


def tiles(run: RunFolder) -> str:
    """The run in seven numbers."""
    batch, energy = run.setting("optim", "global_batch"), energy_of_run(run)
    speeds, memory = run.values("images_per_second"), run.values("memory_gb")
    cells = [
        ("steps", f"{run.step:,}"),
        ("images seen", f"{run.step * batch:,}" if isinstance(batch, int) else ""),
        ("time", duration(run.seconds) if run.seconds else ""),
        ("images/s, median", f"{statistics.median(speeds):,.1f}" if speeds else ""),
        ("last loss", f"{run.values('loss')[-1]:.4f}" if run.values("loss") else ""),
        ("peak memory", f"{max(memory):.2f} GiB" if memory else ""),
        ("energy, estimated", amount(energy.kwh, "kWh", "Wh") if energy else ""),
    ]
    tiles = [f'<div class="card tile"><b>{value}</b><span>{name}</span></div>' for name, value in cells if value]
    return f'<section class="grid tiles">{"".join(tiles)}</section>'


def warnings(run: RunFolder) -> str:
    """What the run was warned of."""
    items = [
        f"<li><em>step {row.get('step', '?')}</em>{escape(str(row['warning']))}</li>"
        for row in run.rows
        if row.get("warning")
    ]
    items += [
        f"<li>The loss or a gradient was not finite: {escape(path.name)} holds the samples and the last metrics</li>"
        for path in sorted(run.path.glob("nonfinite_step_*.json"))
    ]
    return f'<section class="card warnings"><h3>Warnings</h3><ul>{"".join(items)}</ul></section>' if items else ""


def pictures(run: RunFolder) -> str:
    """Pictures of what the trained network sees: the latest of each kind, earlier ones folded away."""
    parts = []
    for kind, paths in run.pictures.items():
        *earlier, latest = paths
        note = PICTURE_NOTES.get(kind, "")
        parts.append(f'<div class="card picture"><p class="note">{note}</p>{_picture(latest)}{_earlier(earlier)}</div>')
    return f"<section><h2>Pictures</h2>{''.join(parts)}</section>" if parts else ""


def _earlier(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    count = min(len(paths), EARLIER_PICTURES)
    shown = [paths[round(i * (len(paths) - 1) / max(count - 1, 1))] for i in range(count)]
    left = f" ({count} of {len(paths)})" if count < len(paths) else ""
    return f"<details><summary>Earlier{left}</summary>{''.join(map(_picture, shown))}</details>"


def _picture(path: Path) -> str:
    step = picture_step(path)
    title = path.stem if step is None else f"Step {step:,}"
    return f"<h3>{escape(title)}</h3>{image(path)}"


def charts(run: RunFolder) -> str:
    """All curves."""
    parts = []
    for group in groups(run):
        beside = len(group.charts) - 1
        cards = "".join(chart_card(chart, group.title, beside=beside) for chart in group.charts)
        parts.append(f'<section><h2>{group.title}</h2><div class="grid charts">{cards}</div></section>')
    return "\n".join(parts)


def skipped(run: RunFolder) -> str:
    """Images that could not be read."""
    if not run.skipped:
        return ""
    rows = [(name, reason) for name, reason in run.skipped[:LISTED_FILES]]
    rest = len(run.skipped) - len(rows)
    more = f'<p class="note">and {rest:,} more in skipped.txt</p>' if rest else ""
    title = f"Images that could not be read: {len(run.skipped):,}"
    return f'<section><h2>{title}</h2><div class="card">{facts(rows)}{more}</div></section>'


def environment(run: RunFolder) -> str:
    """Machine, packages, energy and what happened to the run."""
    told = run.environment.items()
    rows = [(key.replace("_", " "), fact(value)) for key, value in told if key not in ("time", "command")]
    energy = energy_of_run(run)
    if energy:
        used, carbon = amount(energy.kwh, "kWh", "Wh"), amount(energy.co2_kg, "kg", "g")
        footprint = f"{used}, {carbon} CO2 equivalent: {energy.basis}"
        rows.append(("energy, estimated", footprint))
    teacher = run.results.get("teacher")
    if isinstance(teacher, dict):
        rows.append(("frozen teacher", f"{teacher.get('path')}, content {teacher.get('digest')}"))
    together = run.results.get("students_of_the_job")
    if together:
        rows.append(
            ("students of the job", f"{', '.join(together)}; time, speed, memory and energy are of all together")
        )
    rows += [("restarts", str(run.restarts))] if run.restarts else []
    events = [_event(row) for row in run.rows if row.get("event")]
    earlier = f"{len(events) - LISTED_EVENTS} earlier, " if len(events) > LISTED_EVENTS else ""
    rows += [("events", earlier + ", ".join(events[-LISTED_EVENTS:]))] if events else []
    rows = [(name, text) for name, text in rows if text]
    return f'<section><h2>Environment</h2><div class="card">{facts(rows)}</div></section>' if rows else ""


def config(run: RunFolder) -> str:
    """The resolved configuration."""
    if not run.config_text:
        return ""
    text = f"<details><summary>config.yaml</summary><pre>{escape(run.config_text)}</pre></details>"
    return f'<section><h2>Configuration</h2><div class="card">{text}</div></section>'


def _event(row: Mapping[str, object]) -> str:
    reason = f" ({row['reason']})" if row.get("reason") else ""
    return f"step {row.get('step', '?')}: {row['event']}{reason}"
