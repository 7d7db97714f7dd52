from __future__ import annotations

import os
import signal
import time

import pytest
from preparing.image_sets import encoded, picture
from preparing.test_conversion import Given

from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.preparing import worker_pool
from dinotrain.preparing.conversion import Converted
from dinotrain.preparing.worker_pool import WorkerPool


class Numbered(Given):
    """A source of so many nothings."""

    def __init__(self, count: int) -> None:
        super().__init__(*[b""] * count)


def uneven(source: Source, index: int) -> Converted:
    """Takes longer for some images, and makes more of some."""
    time.sleep(0.02 * (index % 13 == 0))
    return Converted(index, data=bytes(index % 7 * 100_000))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_stand_in_the_order_of_the_images(workers: int) -> None:
    wanted = list(range(99, -1, -1))
    with WorkerPool(Numbered(100), uneven, workers) as pool:
        results = list(pool.run(iter(wanted)))
    assert [result.index for result in results] == wanted
    assert [len(result.data) for result in results] == [index % 7 * 100_000 for index in wanted]


def test_little_is_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "BUFFER_BYTES", 2_000_000)
    monkeypatch.setattr(worker_pool, "CHUNK_BYTES", 1_000_000)
    asked = 0

    def indices():
        nonlocal asked
        for index in range(400):
            asked += 1
            yield index

    def task(source: Source, index: int) -> Converted:
        time.sleep(0.3 * (index == 0))  # all others wait for this one
        return Converted(index, data=bytes(500_000))

    with WorkerPool(Numbered(400), task, 3) as pool:
        most = 0
        for result in pool.run(indices()):
            most = max(most, asked - result.index)
    assert most < 60


def test_a_worker_that_dies_is_named_with_its_image() -> None:
    def task(source: Source, index: int) -> Converted:
        if index == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        return Converted(index)

    begin = time.monotonic()
    with WorkerPool(Numbered(50), task, 2) as pool, pytest.raises(UserError, match=r"SIGKILL.* 23 in hand"):
        list(pool.run(iter(range(50))))
    assert time.monotonic() - begin < 5


def test_a_worker_that_is_dead_already_is_noticed() -> None:
    with WorkerPool(Numbered(50), uneven, 1) as pool:
        pool._processes[0].kill()
        pool._processes[0].join()
        with pytest.raises(UserError, match=r"worker 0 died .* nothing in hand"):
            list(pool.run(iter(range(50))))


def test_lack_of_memory_is_told_in_one_line() -> None:
    def task(source: Source, index: int) -> Converted:
        raise MemoryError

    with WorkerPool(Numbered(5), task, 1) as pool, pytest.raises(UserError, match="not enough memory for 0"):
        list(pool.run(iter(range(5))))


def test_a_fault_of_ours_comes_with_image_and_trace() -> None:
    def task(source: Source, index: int) -> Converted:
        return [][index]

    with WorkerPool(Numbered(5), task, 1) as pool, pytest.raises(RuntimeError, match="0: Traceback"):
        list(pool.run(iter(range(5))))


def test_workers_end_when_their_pool_is_gone() -> None:
    """As after a kill of the main process: their pipes are closed."""
    with WorkerPool(Given(encoded(picture(0))), uneven, 3) as pool:
        for pipe in pool._pipes:
            pipe.close()
        for process in pool._processes:
            process.join(10)
            assert process.exitcode == 0
