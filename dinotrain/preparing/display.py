"""How far a conversion is, on one line."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dinotrain.preparing.progress import Progress

_REDRAW, _REPEAT = 0.2, 10.0  # seconds between two pictures on a terminal, and between two lines elsewhere
_WINDOW = 20.0  # seconds that the rates are taken over


class Display:
    """A bar on a terminal, a line every 10 s elsewhere, on the standard error. No thread is started."""

    def __init__(self, start: Progress) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = start
        self._times = deque([(time.monotonic(), start.looked_at, start.bytes_in)])
        self._due = 0.0 if self._console.is_terminal else time.monotonic() + _REPEAT
        self._live: Live | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def report(self, progress: Progress) -> None:
        """Show this, unless something was shown a moment ago."""
        now = time.monotonic()
        if now < self._due:
            return
        self._times.append((now, progress.looked_at, progress.bytes_in))
        while now - self._times[0][0] > _WINDOW and len(self._times) > 2:
            self._times.popleft()
        if self._console.is_terminal:
            self._due = now + _REDRAW
            self._draw()
        else:
            self._due = now + _REPEAT
            print(
                "  ".join([f"{progress.looked_at:,} of {progress.total:,} images {progress.what}", *self._parts()]),
                file=sys.stderr,
            )

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._view)
            self._live.start()
        self._live.refresh()

    def _view(self) -> Table:
        done, total = self._progress.looked_at, self._progress.total
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=total, completed=done, width=30)
        line.add_row(bar, Text(f"{done:,} of {total:,} {self._progress.what}"), *(Text(part) for part in self._parts()))
        return line

    def _parts(self) -> list[str]:
        """Rates, time left, and what was left out."""
        (first, images, data), (last, images_now, data_now) = self._times[0], self._times[-1]
        progress, parts = self._progress, []
        if last > first and images_now > images:
            rate = (images_now - images) / (last - first)
            parts += [f"{rate:,.0f} images/s", f"{(data_now - data) / (last - first) / 1e6:,.1f} MB/s"]
            parts.append(f"{duration((progress.total - progress.looked_at) / rate)} left")
        parts += [f"{progress.failed:,} broken"] if progress.failed else []
        return parts + ([f"{progress.dropped:,} duplicates"] if progress.dropped else [])


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
