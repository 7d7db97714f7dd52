"""What happens to runs on a cluster, and what is left of them afterwards: all of it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from one_machine import Cluster
from real_runs import assert_same_run, results, rows, run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 40
LONG = (f"optim.steps={STEPS}", "checkpoint.every=4", "method.objective.koleo_weight=0.1")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by torchrun, with two processes."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, *LONG, processes=2)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def restarts(run_dir: Path) -> list[int]:
    """The step of each restart."""
    return [row["step"] for row in rows(run_dir) if row.get("event") == "resume"]


def wait_for_restart(cluster: Cluster, run_dir: Path, number: int) -> int:
    """Until the run has begun anew so many times; returns from which step."""
    cluster.wait(f"restart {number}\n{cluster.log(run_dir)[-3000:]}", lambda: len(restarts(run_dir)) >= number)
    return restarts(run_dir)[number - 1]


def last_step(run_dir: Path) -> int:
    return max((row["step"] for row in rows(run_dir) if "loss" in row), default=0)


def finished(cluster: Cluster, run_dir: Path, uninterrupted: Path) -> None:
    """Waits for the end of the job, and compares everything with the run that nothing happened to."""
    assert cluster.wait_for_end(cluster.job(run_dir), 180) == "COMPLETED", cluster.log(run_dir)
    assert_same_run(uninterrupted, run_dir, STEPS)
    assert not cluster.wait_until_gone(cluster.job(run_dir))


def ended(run_dir: Path) -> list[dict]:
    """How each start of the latest job ended, as its script found it."""
    path = sorted(run_dir.glob("jobs/*/ended.jsonl"))[-1]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_three_times_the_signal_of_a_time_limit(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    job = cluster.submit(folder, *LONG, nodes=2)
    for number, step in enumerate((3, 12, 24), 1):
        cluster.wait_for_step(folder, step)
        cluster.command("scancel", "--signal=USR2", job)
        resumed = wait_for_restart(cluster, folder, number)
        # Nothing is done twice: it was saved where it stopped.
        assert resumed == max(row["step"] for row in rows(folder) if row.get("event") == "interrupted")
    finished(cluster, folder, uninterrupted)
    assert results(folder)["restarts"] == 3
    found = [(each["outcome"], each["then"]) for each in ended(folder)]
    assert found == [("stopped", "requeued")] * 3 + [("done", "ended")]


def test_preempted_by_another_job(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    job = cluster.submit(folder, *LONG, nodes=2)
    cluster.wait_for_step(folder, 5)
    other = cluster.sbatch("--partition=urgent", "--nodes=3", "--exclusive", "--time=1", script="sleep 3")
    wait_for_restart(cluster, folder, 1)
    assert cluster.state(other) == "COMPLETED"
    assert cluster.job(folder) == job
    finished(cluster, folder, uninterrupted)
    assert rows(folder)[-1]["step"] == STEPS


@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_dies_and_a_spare_one_takes_its_place(
    cluster: Cluster, folder: Path, uninterrupted: Path, lost: int
) -> None:
    job = cluster.submit(folder, *LONG, nodes=2)
    cluster.wait_for_step(folder, 6)
    nodes = cluster.nodes(job)
    cluster.kill_node(int(nodes[lost].removeprefix("node")))
    step = wait_for_restart(cluster, folder, 1)
    assert step % 4 == 0
    assert nodes[lost] not in cluster.nodes(job)
    finished(cluster, folder, uninterrupted)


def test_a_node_dies_during_a_save(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    job = cluster.submit(folder, *LONG, nodes=2)
    cluster.wait_for_step(folder, 5)
    node = int(cluster.nodes(job)[1].removeprefix("node"))
    deadline = time.monotonic() + 60
    while not list((folder / "checkpoints").glob("*.tmp")):
        assert time.monotonic() < deadline
    cluster.kill_node(node)
    wait_for_restart(cluster, folder, 1)
    finished(cluster, folder, uninterrupted)
    assert not list((folder / "checkpoints").glob("*.tmp"))


def test_a_process_is_killed(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    job = cluster.submit(folder, *LONG, nodes=2)
    cluster.wait_for_step(folder, 6)
    node = cluster.rank(job, 1).node
    cluster.kill_rank(job, 1)
    wait_for_restart(cluster, folder, 1)
    text = (folder / "failure.txt").read_text()
    assert re.search(rf"start {job}\.0: process 1 on {node}: ended by: Killed", text), text
    assert "lost the connection to another process" in text
    assert (ended(folder)[0]["outcome"], ended(folder)[0]["then"]) == ("failed", "requeued")
    finished(cluster, folder, uninterrupted)


def test_after_too_many_failures_it_stays_down(cluster: Cluster, folder: Path) -> None:
    job = cluster.submit(folder, *LONG, "cluster.restart_on_failure=0", nodes=2)
    cluster.wait_for_step(folder, 2)
    cluster.kill_rank(job, 0)
    assert cluster.wait_for_end(job) == "FAILED"
    assert ended(folder)[-1]["outcome"] == "failed"
    assert not cluster.wait_until_gone(job)


def test_a_process_hangs(cluster: Cluster, folder: Path, uninterrupted: Path) -> None:
    job = cluster.submit(folder, *LONG, "parallel.timeout_minutes=0.1", nodes=2)
    cluster.wait_for_step(folder, 6)
    stopped = cluster.rank(job, 1)
    cluster.kill_rank(job, 1, signal.SIGSTOP)
    wait_for_restart(cluster, folder, 1)
    text = (folder / "failure.txt").read_text()
    # SLURM wakes it up to end it, and it may have time to say so itself.
    found = rf"process 1 on {stopped.node} (did not answer any more|stood still for \d+ s .*); the others waited"
    assert re.search(found, text), text
    assert re.search(r"process 0 on node\d: did not go on, step", text), text
    assert "torch/distributed" in text
    finished(cluster, folder, uninterrupted)


def test_a_mistake_of_the_users_is_not_tried_again(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    from real_runs import make_images

    make_images(images, 20)
    words = ("data=folder", f"data.root={images}", "data.max_broken=0.01", *LONG)
    job = cluster.submit(folder, *words, nodes=2)
    cluster.wait_for_step(folder, 1)
    for path in sorted(images.glob("*.png"))[:12]:
        path.write_bytes(b"broken")
    assert cluster.wait_for_end(job) == "FAILED"
    (only,) = ended(folder)
    assert only["then"] == "ended"
    assert "data.max_broken" in only["reason"]


def test_cancelled_and_submitted_again_with_another_number_of_nodes(
    cluster: Cluster, folder: Path, uninterrupted: Path
) -> None:
    job = cluster.submit(folder, *LONG, nodes=1)
    cluster.wait_for_step(folder, 5)
    cluster.command("scancel", job)
    assert cluster.wait_for_end(job) == "CANCELLED"
    assert not cluster.wait_until_gone(job)
    done = last_step(folder)
    cluster.launch(f"resume={folder}", "cluster.nodes=3", "cluster.cpus_per_task=1", "optim.global_batch=8", status=1)
    cluster.launch(f"resume={folder}", "cluster.nodes=2", "cluster.tasks_per_node=2")
    assert cluster.job(folder) != job
    assert cluster.wait_for_end(cluster.job(folder), 180) == "COMPLETED", cluster.log(folder)
    assert 4 <= restarts(folder)[0] <= done
    assert results(folder)["processes"] == 4
    assert last_step(folder) == STEPS


def test_the_time_limit(cluster: Cluster, folder: Path) -> None:
    """SLURM looks at limits every half minute, and signals up to half a minute early."""
    words = ("optim.steps=100000", "log_every=10", "cluster.time=1m", "cluster.signal_delay_s=20", "cluster.requeues=1")
    job = cluster.submit(folder, *words)
    wait_for_restart(cluster, folder, 1)
    assert cluster.wait_for_end(job, 150) == "FAILED"
    first, second = ended(folder)
    assert (first["outcome"], first["then"]) == ("stopped", "requeued")
    assert (second["outcome"], second["then"]) == ("stopped", "ended")
    assert "cluster.requeues: 1 restarts are made" in second["reason"]
    assert cluster.field(job, "exit_code") == str(75 << 8)  # as wait() gives it


THREE = ("optim.global_batch=9", "cluster.restart_on_failure=0")
CLOCK = """
import os, time
if os.environ.get("SLURMD_NODENAME") == "node1" and "SLURM_STEP_ID" in os.environ:
    right = time.time
    time.time = lambda: right() + 600
"""


def test_a_host_with_a_wrong_clock(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "sitecustomize.py").write_text(CLOCK)
    setup = f"cluster.setup=['export PYTHONPATH={tmp_path / 'wrong'}']"
    job = cluster.submit(folder, *LONG, *THREE, setup, nodes=3)
    assert cluster.wait_for_end(job) == "FAILED"
    assert "node1: its clock is 600 s ahead" in ended(folder)[-1]["reason"]
    assert not rows(folder)


def test_a_host_that_does_not_see_the_run_folder(cluster: Cluster, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    cluster.kill_node(2)
    cluster.start_node(2, hide=shared)
    job = cluster.submit(shared / "run", *LONG, *THREE, nodes=3)
    assert cluster.wait_for_end(job, 180) == "FAILED"
    reason = ended(shared / "run")[-1]["reason"]
    assert "node2" in reason
    assert "shared" in reason
    shutil.rmtree(shared / "run")
