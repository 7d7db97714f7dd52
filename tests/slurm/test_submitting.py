"""Submitting to a real SLURM."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from one_machine import REPOSITORY, SMALL, SUBMIT, Cluster
from real_runs import TINY, checkpoint, losses, manifest, results, rows

from dinotrain.cluster.record import latest, records

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WORDS = (*TINY, *SMALL, "data.source.length=200", "checkpoint.every=4")


def refusal(cluster: Cluster, folder: Path, *words: str) -> str:
    """The line with which a submission is refused; the warning of the place comes before it."""
    done = subprocess.run(
        [sys.executable, SUBMIT, *WORDS, *words], capture_output=True, text=True, env=cluster.environment, cwd=folder
    )
    assert done.returncode == 1, done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: output_dir: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("error: ")


def test_a_job_on_two_nodes_finishes(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    printed = cluster.launch(*WORDS, "cluster.nodes=2", f"output_dir={run_dir}", cwd=tmp_path)
    job = cluster.job(run_dir)
    assert f"job {job}: quickstart, 2 nodes x 1 process" in printed
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log(run_dir)
    assert results(run_dir)["finished"]
    assert results(run_dir)["processes"] == 2
    assert list(losses(run_dir)) == list(range(1, 13))
    (log,) = re.findall(r"^  log +(.+)$", printed, re.MULTILINE)
    assert "dinotrain: done" in Path(log).read_text()


def test_what_slurm_does_not_give_is_refused_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    for words, line in (
        (["cluster.partition=nope"], "cluster.partition: got nope, but there is no such partition; there are: main"),
        (["cluster.gpus_per_node=8"], "cluster.gpus_per_node: got 8, but no node of partition main has GPUs"),
        (["cluster.constraint=fast"], "cluster.constraint: no node of the default partition has fast"),
        (["cluster.sbatch.nonsense=1"], "cluster.sbatch.nonsense: sbatch has no such option"),
    ):
        assert refusal(cluster, tmp_path, *words).startswith(line)
    assert not list(tmp_path.glob("runs/*"))
    assert not cluster.command("squeue", "-h")


def test_a_run_has_one_job_and_goes_on_with_another_number_of_nodes(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = cluster.submit(run_dir, "optim.steps=400", "checkpoint.every=4", nodes=2)
    cluster.wait_for_step(run_dir, 3)
    line = refusal(cluster, tmp_path, f"output_dir={run_dir}")
    assert line.startswith(f"output_dir: job {job} of {run_dir} is still alive (RUNNING on node[0-1])")
    cluster.launch("cancel", str(run_dir))
    cluster.wait_for_end(job)
    # Elsewhere, with nothing but the folder and what is to be different.
    printed = cluster.launch(f"resume={run_dir}", "cluster.nodes=1", cwd=Path("/"))
    assert "1 node x 1 process" in printed
    assert latest(run_dir) == records(run_dir)[1]
    cluster.wait(
        f"the restart; log:\n{cluster.log(run_dir)}", lambda: [row for row in rows(run_dir) if "resume" in row.values()]
    )
    before = max(step for step in losses(run_dir))
    cluster.wait_for_step(run_dir, before + 2)
    cluster.launch("cancel", str(run_dir))
    cluster.wait_for_end(cluster.job(run_dir))
    assert list(losses(run_dir)) == list(range(1, max(losses(run_dir)) + 1))
    assert results(run_dir)["processes"] == 1


def test_an_array_trains_a_run_for_each_seed(cluster: Cluster, tmp_path: Path) -> None:
    words = (*WORDS, "optim.steps=4", f"output_dir={tmp_path / 'seeds'}")
    printed = cluster.launch("-m", "seed=0,1", *words, cwd=tmp_path)
    (number,) = re.findall(r"^array (\d+): 2 jobs", printed, re.MULTILINE)
    runs = [tmp_path / "seeds" / f"seed={seed}" for seed in (0, 1)]
    assert [cluster.job(run_dir) for run_dir in runs] == [f"{number}_0", f"{number}_1"]
    for run_dir in runs:
        assert cluster.wait_for_end(cluster.job(run_dir)) == "COMPLETED", cluster.log(run_dir)
        assert results(run_dir)["finished"]
    assert losses(runs[0])[4] != losses(runs[1])[4]


def test_the_code_that_runs_is_the_code_that_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    tree, run_dir = tmp_path / "tree", tmp_path / "run"
    for name in ("dinotrain", "configs", "launch"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "dinotrain" / "commands" / "job.py").open("a") as file:
        file.write('\nprint("as it was submitted", flush=True)\n')
    words = (*WORDS, "optim.steps=4", "cluster.sbatch.hold=true", f"output_dir={run_dir}")
    # From the tree itself, whose folder Python would look in first.
    cluster.command(sys.executable, "launch/slurm.py", *words, cwd=tree)
    for path in (tree / "dinotrain").rglob("*.py"):
        path.write_text("raise RuntimeError('changed since')\n")
    cluster.command("scontrol", "release", cluster.job(run_dir))
    assert cluster.wait_for_end(cluster.job(run_dir)) == "COMPLETED", cluster.log(run_dir)
    assert cluster.log(run_dir).count("as it was submitted") >= 1
    assert manifest(run_dir, 4)
    assert checkpoint(run_dir, 4).exists()
