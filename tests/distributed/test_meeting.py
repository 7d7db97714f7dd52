"""Processes that find each other, and the names of those that did not come."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from dinotrain.distributed.meeting import meet
from dinotrain.distributed.place import Place
from dinotrain.errors import FaultError


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def places(port: int, size: int) -> list[Place]:
    hosts = tuple(f"node{rank}" for rank in range(size))
    return [Place(rank, size, 0, 1, hosts[rank], "1.0", ("127.0.0.1", port), hosts=hosts) for rank in range(size)]


def test_all_come() -> None:
    everybody = places(free_port(), 3)
    with ThreadPoolExecutor() as pool:
        stores = list(pool.map(lambda place: meet(place, 10.0), everybody))
    stores[0].set("x", "1")
    assert stores[2].get("x") == b"1"


def test_who_does_not_come_is_named_to_all() -> None:
    everybody = places(free_port(), 4)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(meet, everybody[rank], 0.5) for rank in (0, 2)]
        for each in waiting:
            with pytest.raises(FaultError, match=r"processes 1 \(node1\), 3 \(node3\) did not come .* within 0.00833"):
                each.result()


def test_without_the_first_process() -> None:
    with pytest.raises(FaultError, match=r"node1: process 0 is not to be reached at 127\.0\.0\.1:"):
        meet(places(free_port(), 2)[1], 0.5)


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(FaultError, match="node0: can't listen on port"):
            meet(places(taken.getsockname()[1], 2)[0], 0.5)
