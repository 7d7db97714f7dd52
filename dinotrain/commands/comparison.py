"""Putting results of evaluations beside each other, with confidence intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dinotrain.errors import Status, UserError
from dinotrain.reporting.comparison import Comparison, Line, as_json, compare_all, nothing_shared
from dinotrain.reporting.quantities import (
    difference_text,
    figures,
    interval_text,
    number_label,
    number_text,
    task_title,
    unit,
)
from dinotrain.reporting.results_folder import RESULTS, ResultsFolder

USAGE = "usage: python -m dinotrain.evaluate compare RESULTS RESULTS ... [--all] [--json FILE]"
MOST_OTHERS = 3
"""Numbers beside the headline, where there is room."""
WIDE = 120
"""Characters of a line with room for them."""
IN_FILE = 200
"""Characters of a line that no terminal shows."""
VERDICTS = {"better": "yes, better", "worse": "yes, worse", "noise": "no"}
STYLES = {"better": "green", "worse": "red", "noise": "dim"}


def compare(arguments: Sequence[str]) -> int:
    """Print a table for each task and data set that the given results have; returns the exit status.

    Args:
        arguments: results folders, or run folders with results in `evaluations/`, of which the newest step counts for
            each task and data set. `--all` for all steps, as for a single run; `--json FILE` writes the same there.

    Raises:
        UserError: with one line, for what can't be compared.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(USAGE)
        return Status.DONE
    words, out, all_steps = _read(arguments)
    names = _short(words)
    found = [(name, folder) for name, word in zip(names, words) for folder in _results_at(word)]
    if len(found) < 2:
        given = f"only {words[0]}" if words else "nothing"
        raise UserError(f"compare: got {given}, expected at least two folders with results")
    comparisons = compare_all(found, all_steps=all_steps or len(words) == 1)
    if not comparisons:
        raise UserError(f"compare: no task is finished in {', '.join(words)}")
    if out is not None:
        _write(out, as_json(comparisons))
    shown = {line.of.folder.path for each in comparisons for line in each.lines}
    _show(comparisons, left_out=len({folder.path for _, folder in found} - shown))
    return Status.DONE


def _read(arguments: Sequence[str]) -> tuple[list[str], Path | None, bool]:
    """(folders, file for JSON, whether all steps are wanted)."""
    words, out, all_steps = [], None, False
    rest = iter(arguments)
    for word in rest:
        if word == "--json" or word.startswith("--json="):
            value = word.partition("=")[2] or next(rest, "")
            if not value:
                raise UserError("--json: expected the name of a file")
            out = Path(value)
        elif word == "--all":
            all_steps = True
        elif word.startswith("-"):
            raise UserError(f"{word}: no such option; {USAGE}")
        else:
            words.append(word)
    repeated = next((word for word in words if words.count(word) > 1), None)
    if repeated is not None:
        raise UserError(f"compare: {repeated} is given twice; expected different folders")
    return words, out, all_steps


def _short(words: Sequence[str]) -> list[str]:
    """Names of folders without what they have in common."""
    parents = {os.path.dirname(os.path.normpath(word)) for word in words}
    if len(words) < 2:
        return [os.path.basename(os.path.normpath(word)) for word in words]
    if len({os.path.isabs(word) for word in words}) > 1 or not all(parents):
        return list(words)
    common = os.path.commonpath(list(parents))
    return [os.path.relpath(word, common) for word in words] if common else list(words)


def _results_at(word: str) -> list[ResultsFolder]:
    """The results in a folder, or in those below it.

    Raises:
        UserError: if there are none, or a file is damaged.
    """
    path = Path(word)
    if path.name == RESULTS:
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{word}: no such folder; expected one with results, or a run")
    own = ResultsFolder(path)
    if own.tasks:
        return [own]
    below = path / "evaluations" if (path / "evaluations").is_dir() else path
    files = sorted(file for file in below.glob(f"**/{RESULTS}") if file.parent != path)
    found = [ResultsFolder(file.parent) for file in files]
    for folder in found:
        _check_readable(folder)
    found = [folder for folder in found if folder.tasks]
    if not found:
        _check_readable(own)
        raise UserError(
            f"{word}: no results of an evaluation there; expected {RESULTS} with tasks in it, "
            f"or in a run evaluations/NAME/{RESULTS}"
        )
    return found


def _check_readable(folder: ResultsFolder) -> None:
    if (folder.path / RESULTS).exists() and not folder.results:
        raise UserError(f"{folder.path / RESULTS}: damaged, it is not a JSON object; repeat that evaluation")


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json: can't write to {path} ({error.strerror})") from error


def _show(comparisons: Sequence[Comparison], *, left_out: int) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, IN_FILE))
    for each in comparisons:
        console.print(_table(each, MOST_OTHERS if console.width >= WIDE else 0))
        for line in each.lines:
            for note in _notes(line):
                console.print(Text(f"  {line.of.name}: {note}", style="yellow"), soft_wrap=True)
    if reason := nothing_shared(comparisons):
        console.print(Text(f"Nothing to compare: {reason}."), style="yellow", soft_wrap=True)
    if left_out:
        several = f"{left_out} folders of earlier steps are" if left_out > 1 else "1 folder of an earlier step is"
        console.print(Text(f"{several} left out; --all shows all steps."), style="dim", soft_wrap=True)
    console.print(
        Text("Intervals: 95 % over the choice of test images, for differences the same of both; they do not hold")
        + Text(" what another seed of the training would change."),
        style="dim",
        soft_wrap=True,
    )


def _table(comparison: Comparison, most_others: int) -> Table:
    key, first = comparison.headline, comparison.lines[0]
    title = f"{task_title(comparison.task)} on {comparison.data}"
    table = Table(title=Text(title, style="bold"), box=SIMPLE_HEAD, title_justify="left")
    others = [name for name in first.of.task.numbers if name != key][:most_others]
    table.add_column("run", overflow="fold")
    steps = len({line.of.folder.step for line in comparison.lines}) > 1
    if steps:
        table.add_column("step", justify="right")
    table.add_column(f"{number_label(key)} ({unit(key)})" if unit(key) else number_label(key), justify="right")
    table.add_column("95 % interval")
    for name in others:
        table.add_column(number_label(name), justify="right")
    if len(comparison.lines) > 1:
        table.add_column(f"less {first.of.name}", justify="right")
        table.add_column("95 % interval")
        table.add_column("more than noise")
    for line in comparison.lines:
        name, *cells = _cells(line, key, others, several=len(comparison.lines) > 1)
        step = "" if line.of.folder.step is None else f"{line.of.folder.step:,}"
        table.add_row(name, *([Text(step)] if steps else []), *cells)
    return table


def _cells(line: Line, key: str, others: Sequence[str], *, several: bool) -> list[Text]:
    task = line.of.task
    sure = task.estimate if task.estimate is not None and task.estimate.key == key else None
    cells = [
        line.of.name,
        figures(key, task.numbers[key]) if key in task.numbers else "",
        interval_text(key, sure.low, sure.high) if sure is not None else "",
        *(number_text(name, task.numbers[name]) if name in task.numbers else "" for name in others),
    ]
    texts = [Text(cell) for cell in cells]
    if not several:
        return texts
    found = line.difference
    if found is None:
        return [*texts, Text(""), Text(""), Text("not known" if line.why_not else "")]
    between = f"{difference_text(key, found.low)} to {difference_text(key, found.high)}"
    verdict = line.verdict or "noise"
    style = STYLES[verdict]
    return [*texts, Text(difference_text(key, found.value), style=style), Text(between), Text(VERDICTS[verdict], style)]


def _notes(line: Line) -> list[str]:
    notes = [f"no difference: {line.why_not}"] if line.why_not else []
    return notes + [f"another protocol: {text}" for text in line.unlike]
