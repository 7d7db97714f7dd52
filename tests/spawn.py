"""Runs a function in several gloo processes, for tests of what processes do together."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

GRACE = 3.0
"""Seconds that the others get to report their own failure once one process has failed."""


def run_processes(count: int, function: Callable[..., Any], *args: Any, seconds: float = 60.0) -> list[Any]:
    """`function(rank, *args)` in `count` processes of one gloo group; the results by rank.

    The function must be importable (defined at the top of a module); arguments and results go through `torch.save`.

    Raises:
        AssertionError: with the tracebacks of all processes that failed, or when the time is up.
    """
    context = multiprocessing.get_context("forkserver")
    # The server that children are forked from has imported torch, but has never computed or started a thread.
    context.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo"])
    with tempfile.TemporaryDirectory() as folder:
        torch.save((function, args), Path(folder, "call"))
        children = [context.Process(target=_child, args=(rank, count, folder, list(sys.path))) for rank in range(count)]
        for child in children:
            child.start()
        try:
            _wait(children, time.monotonic() + seconds)
        finally:
            for child in children:
                child.kill()
                child.join()
        errors = [f"process {path.suffix[1:]}:\n{path.read_text()}" for path in sorted(Path(folder).glob("error.*"))]
        codes = [child.exitcode for child in children]
        if errors or any(codes):
            raise AssertionError("\n".join([f"exit codes {codes} (-9: stopped by the test)", *errors]))
        return [torch.load(Path(folder, f"result.{rank}"), weights_only=False) for rank in range(count)]


def _wait(children: list, deadline: float) -> None:
    """Until all have ended or the time is up; a failure shortens the time."""
    while any(child.exitcode is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
        if any(child.exitcode for child in children):
            deadline = min(deadline, time.monotonic() + GRACE)
            while any(child.exitcode is None for child in children) and time.monotonic() < deadline:
                time.sleep(0.01)
            return


def _child(rank: int, count: int, folder: str, path: list[str]) -> None:
    sys.path[:] = path
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        function, args = torch.load(Path(folder, "call"), weights_only=False)
        store = dist.FileStore(str(Path(folder, "store")), count)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
        torch.save(function(rank, *args), Path(folder, f"result.{rank}"))
    except BaseException:
        Path(folder, f"error.{rank}").write_text(traceback.format_exc())
        os._exit(1)
    # Without the barrier a process that is ahead now and then aborts the others on its way out.
    dist.barrier()
    dist.destroy_process_group()
