"""Where this process stands among all: as torchrun or SLURM's srun tell it, or alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from dinotrain.errors import UserError

PORTS = range(20_000, 32_000)
"""Below those that Linux hands out itself; jobs that share a node differ in their numbers."""


@dataclass(frozen=True)
class Place:
    """One process of a run, before any of them has spoken to another."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    attempt: str
    """The same for all processes of one start of a run, and for no other: `<job>.<restart>`."""
    address: tuple[str, int] | None = None
    """Host and port where the processes meet; None for a process alone."""
    served: bool = False
    """Whether the store there is the launcher's; else the first process serves it."""
    hosts: tuple[str, ...] = ()
    """Of all processes by rank, where the launcher says so."""
    sees_own_gpu: bool = False
    """Whether SLURM may have hidden the GPUs of the other processes of this machine."""


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that the launcher put into the environment.

    Raises:
        UserError: if it is incomplete.
    """
    host = environ.get("SLURMD_NODENAME") or socket.gethostname()
    if "RANK" in environ:
        return _of_torchrun(environ, host)
    # In a batch script or an allocation, too, SLURM says how many tasks there are; only those of a step are started.
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        return _of_srun(environ, host)
    return Place(0, 1, 0, 1, host, _attempt(environ, f"{host}-{os.getpid()}"))


def _of_torchrun(environ: Mapping[str, str], host: str) -> Place:
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environ]
    if missing:
        raise UserError(f"RANK is set, but {' and '.join(missing)} not; start with torchrun, or take RANK away")
    rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    return Place(
        rank,
        size,
        int(environ.get("LOCAL_RANK", "0")),
        int(environ.get("LOCAL_WORLD_SIZE", "1")),
        host,
        _attempt(environ, environ["MASTER_PORT"]),
        address=(environ["MASTER_ADDR"], int(environ["MASTER_PORT"])),
        served=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _of_srun(environ: Mapping[str, str], host: str) -> Place:
    nodes = _host_names(environ["SLURM_STEP_NODELIST"])
    counts = tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
    # Another one after a restart, which may have been for a port that was taken; and for another cluster's jobs.
    shift = zlib.crc32(environ.get("SLURM_CONF", "").encode()) + 1009 * restart
    port = PORTS[(int(environ["SLURM_JOB_ID"]) + shift) % len(PORTS)]
    return Place(
        int(environ["SLURM_PROCID"]),
        int(environ["SLURM_STEP_NUM_TASKS"]),
        int(environ["SLURM_LOCALID"]),
        counts[int(environ["SLURM_NODEID"])],
        host,
        _attempt(environ, environ["SLURM_JOB_ID"]),
        address=(nodes[0], port),
        hosts=tuple(node for node, count in zip(nodes, counts) for _ in range(count)),
        sees_own_gpu=True,
    )


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form: "2(x3),1" is [2, 2, 2, 1]."""
    parts = (re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(","))
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _host_names(short: str) -> list[str]:
    """SLURM's short form of node names, written out by SLURM itself."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", short], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scontrol, which tells the names of the nodes {short}, can't be run: {error}") from error
    if done.returncode:
        raise UserError(f"scontrol can't tell the names of the nodes {short}: {done.stderr.strip()}")
    return done.stdout.split()


def _attempt(environ: Mapping[str, str], otherwise: str) -> str:
    names = ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID", "TORCHELASTIC_RUN_ID")
    # torchrun says "none" where it was given no id.
    job = next((environ[name] for name in names if environ.get(name, "none") != "none"), otherwise)
    counts = [environ.get(name) or "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    # torchrun within a job of SLURM may start the processes again, too.
    restart = ".".join(counts) if counts[1] != "0" and "SLURM_JOB_ID" in environ else str(sum(map(int, counts)))
    return f"{re.sub(r'[^0-9A-Za-z_-]', '_', job)}.{restart}"
