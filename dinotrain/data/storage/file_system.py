"""The file systems of fsspec, for forked processes too."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from dinotrain.errors import UserError

CONCURRENT = 32
"""Requests at a time."""

_lock = threading.Lock()
_systems: dict[tuple[str, str], Any] = {}
"""File systems of this process by protocol and options."""
_inherited: list[Any] = []
"""Those of the processes it was forked from: their thread and their connections are not here. They are never collected,
for that would close connections which their own process still uses."""


def _start_anew() -> None:
    """In a forked process, in which another thread may have held the locks."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_systems.values())
    _systems.clear()
    if asyn := sys.modules.get("fsspec.asyn"):
        asyn.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def file_system(protocol: str, options: dict[str, Any], *, timeout: float) -> Any:
    """fsspec's file system of this process for a kind of URL. It does not retry by itself.

    Args:
        protocol: what stands before `://`.
        options: its own ones.
        timeout: seconds per request, where it has a limit of its own.

    Raises:
        UserError: there is none, its package is not installed, or it has no such options.
    """
    options = _with_defaults(protocol, options, timeout)
    key = (protocol, json.dumps(options, sort_keys=True, default=repr))
    with _lock:
        if key not in _systems:
            _systems[key] = _made(protocol, options)
        return _systems[key]


def _with_defaults(protocol: str, options: dict[str, Any], timeout: float) -> dict[str, Any]:
    if protocol in ("http", "https"):
        # A body that is compressed on its way has other positions.
        return {**options, "headers": {"Accept-Encoding": "identity", **options.get("headers", {})}}
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": timeout, "read_timeout": timeout}
        config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": CONCURRENT, **limits}
        return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}
    return options


def _made(protocol: str, options: dict[str, Any]) -> Any:
    """A new file system of this process."""
    try:
        import fsspec

        system = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
    except ImportError as error:
        extra = "gcs" if protocol in ("gs", "gcs") else "data"
        needed = f"{protocol}:// needs a package that is not installed ({error})"
        raise UserError(f"data.root: {needed}: pip install 'dinotrain[{extra}]'") from error
    except ValueError as error:
        raise UserError(f"data.root: can't read {protocol}:// URLs: {' '.join(str(error).split())}") from error
    except TypeError as error:
        raise UserError(f"storage.options: {' '.join(str(error).split())}") from error
    if hasattr(system, "retries"):
        system.retries = 1
    return system
