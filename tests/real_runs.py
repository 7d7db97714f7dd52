"""Starting real training runs, small enough for a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

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
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    own = any(word.startswith("data=") for word in overrides)
    length = [] if own else ["data.source.length=200"]
    return [*start, "dinotrain.train", *TINY, *length, f"output_dir={run_dir}", *overrides]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def run(run_dir: Path, *overrides: str, processes: int = 1, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(run_dir, *overrides, processes=processes),
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
        cwd=run_dir.parent,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(run_dir, *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=run_dir.parent,
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
    output, _ = process.communicate(timeout=120)
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
