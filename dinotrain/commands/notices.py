"""How a command shows warnings."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings for the user stand on one line, without a place in the code, once for all processes of a machine."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category is not UserWarning or not str(message).startswith(("data", "runtime", "can't")):
            usual(message, category, *place, **more)
        elif os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"warning: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
