"""Machines that are not like the others are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawn import run_processes

from dinotrain.distributed import health_check
from dinotrain.distributed.health_check import Facts, check_machines, differences, problems
from dinotrain.distributed.world import World
from dinotrain.errors import FaultError

VERSIONS: dict[str, str | None] = {"torch": "2.13.0", "xformers": None}
GOOD = [Facts(f"node{rank // 2}", 1000.0, VERSIONS, "cuda", "H200", f"{rank}") for rank in range(6)]


def changed(rank: int, **facts: Any) -> list[str]:
    return problems([replace(fact, **facts) if index == rank else fact for index, fact in enumerate(GOOD)])


def test_machines_that_are_alike() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"clock": 1100.0}, "node1: its clock is 100 s ahead"),
        ({"clock": 900.0}, "node1: its clock is 100 s behind"),
        ({"versions": {**VERSIONS, "torch": "2.11.0"}}, "node1: torch is 2.11.0, elsewhere 2.13.0"),
        ({"versions": {**VERSIONS, "xformers": "0.0.35"}}, "node1: xformers is 0.0.35, elsewhere missing"),
        ({"device": "cpu"}, "node1: it would train on cpu, the others on cuda"),
        ({"gpu_id": "2"}, "node1: 2 processes are on the same GPU"),
        ({"trouble": ("its GPU does not work (ECC)",)}, "node1: its GPU does not work (ECC)"),
    ],
)
def test_the_odd_one_is_named(facts: dict[str, Any], expected: str) -> None:
    assert changed(3, **facts) == [expected]


def test_what_is_only_worth_a_word() -> None:
    other = replace(GOOD[3], gpu="A100", versions={**VERSIONS, "numpy": "2.0"})
    facts = [*GOOD[:3], other, *GOOD[4:]]
    assert problems(facts) == []
    assert differences(facts) == ["node1: numpy is 2.0, elsewhere missing", "node1: its GPU is A100, elsewhere H200"]


def test_hosts_with_the_same_trouble_stand_together() -> None:
    bad = [replace(fact, trouble=("can't write",)) if fact.host != "node1" else fact for fact in GOOD]
    assert problems(bad) == ["node0, node2: can't write"]


def _check(rank: int, size: int, folders: list[str]) -> Any:
    health_check.VISIBLE_SECONDS = 1.0
    control = dist.new_group(backend="gloo")
    world = World(rank, size, rank, size, torch.device("cpu"), control, host=f"node{rank}")
    try:
        return [fact.host for fact in check_machines(world, Path(folders[rank]))]
    except FaultError as error:
        return str(error)


def test_all_see_the_same_folder(tmp_path: Path) -> None:
    found = run_processes(2, _check, 2, [str(tmp_path)] * 2)
    assert found == [["node0", "node1"]] * 2
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("shared", "shared", "own")]
    found = run_processes(3, _check, 3, folders)
    assert len(set(found)) == 1
    assert found[0].startswith(f"node2: does not see in {folders[2]} what process 0 wrote there")
    assert not list((tmp_path / "own").iterdir())


def test_a_folder_that_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = run_processes(2, _check, 2, [str(tmp_path), str(tmp_path / "file" / "in")])
    assert found[1].startswith("node1: can't write to the run folder")
