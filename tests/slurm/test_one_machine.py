"""The cluster on one machine itself, and the helpers of the other tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from one_machine import SCRIPT, Cluster

pytestmark = pytest.mark.slurm


def test_a_step_over_all_nodes_has_its_own_processes_on_each(cluster: Cluster) -> None:
    job = cluster.sbatch("-N3", "--ntasks-per-node=2", script="srun sleep 100")
    cluster.wait("six tasks", lambda: len({p.rank for p in cluster.processes(job)} - {None}) == 6)
    assert {p.rank for p in cluster.processes(job, node=2)} == {4, 5}
    assert cluster.nodes(job) == ["node0", "node1", "node2"]
    cluster.kill_rank(job, 5)
    cluster.wait("five tasks", lambda: len({p.rank for p in cluster.processes(job)} - {None}) == 5)


def test_a_node_without_power_loses_its_processes_and_the_job_is_requeued(cluster: Cluster) -> None:
    job = cluster.sbatch("-N2", script="srun sleep 100")
    cluster.wait("two tasks", lambda: len({p.rank for p in cluster.processes(job)} - {None}) == 2)
    cluster.kill_node(1)
    assert not cluster.processes(job, node=1)
    cluster.wait_for_state(job, "RUNNING")
    assert cluster.field(job, "RestartCnt") == "1"
    assert cluster.nodes(job) == ["node0", "node2"]


def test_a_node_can_be_without_a_folder_that_the_others_share(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cluster.kill_node(2)
    cluster.start_node(2, hide=tmp_path)
    found = cluster.command("srun", "-Q", "-N3", "-l", "ls", str(tmp_path)).splitlines()
    assert sorted(found) == ["0: file", "1: file"]


def test_all_nodes_are_back_after_such_tests(cluster: Cluster) -> None:
    states = cluster.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").split("\n")
    assert states[:3] == ["node0 idle", "node1 idle", "node2 idle"]


def test_starting_twice_changes_nothing(cluster: Cluster) -> None:
    job = cluster.sbatch(script="sleep 100")
    cluster.wait_for_state(job, "RUNNING")
    assert "export SLURM_CONF=" in cluster.script("start")
    assert cluster.state(job) == "RUNNING"
    assert cluster.field(job, "RestartCnt") == "0"


@pytest.mark.parametrize(
    ("changes", "words", "line"),
    [
        ({"NODES": "2"}, ["start"], "error: {root}: this cluster runs with other settings; stop it first"),
        ({"NODES": "0"}, ["start"], "error: NODES=0: expected 1 to 70"),
        (
            {"ONE_MACHINE_SLURM": "/tmp/slurm-none"},
            ["start"],
            "error: port {port} is taken, maybe by another cluster: set ONE_MACHINE_SLURM_PORT (now {port})",
        ),
        ({"ONE_MACHINE_SLURM": "/tmp/slurm-none"}, ["status"], "error: /tmp/slurm-none: no cluster runs here"),
        ({"ONE_MACHINE_SLURM": "here"}, ["start"], "error: ONE_MACHINE_SLURM=here: expected an absolute path"),
        ({}, ["kill-node", "7"], "error: got '7', expected the number of a node, from 0"),
        ({}, ["start-node", "1", "hide=/srv"], "error: node1 runs already: kill-node 1 first"),
        ({}, ["start-node", "1", "hide=/tmp/"], "error: hide=/tmp/: the cluster's own folder {root} is in it"),
        ({}, ["start-node", "1", "hide=/none"], "error: hide=/none: no such folder"),
    ],
)
def test_mistakes_are_said_in_a_line(cluster: Cluster, changes: dict[str, str], words: list[str], line: str) -> None:
    environment = cluster.environment | changes
    done = subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True, env=environment)
    expected = line.format(root=cluster.root, port=cluster.environment["ONE_MACHINE_SLURM_PORT"])
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
    assert not Path("/tmp/slurm-none").exists()
