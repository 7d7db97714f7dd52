"""Evaluations as jobs of a real SLURM."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from one_machine import SMALL as SMALL_JOB
from one_machine import Cluster
from real_runs import SHORT, SMALL, run_here

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DATA = ("data=embedded", "data.source.length=200", "device=cpu", "knn.k=[1]", "cache=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    run_here("+experiment=quickstart", *SHORT, *SMALL, f"output_dir={run}")
    return run


def test_an_evaluation_on_two_nodes_finds_what_one_process_finds(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    from dinotrain.evaluate import main

    assert main(["task=knn", f"weights={trained}", *DATA, f"output_dir={tmp_path / 'here'}"]) == 0
    folder = tmp_path / "there"
    printed = cluster.launch(
        "evaluate", "task=knn", f"weights={trained}", *DATA, *SMALL_JOB, "cluster.nodes=2", f"output_dir={folder}"
    )
    job = cluster.job(folder)
    assert f"job {job}: evaluation, 2 nodes x 1 process" in printed
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log(folder)
    here, there = (json.loads((place / "results.json").read_text()) for place in (tmp_path / "here", folder))
    assert there["processes"] == 2
    assert there["tasks"]["knn"]["numbers"] == pytest.approx(here["tasks"]["knn"]["numbers"])
    (log,) = re.findall(r"^  log +(.+)$", printed, re.MULTILINE)
    assert "dinotrain: done: all 1 tasks" in Path(log).read_text()


def test_a_mistake_costs_no_place_in_the_queue(cluster: Cluster, trained: Path, tmp_path: Path) -> None:
    words = ("evaluate", "task=depth", f"weights={trained}", *DATA, *SMALL_JOB)
    cluster.launch(*words, f"output_dir={tmp_path / 'out'}", status=1)
    assert not cluster.command("squeue", "-h")
    assert not (tmp_path / "out").exists()
