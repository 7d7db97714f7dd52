from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fake_setting import fake_setting
from spawn import run_processes

from dinotrain.evaluation.tasks.clusters import Clusters
from dinotrain.evaluation.tasks.knn import Knn
from dinotrain.evaluation.tasks.logistic import Logistic
from dinotrain.evaluation.tasks.retrieval import Retrieval

TASKS = {
    "knn": Knn(k=(3, 10), per_class=(2,), repeats=2),
    "logistic": Logistic(points=3, c=(1e-2, 1)),
    "retrieval": Retrieval(),
    "clusters": Clusters(restarts=3),
}


def evaluated(rank: int, size: int) -> dict[str, Any]:
    """Numbers and values per image of every task, how often each ticked, and whether it has pictures."""
    torch.set_num_threads(1)
    found = {}
    for name, task in TASKS.items():
        ticks: list[int] = []
        setting = fake_setting(
            train=300, test=1100, spread=2.0, broken=(7,), rank=rank, size=size, check=partial(ticks.append, 1)
        )
        outcome = task.run(setting)
        assert outcome.per_image is not None
        found[name] = {
            "numbers": outcome.numbers,
            "value": torch.from_numpy(np.array(outcome.per_image.arrays["value"])),
            "ticks": len(ticks),
            "pictures": len(outcome.pictures),
        }
    return found


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_processes(2, evaluated, 2, seconds=180)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    threads = torch.get_num_threads()
    found = evaluated(0, 1)
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_find_what_one_finds(one: dict[str, Any], two: list[dict[str, Any]], task: str) -> None:
    for found in two:
        assert found[task]["numbers"] == one[task]["numbers"]
        assert torch.equal(found[task]["value"], one[task]["value"])
    assert two[0][task]["ticks"] == two[1][task]["ticks"] > 0


@pytest.mark.parametrize("task", ["knn", "retrieval", "clusters"])
def test_pictures_are_made_by_one_process(two: list[dict[str, Any]], task: str) -> None:
    assert two[0][task]["pictures"] == 1
    assert two[1][task]["pictures"] == 0
