"""The processes of a run finding each other, with a word on who did not come."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence

import torch.distributed as dist

from dinotrain.distributed.place import Place
from dinotrain.errors import FaultError

POLL_SECONDS = 0.1
ATTEMPT_SECONDS = 10.0
LAST_WORDS_SECONDS = 30.0
"""How much longer than the first process the others wait: to be told who is missing."""


def meet(place: Place, seconds: float) -> dist.Store:
    """A store that all processes of the run have reached; all call it together.

    Raises:
        FaultError: when not all came in time, with the ranks and, where they are known, the hosts of the missing.
    """
    assert place.address is not None
    host, port = place.address
    begun = time.monotonic()
    store = dist.PrefixStore(f"dinotrain/{place.attempt}", _store(place, begun + seconds))
    store.set(f"here/{place.rank}", place.host)
    if place.rank == 0:
        missing = _wait_for_all(store, place.size, begun + seconds)
        store.set("missing", ",".join(map(str, missing)))
    try:
        while not store.check(["missing"]):
            if time.monotonic() > begun + seconds + LAST_WORDS_SECONDS:
                raise FaultError(f"process 0 at {host}:{port} does not say whether all have come")
            time.sleep(POLL_SECONDS)
        missing = [int(rank) for rank in store.get("missing").decode().split(",") if rank]
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise FaultError(f"process 0 at {host}:{port} does not answer any more") from error
    if missing:
        raise FaultError(
            f"{_named(missing, place.hosts)} did not come to {host}:{port} within {seconds / 60:g} min "
            "(parallel.start_timeout_minutes)"
        )
    return store


def _store(place: Place, deadline: float) -> dist.TCPStore:
    assert place.address is not None
    host, port = place.address
    serves = place.rank == 0 and not place.served
    while True:
        # In short attempts, between which a Ctrl-C is heard.
        timeout = datetime.timedelta(seconds=min(max(deadline - time.monotonic(), 0.1), ATTEMPT_SECONDS))
        try:
            return dist.TCPStore(host, port, None, serves, timeout=timeout, wait_for_workers=False)
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            if serves or time.monotonic() >= deadline:
                what = f"can't listen on port {port}" if serves else f"process 0 is not to be reached at {host}:{port}"
                found = re.search(r"message: ([^)]*)\)", str(error))
                raise FaultError(f"{place.host}: {what} ({found[1] if found else _first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _wait_for_all(store: dist.Store, size: int, deadline: float) -> list[int]:
    missing = list(range(size))
    while True:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(POLL_SECONDS)


def _named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    names = [f"{rank} ({hosts[rank]})" if rank < len(hosts) else str(rank) for rank in ranks[:8]]
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"process{'es' * (len(ranks) > 1)} {', '.join(names)}{more}"
