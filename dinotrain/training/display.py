"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Value = float | int | str | None
Cells = list[tuple[str, str]]

RATE_ROWS = 20
"""Logged rows that the remaining time is estimated from."""


class Display:
    """Shows one run, of one student or several; of several processes, the main one's.

    On a terminal, the newest numbers stand in a few lines at the bottom, which are redrawn with every row; messages
    scroll above them. Elsewhere each row is printed as one line.

    Args:
        total_steps: of the whole run.
        interactive: whether to draw the live view; None to look whether stdout is a terminal.
    """

    def __init__(self, total_steps: int, interactive: bool | None = None) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps: got {total_steps}, expected at least 1")
        self.total_steps = total_steps
        self.interactive = sys.stdout.isatty() if interactive is None else interactive
        self._console = Console(highlight=False, force_terminal=self.interactive or None)
        self._live: Live | None = None
        self._rows: dict[str, dict[str, Any]] = {}
        self._times: deque[tuple[int, float]] = deque(maxlen=RATE_ROWS)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_live()

    def banner(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print what will run, as (name, value) pairs."""
        if not self.interactive:
            self._lines(_aligned(rows))
            return
        grid = Table.grid(padding=(0, 2))
        for name, value in rows:
            grid.add_row(Text(name, style="cyan"), Text(value))
        self._console.print(grid)
        self._console.print()

    def update(self, row: Mapping[str, Value], name: str = "") -> None:
        """Show a row of metrics: of a training step, or of an evaluation; `name` tells several students apart."""
        shown = self._rows.setdefault(name, {})
        shown |= {key: value for key, value in row.items() if value is not None}
        step, seconds = row.get("step"), row.get("time")
        if "loss" in row and isinstance(step, int) and isinstance(seconds, int | float):
            self._remember(step, seconds)
        if self.interactive:
            self._draw()
        elif "loss" in row or accuracy(row):
            self._lines([self._line(row, name)])

    def _remember(self, step: int, seconds: float) -> None:
        # Of several students, one row a step tells the time.
        if not self._times or step > self._times[-1][0]:
            self._times.append((step, seconds))

    def message(self, text: str) -> None:
        """Say something that is not a number."""
        if self.interactive:
            self._console.print(Text(text))
        else:
            self._lines([text])

    def warning(self, text: str) -> None:
        """Say something that the person should act on."""
        if self.interactive:
            self._console.print(Text.assemble(("warning: ", "bold yellow"), text))
        else:
            self._lines([f"warning: {text}"])

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, such as the one that closes a run; ends the live view."""
        self._end_live()
        if not self.interactive:
            self._lines(["", title, *_columns([columns, *rows]), ""])
            return
        table = Table(title=Text(title, style="bold"), box=SIMPLE_HEAD, title_justify="left")
        for index, name in enumerate(columns):
            table.add_column(name, justify="right" if index else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    def remaining_seconds(self) -> float | None:
        """Time to the end at the pace of the latest rows; None before there are two."""
        if len(self._times) < 2:
            return None
        (first, start), (last, end) = self._times[0], self._times[-1]
        return (end - start) / (last - first) * (self.total_steps - last) if last > first else None

    def _draw(self) -> None:
        if self._live is None:
            # Without a refreshing thread: workers are forked from this process.
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._view)
            self._live.start()
        self._live.refresh()

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _view(self) -> RenderableType:
        step = max((int(row.get("step", 0)) for row in self._rows.values()), default=0)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.total_steps, completed=step, width=30)
        head.add_row(bar, Text(f"{step:,} / {self.total_steps:,}"), Text(f"{step / self.total_steps:.1%}"), self._eta())
        texts = [text for name, row in self._rows.items() for text in _block(name, row)]
        return Group(Text(""), head, *texts)

    def _line(self, row: Mapping[str, Value], name: str) -> str:
        parts = [name, f"step {int(row.get('step') or 0)}/{self.total_steps}"]
        cells = losses(row) + optimisation(row) + speed(row) + accuracy(row)
        parts += [f"{cell} {value}" for cell, value in cells]
        if "loss" in row:
            parts.append(self._eta())
        return "  ".join(part for part in parts if part)

    def _eta(self) -> str:
        remaining = self.remaining_seconds()
        return "" if remaining is None else f"{duration(remaining)} left"

    def _lines(self, lines: Sequence[str]) -> None:
        print("\n".join(lines), flush=True)


def _block(name: str, row: Mapping[str, Any]) -> list[Text]:
    """The numbers of one student in a few lines, under its name if there are several."""
    lines = [cells for cells in (speed(row), losses(row), optimisation(row), health(row) + accuracy(row)) if cells]
    texts = [Text("   ").join(Text.assemble((f"{cell} ", "dim"), value) for cell, value in cells) for cells in lines]
    return [Text(name, style="bold"), *texts] if name else texts


def losses(row: Mapping[str, Any]) -> Cells:
    """Total loss and its terms, whichever the method has."""
    keys = [key for key in row if key == "loss" or key.endswith("_loss")]
    names = {key: key.removesuffix("_loss").replace("_", " ") for key in keys}
    return [(names[key], f"{row[key]:.4f}") for key in keys if row[key] is not None]


def optimisation(row: Mapping[str, Any]) -> Cells:
    """Learning rate, gradient norms, and fp16's loss scale with the steps it cost."""
    cells = [("lr", f"{row['lr']:.2e}")] if row.get("lr") is not None else []
    norms = [
        f"{key.removeprefix('grad_norm_').removesuffix('_head')} {value:.2f}"
        for key, value in row.items()
        if key.startswith("grad_norm_") and value is not None
    ]
    cells += [("grad norm", ", ".join(norms))] if norms else []
    if row.get("loss_scale") is not None:
        cells.append(("loss scale", f"{row['loss_scale']:g}"))
    return cells + ([("skipped steps", str(row["skipped_steps"]))] if row.get("skipped_steps") else [])


def speed(row: Mapping[str, Any]) -> Cells:
    """Throughput, share of time waiting for data, memory, unreadable files."""
    formats = (
        ("images/s", "images_per_second", ",.1f"),
        ("waiting for data", "data_wait", ".0%"),
        ("memory GB", "memory_gb", ".2f"),
    )
    cells = [(name, format(row[key], spec)) for name, key, spec in formats if row.get(key) is not None]
    return cells + ([("skipped files", str(row["skipped_files"]))] if row.get("skipped_files") else [])


def health(row: Mapping[str, Any]) -> Cells:
    """The two measures that show a collapse first."""
    names = (("target entropy", "teacher_entropy"), ("rank", "effective_rank"))
    return [(name, f"{row[key]:.2f}") for name, key in names if row.get(key) is not None]


def accuracy(row: Mapping[str, Any]) -> Cells:
    """k-NN accuracies, in percent."""
    names = (
        ("k-NN %", "knn_top1"),
        ("untrained", "knn_top1_untrained"),
        ("raw pixels", "knn_top1_pixels"),
        ("frozen teacher", "knn_top1_teacher"),
    )
    return [(name, f"{row[key]:.1f}") for name, key in names if row.get(key) is not None]


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return [
        "  ".join(f"{cell:{'>' if index else '<'}{width}}" for index, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]
