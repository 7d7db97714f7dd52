"""The process that looks after a job of this machine: submitit's controller, known by its number."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from dinotrain.errors import UserError


def runs(pid: int, logs: str) -> bool:
    """Whether a process is the controller that writes into this folder: numbers of processes are used again."""
    return logs in _command_line(pid)


def passing_on(pid: int, logs: str) -> list[int]:
    """Those of its processes that pass a signal on to the tasks: a shell may stand before submitit's."""
    return [each for each in tree(pid) if {"submitit.local._local", logs} <= set(_command_line(each).split("\0"))]


def tree(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children = " ".join(_text(path) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(other for child in children.split() for other in tree(int(child)))]


def send(pids: Sequence[int], signal_name: str) -> None:
    """Send a signal to processes, as far as they are still there.

    Raises:
        UserError: if one is somebody else's.
    """
    for pid in pids:
        try:
            os.kill(pid, signal.Signals[signal_name])
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise UserError(f"process {pid}: it belongs to another user") from error


def _command_line(pid: int) -> str:
    return _text(Path(f"/proc/{pid}/cmdline"))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
