"""Starting real training runs, small enough for a test."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from dinotrain.commands.ending import Status
from dinotrain.train import main
from dinotrain.training.state import TrainState
from dinotrain.training.step import train_step

TINY = (
    "+experiment=quickstart",
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=2",
    "method.dino_head.hidden_dim=32",
    "method.dino_head.bottleneck_dim=16",
    "method.dino_head.num_prototypes=64",
    "optim.global_batch=8",
    "optim.steps=12",
    "optim.warmup=0.2",
    "checkpoint.every=2",
    "checkpoint.keep_last=50",
    "evaluation.every=null",
    "evaluation.max_train=60",
    "evaluation.max_test=20",
    "evaluation.pictures=2",
    "log_every=1",
    "runtime.workers=0",
    "runtime.precision=fp32",
)
"""A network of some thousand weights, twelve steps of eight images."""


def command(run_dir: Path, *overrides: str, processes: int = 1) -> list[str]:
    own = any(word.startswith("data=") for word in overrides)
    length = [] if own else ["data.source.length=200"]
    return command_of(*TINY, *length, f"output_dir={run_dir}", *overrides, processes=processes)


def command_of(*words: str, processes: int = 1) -> list[str]:
    """The training command with these words; of those below, without the model's where students are listed."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    return [*start, "dinotrain.train", *_without_model(words)]


def _without_model(words: Sequence[str]) -> list[str]:
    several = any(word.startswith("students=") for word in words)
    ours = [word for word in (*SHORT, *SMALL, *LARGE) if word.startswith("model.")]
    return [word for word in words if not (several and word in ours)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def run(run_dir: Path, *overrides: str, processes: int = 1, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run_command(command(run_dir, *overrides, processes=processes), run_dir.parent, status)


def run_command(words: list[str], folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, env=environment(), cwd=folder)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    return start_command(command(run_dir, *overrides), run_dir.parent)


def start_command(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=folder
    )


def wait_for_step(process: subprocess.Popen[str], run_dir: Path, step: int, seconds: float = 120) -> None:
    """Until the run has logged a step; fails if it ends before."""
    deadline = time.monotonic() + seconds
    while max((row["step"] for row in rows(run_dir) if "loss" in row), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} was not reached in {seconds} s"
        time.sleep(0.02)


def wait_for_file(process: subprocess.Popen[str], path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} was not there in {seconds} s"
        time.sleep(0.02)


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def rows(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run_dir: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(run_dir) if "loss" in row}


def make_images(folder: Path, count: int, classes: int = 0) -> Path:
    generator = np.random.default_rng(0)
    for index in range(count):
        place = folder / f"class_{index % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(place / f"{index:04d}.png")
    return folder


SHORT = (
    "crops=small_24",
    "model.image_size=24",
    "model.patch_size=6",
    "optim.global_batch=8",
    "optim.steps=6",
    "optim.warmup=0.2",
    "checkpoint.every=2",
    "checkpoint.keep_last=50",
    "evaluation.every=null",
    "evaluation.max_train=20",
    "evaluation.max_test=10",
    "evaluation.pictures=0",
    "log_every=1",
    "runtime.workers=0",
    "runtime.precision=fp32",
    "data.source.length=60",
)
"""Six steps of eight images of 4x4 patches."""

HEADS = tuple(
    f"method.{head}.{key}"
    for head, prototypes in (("dino_head", 40), ("ibot_head", 48))
    for key in ("hidden_dim=24", "bottleneck_dim=16", f"num_prototypes={prototypes}")
)
LARGE = ("model.embed_dim=64", "model.depth=2", "model.num_heads=1")
SMALL = ("model.embed_dim=16", "model.depth=2", "model.num_heads=2")

TEACHER = ("+experiment=quickstart", *SHORT, *LARGE, *HEADS)
"""A pre-trained network, one attention head of the usual 64 channels wide."""

DISTILLED = ("+experiment=distill_quickstart", *SHORT, *SMALL)
FEATURES = ("+experiment=distill_features_quickstart", *SHORT, *SMALL)


class Printed(NamedTuple):
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def run_here(*words: str, status: int | None = None, stop_after: int | None = None, report: bool = False) -> Printed:
    """The training command in this process, which is much quicker than in one of its own.

    Args:
        status: the exit status with which it has to end; None for that of success, or of a stop where there is one.
        stop_after: the step after which the process gets a SIGTERM.
        report: whether `report.html` is written as usual, which takes longer than all the rest.
    """
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    # As many as in a process of its own, so that sums are the same.
    torch.set_num_threads(1)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            if not report:
                stack.enter_context(mock.patch("dinotrain.commands.results.write_report", lambda folder: folder))
            if stop_after is not None:
                stack.enter_context(_terminated_after(stop_after))
            found = main(_without_model(words))
    finally:
        torch.set_num_threads(threads)
    expected = status if status is not None else Status.DONE if stop_after is None else Status.STOPPED
    assert found == expected, f"exit status {found}\n{out.getvalue()}\n{err.getvalue()}"
    assert "Traceback" not in err.getvalue()
    return Printed(out.getvalue(), err.getvalue())


def refused(*words: str) -> str:
    """The one line with which the command ends, with exit status 1."""
    return run_here(*words, status=1).line


@contextlib.contextmanager
def _terminated_after(step: int) -> Iterator[None]:
    def then_end(states: Sequence[TrainState], *rest: Any, **more: Any) -> Any:
        found = train_step(states, *rest, **more)
        if states[0].step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    with mock.patch("dinotrain.training.loop.train_step", then_end):
        yield


def results(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def checkpoint(run_dir: Path, step: int = 6) -> Path:
    return run_dir / "checkpoints" / f"step_{step:08d}"


def manifest(run_dir: Path, step: int = 6) -> dict:
    return json.loads((checkpoint(run_dir, step) / "manifest.json").read_text())


def stored(run_dir: Path, step: int = 6) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, by names as long as they get."""
    path = run_dir / f"step_{step}.pt"
    dcp_to_torch_save(checkpoint(run_dir, step), path)
    found = dict(_flatten(torch.load(path, weights_only=True), ""))
    path.unlink()
    return found


def _flatten(tree: dict, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


UNLIKE = ("time", "images_per_second", "data_wait", "memory_gb", "gpu_watts")
"""What is never the same in two runs."""


def numbers(run_dir: Path) -> list[dict]:
    """All rows of the metrics but those of interrupts and warnings, without times and the like."""
    kept = (row for row in rows(run_dir) if not row.keys() & {"event", "warning"})
    return [{key: row[key] for key in row if key not in UNLIKE} for row in kept]


def assert_same_run(one: Path, other: Path, step: int = 6) -> None:
    """Bit-equal in all that was logged and in all that the last checkpoint holds."""
    for row, same in zip(numbers(one), numbers(other), strict=True):
        assert row == same, f"{sorted(row.items() ^ same.items())} at step {row['step']}"
    a, b = stored(one, step), stored(other, step)
    assert a.keys() == b.keys()
    assert len(a) > 50
    for name in a:
        assert torch.equal(a[name], b[name]), name
