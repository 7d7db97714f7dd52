"""What was used last, up to a bound."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class BoundedCache(Generic[_T]):
    """Values by key, the least recently used of which go when their costs sum up to more than a limit.

    For threads and forked processes: a child starts with an empty one. A value may cost more than the limit, then it
    is the only one.

    Args:
        limit: bound on the sum of the costs, in any unit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._values: OrderedDict[Hashable, tuple[_T, int]] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> int:
        return self.limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)

    @property
    def cost(self) -> int:
        """Sum of what this process holds."""
        return self._cost if self._process == os.getpid() else 0

    def get(self, key: Hashable, make: Callable[[], tuple[_T, int]]) -> _T:
        """The value of a key; one that is missing is made: `make` returns it with its cost."""
        self._enter()
        with self._lock:
            if (found := self._values.get(key)) is not None:
                self._values.move_to_end(key)
                return found[0]
        # Not under the lock, for making one may take long: then two threads may make the same.
        value, cost = make()
        self.put(key, value, cost)
        return value

    def put(self, key: Hashable, value: _T, cost: int) -> None:
        """Keep a value, and let go of others for it."""
        self._enter()
        with self._lock:
            self._cost += cost - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, cost)
            while self._cost > self.limit and len(self._values) > 1:
                self._cost -= self._values.popitem(last=False)[1][1]

    def __contains__(self, key: Hashable) -> bool:
        self._enter()
        with self._lock:
            return key in self._values

    def _enter(self) -> None:
        """The lock may have been held by another thread when this process was forked."""
        if self._process != os.getpid():
            self._reset()
