"""Collectives over processes, and what they are without any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawn import run_processes

from dinotrain.distributed.collectives import gather_rows, max_over_processes, mean_over_processes, sum_over_processes
from dinotrain.distributed.world import World, join_world


def test_identity_without_a_group() -> None:
    x = torch.arange(6.0).view(2, 3)
    for collective in (sum_over_processes, mean_over_processes, max_over_processes, gather_rows):
        assert torch.equal(collective(x.clone()), x)


def _collect(rank: int, sizes: list[int]) -> dict[str, Any]:
    x = torch.tensor([float(rank), 10.0 - rank])
    rows = torch.full((sizes[rank], 2), float(rank))
    world = World(rank, len(sizes), rank, len(sizes), torch.device("cpu"), dist.new_group(backend="gloo"))
    world.barrier()
    return {
        "sum": sum_over_processes(x.clone()),
        "mean": mean_over_processes(x.clone()),
        "max": max_over_processes(x.clone()),
        "rows": gather_rows(rows),
        "any": [world.any(False), world.any(rank == 1)],
        "gathered": world.gather({"rank": rank}),
        "main": world.main,
    }


@pytest.mark.parametrize("sizes", [[2, 3], [3, 0], [0, 0]])
def test_two_processes(sizes: list[int]) -> None:
    for rank, out in enumerate(run_processes(2, _collect, sizes)):
        assert out["sum"].tolist() == [1.0, 19.0]
        assert out["mean"].tolist() == [0.5, 9.5]
        assert out["max"].tolist() == [1.0, 10.0]
        assert out["rows"].tolist() == [[0.0, 0.0]] * sizes[0] + [[1.0, 1.0]] * sizes[1]
        assert out["any"] == [False, True]
        assert out["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert out["main"] == (rank == 0)


def test_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with join_world("cpu", 1.0) as world:
        assert (world.rank, world.size, world.main) == (0, 1, True)
        assert dist.is_initialized()
        assert world.any(True)
        assert world.gather("x") == ["x"]
    assert not dist.is_initialized()


def _fails(rank: int) -> None:
    if rank == 1:
        raise RuntimeError("this one gives up")
    sum_over_processes(torch.zeros(1))


def test_a_failing_process_fails_the_test_with_its_reason() -> None:
    with pytest.raises(AssertionError, match="this one gives up"):
        run_processes(2, _fails)
