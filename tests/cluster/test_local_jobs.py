"""Jobs of this machine: processes that nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_runs import SHORT, SMALL, environment, results, rows

from dinotrain.cluster.record import Record, latest
from dinotrain.cluster.scheduler import job_state

LAUNCHER = Path(__file__).parents[2] / "launch" / "slurm.py"
WORDS = ("+experiment=quickstart", *SHORT, *SMALL, "cluster=local")


def submit(folder: Path, *words: str) -> tuple[Record, str]:
    """Submit and wait for the end of the command, whose output nobody else may hold open."""
    command = [sys.executable, str(LAUNCHER), *WORDS, f"output_dir={folder}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment(), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    record = latest(folder)
    assert record is not None
    return record, done.stdout


def log(record: Record, rank: int = 0) -> str:
    path = Path(record.logs) / f"{record.job}_{rank}_log.out"
    return path.read_text() if path.exists() else ""


def wait_for_end(record: Record, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while job_state(record).alive:
        assert time.monotonic() < deadline, log(record)
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_run_to_the_end_whatever_becomes_of_the_terminal(tmp_path: Path) -> None:
    setup = "cluster.setup=['export GREETING=hello','echo $GREETING','printenv CUDA_VISIBLE_DEVICES || echo all GPUs']"
    record, printed = submit(tmp_path / "run", "cluster.tasks=2", setup)
    assert f"local job {record.job}: quickstart, 2 processes of this machine" in printed
    assert job_state(record).alive
    assert record.job is not None
    os.kill(int(record.job), signal.SIGHUP)
    wait_for_end(record)
    assert results(tmp_path / "run")["finished"], log(record)
    assert results(tmp_path / "run")["processes"] == 2
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert log(record, 0).startswith("hello\nall GPUs\n")
    assert log(record, 1).startswith("hello\nall GPUs\n")
    assert not (tmp_path / "run" / "failures").exists()


@pytest.mark.slow
def test_a_second_job_of_a_run_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    record, _ = submit(tmp_path / "run", "optim.steps=100000")
    command = [sys.executable, str(LAUNCHER), *WORDS, f"output_dir={tmp_path / 'run'}", "optim.steps=100000"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: output_dir: local job {record.job} of {tmp_path / 'run'} is still alive")
    assert record.job is not None
    os.kill(int(record.job), signal.SIGTERM)
    wait_for_end(record)
