from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from dinotrain.data.broken import BrokenImage
from dinotrain.evaluation.reading import read_batches


def test_what_is_read_comes_in_order_with_gaps_where_nothing_can_be_read() -> None:
    def load(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 4:
            raise BrokenImage("broken on purpose")
        return 10 * number

    found = list(read_batches(load, [[0, 1, 2], [5, 4, 3], [6]], threads=3))
    assert found == [[0, 10, 20], [50, None, 30], [60]]


def test_a_thread_fetches_what_it_reads() -> None:
    fetched: dict[int, list[int]] = {}

    def fetch(numbers: Sequence[int]) -> None:
        fetched[threading.get_ident()] = list(numbers)

    def load(number: int) -> bool:
        return number in fetched[threading.get_ident()]

    assert all(all(batch) for batch in read_batches(load, [range(9)] * 5, threads=4, fetch=fetch))


def test_other_errors_are_raised_and_nothing_more_is_read() -> None:
    read = []

    def load(number: int) -> int:
        read.append(number)
        if number == 2:
            raise ValueError("a mistake of the user's")
        return number

    with pytest.raises(ValueError, match="a mistake of the user's"):
        list(read_batches(load, [[number] for number in range(100)], threads=1))
    assert len(read) < 20


def test_reading_goes_on_while_a_batch_is_worked_on() -> None:
    read = []
    batches = read_batches(lambda number: read.append(number) or number, [[0], [1], [2], [3], [4]], threads=1)
    next(batches)
    deadline = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read == [0, 1, 2]
    assert list(batches) == [[1], [2], [3], [4]]
