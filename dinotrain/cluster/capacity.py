"""Whether the nodes there are can run a job at all: SLURM itself lets some wait for ever that never can."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dinotrain.cluster.options import SlurmOptions
from dinotrain.cluster.scheduler import Partition
from dinotrain.errors import UserError

MEGABYTES = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


def check_capacity(options: SlurmOptions, partitions: Sequence[Partition]) -> None:
    """Hold what is asked for against the partition's nodes and its time limit.

    Raises:
        UserError: with the key, and what there is.
    """
    rows = _chosen(options, partitions)
    where = f"partition {' and '.join(sorted({row.name for row in rows}))}"
    for key, wanted, most, unit in (
        ("gpus_per_node", options.gpus_per_node, max(row.gpus for row in rows), "GPUs"),
        ("cpus_per_task", options.tasks * options.cpus_per_task, max(row.cpus for row in rows), "CPUs"),
        ("mem", _memory(options), max(row.memory_mb for row in rows), "MB"),
    ):
        if wanted > most:
            has = f"has more than {most} {unit}" if most else f"has {unit} that SLURM knows of"
            raise UserError(f"cluster.{key}: {_asked(key, options)}, but no node of {where} {has}{_hint(key, most)}")
    nodes = sum(
        row.nodes
        for row in rows
        if row.gpus >= options.gpus_per_node
        and row.cpus >= options.tasks * options.cpus_per_task
        and row.memory_mb >= _memory(options)
    )
    if nodes < options.nodes:
        such = "such nodes (" + _asked("gpus_per_node", options) + ")" if options.gpus_per_node else "such nodes"
        raise UserError(f"cluster.nodes: got {options.nodes}, but {where} has only {nodes} {such}")
    limits = [row.limit_s for row in rows]
    longest = None if None in limits else max(limit for limit in limits if limit is not None)
    if longest is not None and options.minutes * 60 > longest:
        raise UserError(
            f"cluster.time: got {options.time}, but {where} allows {_words(longest)} at most; the run goes on after "
            f"that by itself (cluster.requeues), so cluster.time={_words(longest)} is no loss"
        )


def partition_names(partitions: Sequence[Partition]) -> str:
    """All names, the default first, for a message."""
    rows = sorted(partitions, key=lambda row: not row.default)
    return ", ".join(dict.fromkeys(row.name + (" (the default)" if row.default else "") for row in rows)) or "none"


def _chosen(options: SlurmOptions, partitions: Sequence[Partition]) -> list[Partition]:
    usual = os.environ.get("SBATCH_PARTITION")
    names = options.partitions or (usual.split(",") if usual else [row.name for row in partitions if row.default])
    if not names:
        raise UserError(
            f"cluster.partition: null, but this cluster has no default partition; there are: "
            f"{partition_names(partitions)}"
        )
    for name in names:
        if name not in {row.name for row in partitions}:
            raise UserError(
                f"cluster.partition: got {name}, but there is no such partition; there are: "
                f"{partition_names(partitions)}"
            )
    return [row for row in partitions if row.name in names]


def _memory(options: SlurmOptions) -> float:
    """MB of each node that are asked for; 0 for no demand."""
    text = str(options.mem or "0").removesuffix("B")
    return 0.0 if text == "0" else float(text[:-1]) * MEGABYTES[text[-1]]


def _asked(key: str, options: SlurmOptions) -> str:
    if key == "gpus_per_node":
        return f"got {options.gpus_per_node}"
    if key == "mem":
        return f"got {options.mem}"
    return f"{options.tasks} processes on each node with {options.cpus_per_task} CPUs each"


def _hint(key: str, most: int) -> str:
    if key == "gpus_per_node":
        rest = "" if most else " (where there are some all the same, with cluster.tasks_per_node=N)"
        return f"; expected cluster.gpus_per_node={most}{rest}"
    return ""


def _words(seconds: int) -> str:
    """A length of time as `cluster.time` takes it."""
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds // 60}m"
