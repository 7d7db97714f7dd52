"""The keys `cluster.*`: how training is submitted as a job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TIME_FORMS = "a time such as 90m, 72h, 2d, 12:30:00, 1-12:00:00, or minutes as a number"

OWN_OPTIONS = {
    "nodes": "cluster.nodes",
    "ntasks": "cluster.tasks_per_node",
    "ntasks-per-node": "cluster.tasks_per_node",
    "cpus-per-task": "cluster.cpus_per_task",
    "gpus-per-node": "cluster.gpus_per_node",
    "partition": "cluster.partition",
    "account": "cluster.account",
    "qos": "cluster.qos",
    "constraint": "cluster.constraint",
    "exclude": "cluster.exclude",
    "time": "cluster.time",
    "mem": "cluster.mem",
    "signal": "cluster.signal_delay_s",
    "requeue": "cluster.requeues",
    "no-requeue": "cluster.requeues=0",
    "job-name": "name",
    "array": "-m with several values of a key",
    "output": "output_dir (logs are in its folder jobs)",
    "error": "output_dir (logs are in its folder jobs)",
    "open-mode": "nothing (logs are always appended to)",
    "chdir": "the folder that the job is submitted from",
}
"""Options of sbatch that are said otherwise, and how."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Keys of `cluster=slurm`: a job of a SLURM cluster, with what sbatch is asked for.

    `tasks_per_node`: processes on each node, null for one per GPU, or one without GPUs. `time` and `signal_delay_s`:
    so long before the time limit, training is asked to save and stop. `requeues`: how often the job may then be queued
    again, also after preemption; `restart_on_failure`: how often in a row after a failure that may pass. `check`:
    "full" for all that training checks before it starts, "keys" where only the nodes see the data. `sbatch`: further
    options.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    tasks_per_node: int | None = None
    cpus_per_task: int = 8
    partition: str | Sequence[str] | None = None
    account: str | int | None = None
    qos: str | int | None = None
    constraint: str | None = None
    exclude: str | Sequence[str] | None = None
    time: str | float = "72h"
    mem: str | int | None = None
    setup: str | Sequence[str] = ()
    signal_delay_s: int = 120
    requeues: int = 100
    restart_on_failure: int = 5
    snapshot: bool = True
    check: Literal["full", "keys"] = "full"
    sbatch: dict[str, Any] = field(default_factory=dict)
    dry: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus_per_task"):
            _at_least(1, name, getattr(self, name))
        for name in ("gpus_per_node", "requeues", "restart_on_failure"):
            _at_least(0, name, getattr(self, name))
        if self.tasks_per_node is not None:
            _at_least(1, "tasks_per_node", self.tasks_per_node)
        if self.mem is not None and not re.fullmatch(r"0|\d+[KMGT]B?", str(self.mem)):
            raise ValueError(
                f"cluster.mem: got {self.mem}, expected a whole number with its unit such as 480G, or 0 for all"
            )
        _check_signal(self.signal_delay_s, parse_minutes("cluster.time", self.time))
        for name in self.sbatch:
            own = OWN_OPTIONS.get(str(name).replace("_", "-"))
            if own is not None:
                raise ValueError(f"cluster.sbatch.{name}: is set by {own}")

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.nodes * self.tasks

    @property
    def minutes(self) -> int:
        """The time limit."""
        return parse_minutes("cluster.time", self.time)

    @property
    def lines(self) -> list[str]:
        """Of shell, before training."""
        return _lines(self.setup)

    @property
    def partitions(self) -> list[str]:
        """Names of those the job may run in; none for the default."""
        return _words(self.partition)


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Keys of `cluster=local`: processes of this machine, in the background.

    `tasks`: processes, null for one per GPU, or one without GPUs; `time` and `signal_delay_s`: so long before the time
    limit, training is asked to save and stop, null for no limit; `requeues`: how often it then starts again (submitit
    does not do that more than five times); `check`: as with SLURM.
    """

    tasks: int | None = None
    time: str | float | None = None
    setup: str | Sequence[str] = ()
    signal_delay_s: int = 120
    requeues: int = 0
    snapshot: bool = True
    check: Literal["full", "keys"] = "full"

    def __post_init__(self) -> None:
        if self.tasks is not None:
            _at_least(1, "tasks", self.tasks)
        if not 0 <= self.requeues <= 5:
            raise ValueError(f"cluster.requeues: got {self.requeues}, expected 0 to 5 on a single machine")
        if self.time is not None:
            _check_signal(self.signal_delay_s, parse_minutes("cluster.time", self.time))

    @property
    def lines(self) -> list[str]:
        """Of shell, before training."""
        return _lines(self.setup)

    @property
    def minutes(self) -> int | None:
        """The time limit; None for none."""
        return None if self.time is None else parse_minutes("cluster.time", self.time)


def _lines(setup: str | Sequence[str]) -> list[str]:
    return setup.splitlines() if isinstance(setup, str) else [str(line) for line in setup]


def parse_minutes(key: str, value: str | float) -> int:
    """Minutes, rounded up: of a number of them, of `90m`, `1d12h`, or of one of sbatch's forms with colons.

    Raises:
        ValueError: for anything else, or no time at all.
    """
    text = str(value).strip()
    seconds = _seconds(text)
    if seconds is None or seconds <= 0:
        raise ValueError(f"{key}: got {value}, expected {TIME_FORMS}")
    return -int(-seconds // 60)


def _seconds(text: str) -> float | None:
    """Of a length of time; None for what is none."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text) * 60
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    if re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text.lower()):
        return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([dhms])", text.lower()))
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", text)
    if match is None:
        return None
    parts = [int(part) for part in match[2].split(":")]
    # With days the parts are hours:minutes:seconds, from the left; without, two are minutes:seconds.
    hours = [*parts, 0, 0][:3] if match[1] else [0, *parts][-3:]
    return int(match[1] or 0) * 86400 + hours[0] * 3600 + hours[1] * 60 + hours[2]


def _words(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else [str(word) for word in value]


def _check_signal(delay_s: int, minutes: int) -> None:
    if not 1 <= delay_s < minutes * 60:
        raise ValueError(
            f"cluster.signal_delay_s: got {delay_s}, expected at least 1 and less than cluster.time ({minutes} min)"
        )


def _at_least(least: int, name: str, got: int) -> None:
    if got < least:
        raise ValueError(f"cluster.{name}: got {got}, expected at least {least}")
