"""The group of training processes: started by torchrun, or a single process."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dinotrain.errors import UserError


@dataclass(frozen=True)
class World:
    """Where this process stands among all processes of the run."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    control: Any
    """A gloo group for small host-side agreements, apart from the group that training uses."""

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process; all processes must call this together."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.control)
        return bool(value)

    def gather(self, item: object) -> list[Any]:
        """The items of all processes, on every process."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self.control)
        return items

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.control)


@contextlib.contextmanager
def join_world(device: str, timeout_minutes: float) -> Iterator[World]:
    """Join the process group, and leave it in order at the end.

    Args:
        device: "cuda" or "cpu".
        timeout_minutes: how long a collective waits for a missing process.
    """
    rank, size, local_rank, local_size = _place()
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes were started on this machine, but torch finds {torch.cuda.device_count()} GPUs; "
            "start as many processes as there are GPUs (--nproc-per-node)"
        )
    target = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(target)
    timeout = datetime.timedelta(minutes=timeout_minutes)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    control: Any = dist.new_group(backend="gloo", timeout=timeout)
    failed = True
    try:
        yield World(rank, size, local_rank, local_size, target, control)
        failed = False
    finally:
        # Leaving without a barrier aborts other processes in the middle of their last words. After an error the others
        # may never come to one, and taking the group down may wait for them: ending the process is left to the caller.
        if not failed and size > 1:
            dist.barrier(group=control)
        if not failed or size == 1:
            dist.destroy_process_group()


def _place() -> tuple[int, int, int, int]:
    if "RANK" not in os.environ:
        return 0, 1, 0, 1
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, size, local_rank, local_size = (int(os.environ.get(name, default)) for name, default in zip(names, "0101"))
    return rank, size, local_rank, local_size
