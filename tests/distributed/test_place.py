"""Where a process stands, by what torchrun or SLURM put into its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinotrain.distributed.place import find_place, tasks_per_node
from dinotrain.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "a/b",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SRUN = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "node2",
}


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "scontrol"
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_a_process_alone() -> None:
    place = find_place({})
    assert (place.rank, place.size, place.local_rank, place.local_size, place.address) == (0, 1, 0, 1, None)


def test_of_torchrun() -> None:
    place = find_place(TORCHRUN)
    assert (place.rank, place.size, place.local_rank, place.local_size) == (5, 8, 1, 4)
    assert place.address == ("first", 29400)
    assert place.served
    assert place.attempt == "a_b.2"


@pytest.mark.usefixtures("scontrol")
def test_of_srun() -> None:
    place = find_place({**SRUN, "SLURM_RESTART_COUNT": "4"})
    assert (place.rank, place.size, place.local_rank, place.local_size) == (2, 3, 0, 1)
    assert place.host == "node2"
    assert place.hosts == ("node1", "node1", "node2")
    assert place.address is not None
    assert place.address[0] == "node1"
    assert place.attempt == "12.4"
    assert not place.served


@pytest.mark.usefixtures("scontrol")
def test_jobs_that_share_a_node_meet_at_different_ports() -> None:
    ports = {find_place({**SRUN, "SLURM_JOB_ID": str(job)}).address for job in range(100, 200)}
    assert len(ports) == 100


@pytest.mark.parametrize(
    "environ",
    [
        # a batch script, where the tasks of the job are not started
        {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        # a shell of one task
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_alone_within_a_job(environ: dict[str, str]) -> None:
    assert find_place(environ).size == 1


def test_torchrun_within_a_step_counts_first() -> None:
    assert find_place({**SRUN, **TORCHRUN}).size == 8


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(UserError, match="RANK is set, but MASTER_ADDR and MASTER_PORT not"):
        find_place({"RANK": "0", "WORLD_SIZE": "2"})


def test_scontrol_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol"):
        find_place(SRUN)


@pytest.mark.parametrize(("text", "counts"), [("2(x3),1", [2, 2, 2, 1]), ("8", [8]), ("4(x2)", [4, 4])])
def test_tasks_per_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts
