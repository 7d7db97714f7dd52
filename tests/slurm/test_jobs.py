"""Looking after real jobs: status, cancel, follow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from one_machine import SMALL, SUBMIT, Cluster
from real_runs import TINY, losses

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LONG = "optim.steps=2000"
ALL_NODES = ("+cluster.sbatch.exclusive=true", "cluster.nodes=3", "optim.global_batch=9")


def lines(cluster: Cluster, folder: Path) -> dict[str, str]:
    """What status says of each run of a folder, but for its name."""
    printed = cluster.launch("status", ".", cwd=folder).splitlines()[1:]
    return {line.split()[0]: " ".join(line.split()[1:]) for line in printed}


def test_status_and_cancel_of_a_running_and_a_waiting_job(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.submit(tmp_path / "first", LONG, *ALL_NODES)
    cluster.wait_for_step(tmp_path / "first", 2)
    second = cluster.submit(tmp_path / "second", LONG, *ALL_NODES)
    cluster.wait("a reason", lambda: cluster.field(second, "Reason") == "Resources")
    said = lines(cluster, tmp_path)
    assert re.match(rf"{first} running \d+/2000 \d+% .* 0 node\[0-2\]$", said["first"])
    assert said["second"] == f"{second} pending 0/2000 0% 0 waits for free nodes"

    printed = cluster.launch("cancel", "second", "first", cwd=tmp_path).splitlines()
    assert printed == [
        f"second: job {second} was waiting, and is cancelled",
        f"first: job {first} is asked to finish its step, save and end; resume=RUN goes on from there",
    ]
    cluster.wait_for_end(first)
    assert not cluster.wait_until_gone(first)
    last = max(losses(tmp_path / "first"))
    assert (tmp_path / "first" / "checkpoints" / f"step_{last:08d}" / "manifest.json").exists()
    said = lines(cluster, tmp_path)
    assert said["first"].endswith(f"stopped by SIGTERM at step {last} of 2000")
    assert said["second"] == f"{second} stopped 0/2000 0% 0 cancelled"
    assert cluster.launch("cancel", "first", cwd=tmp_path) == f"first: job {first} has ended before\n"


def test_cancelling_now_ends_a_job_within_seconds(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path / "run", LONG, nodes=2)
    cluster.wait_for_step(tmp_path / "run", 1)
    cluster.launch("cancel", "--now", "run", cwd=tmp_path)
    assert cluster.wait_for_end(job, 30) == "CANCELLED"
    assert not cluster.wait_until_gone(job)
    assert lines(cluster, tmp_path)["run"].endswith("cancelled")


def test_follow_shows_every_start_of_a_job(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path / "run", "optim.steps=20", nodes=2)
    with subprocess.Popen(
        [sys.executable, str(SUBMIT), "follow", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=cluster.environment,
    ) as following:
        cluster.wait_for_step(tmp_path / "run", 5)
        cluster.signal(job, "USR2")
        shown, said = following.communicate(timeout=600)
    assert following.returncode == 0, said
    assert [int(step) for step in re.findall(r"^step (\d+)/20  loss", shown, re.MULTILINE)] == list(range(1, 21))
    assert shown.count("dinotrain: start ") == 2
    assert f"job {job} is pending for start 2: starts again in a moment" in said
    assert said.endswith(f"job {job} has ended: finished\n")
    assert cluster.state(job) == "COMPLETED"


def test_a_node_that_does_not_share_the_folder_is_what_status_asks_about(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "shared" / "run"
    run_dir.parent.mkdir()
    cluster.kill_node(0)
    cluster.start_node(0, hide=run_dir.parent)
    job = cluster.submit(run_dir, LONG, "+cluster.sbatch.nodelist=node0")
    assert cluster.wait_for_end(job) == "FAILED"
    why = f"it ended before any output: is {run_dir / 'jobs' / '0001'} on a path that all nodes share?"
    assert lines(cluster, run_dir.parent)["run"] == f"{job} failed 0/2000 0% 0 node0 {why}"


def test_elements_of_an_array_are_jobs_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM knows the last element by the number of the whole array, too."""
    runs = [tmp_path / "sweep" / f"seed={seed}" for seed in range(3)]
    words = ("-m", "seed=0,1,2", LONG, "+cluster.sbatch.exclusive=true", f"output_dir={runs[0].parent}")
    cluster.launch(*TINY, *SMALL, "cluster.nodes=2", "data.source.length=200", *words, cwd=tmp_path)
    jobs = [cluster.job(run) for run in runs]
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    for run, job in zip(runs[:2], jobs):
        cluster.wait_for_step(run, 1)
        cluster.launch("cancel", str(run))
        cluster.wait_for_state(job, "FAILED")  # exit status 75: stopped
    cluster.wait_for_step(runs[2], 1)
    cluster.signal(jobs[2], "USR2")
    cluster.wait("its requeue", lambda: cluster.field(jobs[2], "RestartCnt") == "1")
    assert [cluster.field(job, "RestartCnt") for job in jobs] == ["0", "0", "1"]
    cluster.launch("cancel", "sweep", cwd=tmp_path, status=1)  # which of them is to be said
    cluster.launch("cancel", *map(str, runs))
    cluster.wait_for_end(jobs[2])
    said = lines(cluster, tmp_path)
    assert list(said) == ["sweep/seed=0", "sweep/seed=1", "sweep/seed=2"]
    assert all("stopped" in line for line in said.values())
