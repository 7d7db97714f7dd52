"""Servers that the tests of a module look at, or have to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from running_server import Running, Start


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Running] = []

    def begin(**options: Any) -> Running:
        running.append(Running(**options))
        return running[-1]

    yield begin
    for each in running:
        each.stop()


@pytest.fixture(scope="module")
def usual() -> Iterator[Running]:
    """A server for tests that leave it as it is."""
    running = Running()
    yield running
    running.stop()
