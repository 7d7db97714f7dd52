"""Train on a real SLURM of one machine while things break, and look for what is lost.

    python benchmarks/faults.py --faults 20

A small run on two of three nodes is hit by random faults, one after another; each must be followed by a restart that
goes on from a checkpoint. At the end the whole loss curve and all weights are compared with those of a run that nothing
happened to. Needs root and Debian's packages of SLURM (launch/one_machine_slurm.sh install).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

ROOT = Path(__file__).parents[1]
CLUSTER = [str(ROOT / "launch/one_machine_slurm.sh")]
SUBMIT = [sys.executable, str(ROOT / "launch/slurm.py")]
WORDS = (
    "+experiment=quickstart",
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=2",
    "method.dino_head.hidden_dim=32",
    "method.dino_head.bottleneck_dim=16",
    "method.dino_head.num_prototypes=64",
    "optim.global_batch=8",
    "data.source.length=200",
    "checkpoint.every=10",
    "evaluation.every=null",
    "evaluation.max_train=60",
    "evaluation.max_test=20",
    "evaluation.pictures=0",
    "log_every=1",
    "runtime.workers=0",
    "runtime.precision=fp32",
    "parallel.timeout_minutes=0.25",
    "cluster.nodes=2",
    "cluster.gpus_per_node=0",
    "cluster.cpus_per_task=2",
    "cluster.time=2h",
    "cluster.restart_on_failure=1000",
    "cluster.requeues=1000",
    "cluster.snapshot=false",
)
PATIENCE = 180
"""Seconds until a fault is noticed and the run is at work again."""
UNLIKE = ("time", "images_per_second", "data_wait", "memory_gb", "gpu_watts")


class Cluster:
    """Three nodes, on ports and in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        places = {"ONE_MACHINE_SLURM": str(folder), "ONE_MACHINE_SLURM_PORT": "17600", "NODES": "3"}
        os.environ |= {**places, "SLURM_CONF": f"{folder}/etc/slurm.conf", "OMP_NUM_THREADS": "1"}
        os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
        call(*CLUSTER, "start")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        call(*CLUSTER, "stop")

    def kill_node(self, node: str) -> None:
        call(*CLUSTER, "kill-node", node.removeprefix("node"))
        # SLURM itself looks every half minute only.
        call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=fault")

    def start_node(self, node: str) -> None:
        call(*CLUSTER, "start-node", node.removeprefix("node"))


class Run:
    """A submitted run and what is known of it."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.words = folder, (*WORDS, f"optim.steps={steps}", f"output_dir={folder}")
        self.job = ""

    def submit(self, *words: str) -> None:
        printed = call(*SUBMIT, *(words or self.words))
        found = re.search(r"job (\d+)", printed)
        assert found, printed
        self.job = found[1]

    @property
    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def step(self) -> int:
        return max((row["step"] for row in self.rows if "loss" in row), default=0)

    @property
    def resumed(self) -> list[int]:
        """The step of each restart."""
        return [row["step"] for row in self.rows if row.get("event") == "resume"]

    def state(self) -> str:
        return call("squeue", "-h", "-t", "all", "-j", self.job, "-o", "%T").strip()

    def nodes(self) -> list[str]:
        short = call("squeue", "-h", "-j", self.job, "-o", "%N").strip()
        return call("scontrol", "show", "hostnames", short).split()

    def processes(self) -> dict[int, int]:
        """Numbers of the training processes by rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = dict(word.split("=", 1) for word in (path / "environ").read_text().split("\0") if "=" in word)
                command = (path / "cmdline").read_text()
            except OSError:
                continue
            # The job's script and srun have a place, too, but are in no step.
            mine = words.get("SLURM_JOB_ID") == self.job and "SLURM_STEP_ID" in words
            if mine and "submitit.core._submit" in command:
                found[int(words["SLURM_PROCID"])] = int(path.name)
        return found

    def wait(self, what: str, until: Callable[[], bool], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: not within {seconds:g} s; job {self.job} is {self.state()}; {self.folder}")
            time.sleep(0.1)


class Faults:
    """What can happen; each returns when it has."""

    def __init__(self, cluster: Cluster, run: Run, seed: int) -> None:
        self.cluster, self.run, self.random = cluster, run, random.Random(seed)
        self.down: str | None = None

    def all(self) -> dict[str, Callable[[], None]]:
        return {
            "time limit's signal (USR2)": self.signal,
            "preempted by another job": self.preempt,
            "node killed": self.kill_node,
            "node killed during a save": self.kill_node_during_save,
            "process killed (SIGKILL)": self.kill_process,
            "process killed during a save": self.kill_process_during_save,
            "process hangs (SIGSTOP)": self.stop_process,
            "requeued without a signal": self.requeue,
            "cancelled, then submitted again": self.cancel,
        }

    def signal(self) -> None:
        call("scancel", "--signal=USR2", self.run.job)

    def preempt(self) -> None:
        call("sbatch", "-p", "urgent", "-N3", "--exclusive", "-t1", "-o", "/dev/null", "--wrap", "sleep 2")

    def kill_node(self) -> None:
        self.down = self.random.choice(self.run.nodes())
        self.cluster.kill_node(self.down)

    def kill_node_during_save(self) -> None:
        node = self.random.choice(self.run.nodes())
        self.save()
        self.down = node
        self.cluster.kill_node(node)

    def kill_process(self) -> None:
        os.kill(self.random.choice(list(self.run.processes().values())), signal.SIGKILL)

    def kill_process_during_save(self) -> None:
        process = self.random.choice(list(self.run.processes().values()))
        self.save()
        os.kill(process, signal.SIGKILL)

    def stop_process(self) -> None:
        os.kill(self.random.choice(list(self.run.processes().values())), signal.SIGSTOP)

    def requeue(self) -> None:
        call("scontrol", "requeue", self.run.job)

    def cancel(self) -> None:
        call("scancel", self.run.job)
        self.run.wait("the end of the job", lambda: self.run.state() == "CANCELLED")
        self.run.submit(f"resume={self.run.folder}")

    def save(self) -> None:
        """Wait for one that is under way."""
        folder = self.run.folder / "checkpoints"
        deadline = time.monotonic() + PATIENCE
        while not any(folder.glob("*.tmp")):
            if time.monotonic() > deadline:
                raise SystemExit("no checkpoint was begun")

    def repair(self) -> None:
        if self.down is not None:
            self.cluster.start_node(self.down)
            self.down = None


def call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def hit(name: str, faults: Faults, random_steps: int) -> tuple[str, int, int, float]:
    """(name, step before, step from which it went on, seconds until then) of one fault."""
    run = faults.run
    start = run.step
    run.wait("training", lambda: run.step >= start + random_steps and len(run.processes()) == 2)
    before, resumes, since = run.step, len(run.resumed), time.monotonic()
    faults.all()[name]()
    # Logged steps after the fault and before the end of the processes count as done, too.
    last = before
    while len(run.resumed) == resumes:
        last = max(last, run.step)
        if time.monotonic() - since > PATIENCE:
            raise SystemExit(f"{name}: no restart within {PATIENCE} s; job {run.job} is {run.state()}; {run.folder}")
        time.sleep(0.1)
    resumed, seconds = run.resumed[-1], time.monotonic() - since
    run.wait("a step after the restart", lambda: run.step > resumed)
    faults.repair()
    return name, last, resumed, seconds


def difference(one: Run, other: Run, steps: int) -> str:
    """What is not the same, in words; empty for nothing."""
    curves = [
        [{key: row[key] for key in row if key not in UNLIKE} for row in run.rows if "loss" in row]
        for run in (one, other)
    ]
    if curves[0] != curves[1]:
        return "the loss curves differ"
    stored = [dict(_tensors(run, steps)) for run in (one, other)]
    if stored[0].keys() != stored[1].keys():
        return "the checkpoints hold different tensors"
    differing = [name for name in stored[0] if not torch.equal(stored[0][name], stored[1][name])]
    return f"{len(differing)} of {len(stored[0])} tensors differ" if differing else ""


def _tensors(run: Run, steps: int):
    path = run.folder / "whole.pt"
    dcp_to_torch_save(run.folder / "checkpoints" / f"step_{steps:08d}", path)
    stack = [("", torch.load(path, weights_only=True))]
    path.unlink()
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{name}/{key}", inner) for key, inner in value.items()]
        else:
            yield name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="of the run; 0 for 40 for each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/dinotrain-faults"), help="is emptied first")
    args = parser.parse_args()
    steps = args.steps or 40 * args.faults
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    began = time.monotonic()
    with Cluster(args.folder / "slurm") as cluster:
        run, calm = Run(args.folder / "hit", steps), Run(args.folder / "calm", steps)
        run.submit()
        faults, chance = Faults(cluster, run, args.seed), random.Random(args.seed)
        names = list(faults.all())
        order = [name for _ in range(args.faults // len(names) + 1) for name in chance.sample(names, len(names))]
        results = []
        for number, name in enumerate(order[: args.faults], 1):
            results.append(hit(name, faults, chance.randint(3, 12)))
            _, last, resumed, seconds = results[-1]
            print(
                f"{number:3d}  {name:<34} at step {last:4d}, resumed at {resumed:4d} after {seconds:.0f} s", flush=True
            )
        run.wait("the end of the run", lambda: run.state() == "COMPLETED", 3600)
        calm.submit()
        calm.wait("the end of the other run", lambda: calm.state() == "COMPLETED", 3600)
        left = {**run.processes(), **calm.processes()}
    unlike = difference(run, calm, steps)
    Console(width=110).print(table(results))
    twice = sum(last - resumed for _, last, resumed, _ in results)
    same = f"NOT as the run without faults: {unlike}" if unlike else "bit-equal to the run without faults"
    print(f"{len(results)} faults, {len(run.resumed)} restarts; {twice} of {steps} steps done twice; {same}")
    print(f"{len(left) or 'no'} processes left; {(time.monotonic() - began) / 60:.0f} min")
    raise SystemExit(bool(unlike or left))


def table(results: list[tuple[str, int, int, float]]) -> Table:
    found = Table("fault", "times", "steps lost: most", "mean", "s to the restart: most", "mean")
    for column in found.columns[1:]:
        column.justify = "right"
    for name in sorted({name for name, *_ in results}):
        lost = [last - resumed for each, last, resumed, _ in results if each == name]
        seconds = [taken for each, _, _, taken in results if each == name]
        found.add_row(
            name,
            str(len(lost)),
            str(max(lost)),
            f"{sum(lost) / len(lost):.1f}",
            f"{max(seconds):.0f}",
            f"{sum(seconds) / len(seconds):.0f}",
        )
    return found


if __name__ == "__main__":
    main()
