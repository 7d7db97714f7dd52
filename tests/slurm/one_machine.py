"""A real SLURM cluster of three nodes on this machine, and what tests do to it and to the jobs on it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from real_runs import TINY, rows

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "launch" / "one_machine_slurm.sh"
SUBMIT = REPOSITORY / "launch" / "slurm.py"
NODES = 3
SECONDS = 300.0
"""How long to wait for what takes some seconds on a machine that has nothing else to do."""

SMALL = ("cluster.gpus_per_node=0", "cluster.tasks_per_node=1", "cluster.cpus_per_task=1", "cluster.time=60m")

Found = TypeVar("Found")


@dataclass(frozen=True)
class Process:
    """A process that a job has on a node."""

    pid: int
    node: str
    job: str
    rank: int | None
    """Of a training process and what it has started; None for the job's script and srun."""


class Cluster:
    """A cluster in a folder of its own.

    Args:
        root: short, for the paths of sockets have a limit.
        port: the first of a hundred.
    """

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.environment = os.environ | {
            "ONE_MACHINE_SLURM": str(root),
            "ONE_MACHINE_SLURM_PORT": str(port),
            "NODES": str(NODES),
            "SLURM_CONF": str(root / "etc" / "slurm.conf"),
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    # --- commands ---

    def command(self, *words: str | Path, status: int | None = 0, cwd: Path | None = None) -> str:
        """What a command prints on stdout; fails with another exit status than expected, None for any."""
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=self.environment,
            cwd=cwd,
        )
        assert status in (None, done.returncode), f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def script(self, *words: str, status: int | None = 0) -> str:
        return self.command("bash", SCRIPT, *words, status=status)

    def launch(self, *words: str, status: int | None = 0, cwd: Path | None = None) -> str:
        """`launch/slurm.py`."""
        return self.command(sys.executable, SUBMIT, *words, status=status, cwd=cwd)

    def submit(self, run_dir: Path, *words: str, nodes: int = 1) -> str:
        """Submit a tiny run; returns the job's id."""
        length = () if any(word.startswith("data=") for word in words) else ("data.source.length=200",)
        node_words = (*SMALL, f"cluster.nodes={nodes}")
        self.launch(*TINY, *length, *node_words, f"output_dir={run_dir}", *words, cwd=run_dir.parent)
        return self.job(run_dir)

    def job(self, run_dir: Path) -> str:
        """Id of the latest job of a run."""
        from dinotrain.cluster.record import latest

        record = latest(run_dir)
        assert record is not None
        assert record.job is not None
        return record.job

    def sbatch(self, *words: str, script: str) -> str:
        """Submit a line of shell; returns the job's id."""
        printed = self.command("sbatch", "--parsable", "--output=/dev/null", *words, f"--wrap={script}")
        return printed.strip().partition(";")[0]

    # --- looking and waiting ---

    def field(self, job: str, name: str) -> str:
        """One of the fields that `squeue -O` has."""
        return self.command("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", f"{name}:200").strip()

    def state(self, job: str) -> str:
        return self.field(job, "State")

    def nodes(self, job: str) -> list[str]:
        """Names of the nodes that a job runs on."""
        return self.command("scontrol", "show", "hostnames", self.field(job, "NodeList")).split()

    def wait(self, what: str, find: Callable[[], Found | None], seconds: float = SECONDS) -> Found:
        """Until something is found that is not false."""
        deadline = time.monotonic() + seconds
        while not (found := find()):
            assert time.monotonic() < deadline, f"{what}: not in {seconds:g} s\n{self.command('squeue', '-t', 'all')}"
            time.sleep(0.1)
        return found

    def wait_for_state(self, job: str, *states: str, seconds: float = SECONDS) -> None:
        """Until a job is in one of these states."""
        self.wait(f"job {job} {' or '.join(states)}", lambda: self.state(job) in states, seconds)

    def wait_for_end(self, job: str, seconds: float = SECONDS) -> str:
        """Until a job has left the queue; returns its last state."""
        self.wait(f"end of job {job}", lambda: not self.command("squeue", "-h", "-j", job), seconds)
        return self.state(job)

    def wait_for_step(self, run_dir: Path, step: int, seconds: float = SECONDS) -> None:
        """Until a run has logged a step."""
        self.wait(
            f"step {step} of {run_dir}; its log:\n{self.log(run_dir)}",
            lambda: max((row["step"] for row in rows(run_dir) if "loss" in row), default=-1) >= step,
            seconds,
        )

    def log(self, run_dir: Path) -> str:
        """What all tasks of all jobs of a run have printed."""
        return "\n".join(path.read_text() for path in sorted(run_dir.glob("jobs/*/logs/*.out")))

    # --- processes ---

    def processes(self, job: str | None = None, node: int | None = None) -> list[Process]:
        """Those of a job (None: of all), on a node (None: on all)."""
        found = [process for pid in _pids() if (process := self._process(pid))]
        return [
            process
            for process in found
            if job in (None, process.job) and (node is None or process.node == f"node{node}")
        ]

    def rank(self, job: str, rank: int) -> Process:
        """The training process of a rank: the first of its processes, those that load data are its children."""
        mine = {process.pid: process for process in self.processes(job) if process.rank == rank}
        first = [process for pid, process in mine.items() if _parent(pid) not in mine]
        assert len(first) == 1, f"rank {rank} of job {job}: {first}"
        return first[0]

    def kill_rank(self, job: str, rank: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one training process; returns its process id."""
        pid = self.rank(job, rank).pid
        os.kill(pid, number)
        return pid

    def signal(self, job: str, name: str) -> None:
        """Send a signal such as "USR2" to the tasks of a job, also of an element of an array whose others wait."""
        steps = self.command("squeue", "-h", "-s", "-j", job, "-o", "%i").split()
        self.command("scancel", f"--signal={name}", *(step for step in steps if not step.endswith(".batch")))

    def _process(self, pid: int) -> Process | None:
        try:
            # A zombie has no environment any more.
            text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return None
        values = dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
        if values.get("SLURM_CONF") != self.environment["SLURM_CONF"] or "SLURMD_NODENAME" not in values:
            return None
        job = values.get("SLURM_JOB_ID", "")
        if "SLURM_ARRAY_JOB_ID" in values:
            job = f"{values['SLURM_ARRAY_JOB_ID']}_{values['SLURM_ARRAY_TASK_ID']}"
        rank = int(values["SLURM_PROCID"]) if "SLURM_STEP_ID" in values else None
        return Process(pid, values["SLURMD_NODENAME"], job, rank)

    # --- nodes ---

    def kill_node(self, node: int, *, noticed: bool = True) -> None:
        """Power failure; `noticed`: SLURM is told, which it finds out itself after 25 seconds."""
        self.script("kill-node", str(node))
        if noticed:
            self.down(node)

    def start_node(self, node: int, hide: Path | None = None) -> None:
        """Bring a node back; with an empty folder in place of `hide`, as if it did not share it."""
        self.script("start-node", str(node), *([f"hide={hide}"] if hide else []))

    def down(self, node: int) -> None:
        """Have SLURM take a node for dead."""
        self.command("scontrol", "update", f"NodeName=node{node}", "State=DOWN", "Reason=test")

    def restore(self) -> None:
        """No job, all nodes, as at the beginning; fails if a process of a job is left."""
        self.command("scancel", "--user=root")
        self.wait("the end of all jobs", lambda: not self.command("squeue", "-h"))
        left = self.wait_until_gone()
        for node in range(NODES):
            # Also one that hides a folder is to be as the others again.
            if self._namespace(node) not in (None, os.readlink("/proc/self/ns/mnt")):
                self.script("kill-node", str(node))
            self.start_node(node)
        assert not left, f"processes of ended jobs: {left}"

    def wait_until_gone(self, job: str | None = None, seconds: float = 10) -> list[Process]:
        """Until no process of a job is left; returns those that stay."""
        deadline = time.monotonic() + seconds
        while (left := self.processes(job)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _namespace(self, node: int) -> str | None:
        """What a node's slurmd sees of the file system, if it runs."""
        try:
            return os.readlink(f"/proc/{(self.root / 'run' / f'slurmd-node{node}.pid').read_text().strip()}/ns/mnt")
        except OSError:
            return None


def reason_to_skip() -> str | None:
    """Why there can't be a cluster here."""
    if os.geteuid() != 0:
        return "SLURM's daemons must be started by root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "srun") if not shutil.which(name, path=path)]
    return f"{', '.join(missing)} not installed: launch/one_machine_slurm.sh install" if missing else None


def start(root: Path) -> Cluster:
    """A new cluster, on the first ports that nobody has."""
    for port in range(12000 + 100 * (os.getpid() % 50), 20000, 100):  # training meets at ports from 20000 on
        cluster = Cluster(root, port)
        done = subprocess.run(["bash", SCRIPT, "start"], capture_output=True, text=True, env=cluster.environment)
        if done.returncode == 0:
            return cluster
        if not re.search(r"port \d+ is taken", done.stderr):
            cluster.script("stop", status=None)
            raise AssertionError(f"the cluster did not start\n{done.stdout}\n{done.stderr}")
    raise AssertionError("no free ports")


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
