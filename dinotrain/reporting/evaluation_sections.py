"""The sections of the page on an evaluation as HTML; each is empty where its folder has nothing for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from dinotrain.evaluation.outcome import Matrix, Table
from dinotrain.reporting.elements import chart_card, duration, fact, facts, image, number_bar
from dinotrain.reporting.heat_map import heat_map
from dinotrain.reporting.quantities import figures, interval_text, number_label, task_title, unit
from dinotrain.reporting.results_folder import PictureFile, ResultsFolder, TaskResult

SHOWN_ROWS = 20
"""Of a table; the rest is folded away."""
SHOWN_NUMBERS = 8
_NUMBER = re.compile(r"[-+]?[\d.,]+\s*(%|m|px|s)?|-|")


def header(found: ResultsFolder) -> str:
    """Name, when and how it was started."""
    lines = [found.results.get("time"), found.results.get("command")]
    state = "" if found.tasks else '<span class="state warn">no task is finished</span>'
    return (
        f'<header><div class="line"><h1>{escape(found.name)}</h1>{state}</div>'
        + "".join(f'<p class="soft">{escape(str(line))}</p>' for line in lines if line)
        + "</header>"
    )


def headlines(found: ResultsFolder) -> str:
    """The headline of each task, and how sure it is."""
    lines = [_headline(task, task.headline) for task in found.tasks if task.headline is not None]
    if not lines:
        return ""
    sure = [task for task in found.tasks if task.estimate is not None and task.estimate.key == task.headline]
    what = "Bands and brackets" if any(unit(task.headline or "") == "%" for task in sure) else "Brackets"
    note = f'<p class="note">{what}: 95 % interval over the choice of test images</p>' if sure else ""
    return f'<section class="card knn"><h3>Results</h3>{"".join(lines)}{note}</section>'


def _headline(task: TaskResult, key: str) -> str:
    value, estimate = task.numbers[key], task.estimate
    sure = estimate if estimate is not None and estimate.key == key else None
    between = (sure.low, sure.high) if sure is not None else None
    name = f'<a href="#{escape(task.name)}">{escape(task_title(task.name))}</a> <em>{escape(number_label(key))}</em>'
    return f"<span>{name}</span>{number_bar(key, value, between)}"


def subject(found: ResultsFolder) -> str:
    """What was evaluated, on what."""
    weights = found.weights
    architecture = weights.get("architecture")
    rows = [
        ("weights", str(weights.get("path") or "")),
        ("kind", str(weights.get("layout") or "")),
        ("step", f"{found.step:,}" if found.step is not None else ""),
        ("network", _network(architecture) if isinstance(architecture, dict) else fact(architecture)),
        *[(f"{split} data", _split(found, split)) for split in _splits(found)],
        ("resolution", _resolution(found)),
        ("seed", fact(found.results.get("seed"))),
    ]
    rows = [(name, text) for name, text in rows if text]
    return f'<section><div class="card spaced">{facts(rows)}</div></section>' if rows else ""


def _resolution(found: ResultsFolder) -> str:
    """Of the whole evaluation, and of the tasks that have their own; the former only where a task has it."""
    own = {task.name: task.size(found) for task in found.tasks if task.protocol.get("size") is not None}
    shared = fact(found.results.get("resolution")) if len(own) < len(found.tasks) or not own else ""
    sizes = [f"{task_title(name)} {size} px" for name, size in own.items() if size is not None]
    return "; ".join(text for text in (shared, *sizes) if text)


def _splits(found: ResultsFolder) -> Iterable[str]:
    data = found.results.get("data")
    return [str(split) for split in data] if isinstance(data, dict) else []


def _network(architecture: dict) -> str:
    depth, dim, patch = (architecture.get(key) for key in ("depth", "embed_dim", "patch_size"))
    if None in (depth, dim, patch):
        return fact(architecture)
    registers = architecture.get("num_registers")
    more = f", {registers} registers" if registers else ""
    return f"ViT of {depth} blocks x {dim} channels, {architecture.get('num_heads')} heads, patch {patch}{more}"


def _split(found: ResultsFolder, split: str) -> str:
    data = found.data(split)
    parts = [str(data.get("name") or "")]
    classes = data.get("classes")
    counts = {"images": data.get("images"), "classes": len(classes) if isinstance(classes, list) else classes}
    parts += [f"{count:,} {what}" for what, count in counts.items() if isinstance(count, int)]
    return ", ".join(text for text in parts if text)


def tasks(found: ResultsFolder) -> str:
    """All that each task has to show."""
    return "\n".join(_task(task) for task in found.tasks)


def _task(task: TaskResult) -> str:
    took = f'<span class="soft took">{duration(task.seconds)}</span>' if task.seconds is not None else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in task.notes)
    charts = "".join(chart_card(chart, task.name, beside=len(task.charts)) for chart in task.charts)
    parts = [
        f'<h2 id="{escape(task.name)}">{escape(task_title(task.name))} {took}</h2>',
        f'<div class="card warnings"><ul>{notes}</ul></div>' if notes else "",
        f'<div class="grid charts">{_numbers(task)}{charts}</div>',
        *map(_matrix, task.matrices),
        *map(_picture, task.pictures),
        *map(_table, task.tables),
        _protocol(task),
    ]
    return f'<section class="task">{"".join(parts)}</section>'


def _numbers(task: TaskResult) -> str:
    rows = []
    for key, value in task.numbers.items():
        sure = task.estimate if task.estimate is not None and task.estimate.key == key else None
        between = interval_text(key, sure.low, sure.high) if sure is not None else ""
        rows.append([number_label(key), figures(key, value), unit(key), between])
    if not rows:
        return '<div class="card"><p class="note">No numbers on record</p></div>'
    columns = ["number", "value", "", "95 % interval"]
    return (
        f'<div class="card">{_grid(columns if any(row[3] for row in rows) else columns[:3], rows, SHOWN_NUMBERS)}</div>'
    )


def _matrix(matrix: Matrix) -> str:
    title = f"{matrix.title} ({matrix.unit})" if matrix.unit else matrix.title
    return (
        f'<div class="card"><h3>{escape(title)}</h3><p class="note">{escape(matrix.note)}</p>{heat_map(matrix)}</div>'
    )


def _picture(picture: PictureFile) -> str:
    note = f'<p class="note">{escape(picture.note)}</p>'
    return f'<div class="card picture"><h3>{escape(picture.title)}</h3>{note}{image(picture.path)}</div>'


def _table(table: Table) -> str:
    head = f'<h3>{escape(table.title)}</h3><p class="note">{escape(table.note)}</p>'
    return f'<div class="card">{head}{_grid(table.columns, table.rows, SHOWN_ROWS)}</div>'


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], shown: int) -> str:
    """A table with a head; numbers stand at the right, rows beyond those shown are folded away."""
    width = len(columns)
    right = [all(_NUMBER.fullmatch(row[place]) for row in rows if place < len(row)) for place in range(width)]
    marks = [' class="right"' if flag else "" for flag in right]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(columns, marks))

    def body(part: Sequence[Sequence[str]]) -> str:
        cells = ("".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks)) for row in part)
        lines = "".join(f"<tr>{line}</tr>" for line in cells)
        return f'<div class="wide"><table class="data"><tr>{head}</tr>{lines}</table></div>'

    rest = f"<details><summary>All {len(rows):,}</summary>{body(rows)}</details>" if len(rows) > shown else ""
    return body(rows[:shown]) + rest


def _protocol(task: TaskResult) -> str:
    rows = [(key.replace("_", " "), fact(value)) for key, value in task.protocol.items()]
    return f'<details class="card"><summary>Protocol</summary>{facts(rows)}</details>' if rows else ""


def provenance(found: ResultsFolder) -> str:
    """What the numbers can be told apart by: fingerprints, hash of the weights, versions."""
    prints = [
        (f"{split} data, fingerprint", str(found.data(split).get("fingerprint") or "")) for split in _splits(found)
    ]
    rows = [
        ("weights, content", str(found.weights.get("digest") or "")),
        *prints,
        ("processes", fact(found.results.get("processes"))),
        ("versions", fact(found.results.get("versions"))),
    ]
    rows = [(name, text) for name, text in rows if text]
    return f'<section><h2>Versions and fingerprints</h2><div class="card">{facts(rows)}</div></section>' if rows else ""
