"""The group of training processes: started by torchrun or SLURM's srun, or a single process."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dinotrain.distributed.meeting import meet
from dinotrain.distributed.place import Place, find_place
from dinotrain.distributed.watch import Watch
from dinotrain.errors import FaultError, UserError


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
    host: str = ""
    attempt: str = ""
    """The same for all processes of this start of the run."""
    watch: Watch | None = None
    timeout: datetime.timedelta = datetime.timedelta(minutes=30)
    """Of collectives, for further groups."""

    def at(self, doing: str, step: int | None = None, *, patient: bool = False) -> None:
        """Tell the watch, if there is one, that this process has moved, see `Watch.at`."""
        if self.watch is not None:
            self.watch.at(doing, step, patient=patient)

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
def join_world(
    device: str, timeout_minutes: float, place: Place | None = None, watch: Watch | None = None
) -> Iterator[World]:
    """Join the process group, and leave it in order at the end.

    Args:
        device: "cuda" or "cpu".
        timeout_minutes: how long the first meeting and a collective wait for a missing process.
        place: of this process; None to ask the environment.
        watch: ends the process when it does not go on; runs already.

    Raises:
        UserError: if there are more processes than GPUs here.
        FaultError: if not all processes came.
    """
    place = place or find_place()
    target = _device(device, place)
    timeout = datetime.timedelta(minutes=timeout_minutes)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    store = dist.HashStore() if place.address is None else meet(place, timeout_minutes * 60)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
    control: Any = dist.new_group(backend="gloo", timeout=timeout)
    failed = True
    try:
        yield World(
            place.rank,
            place.size,
            place.local_rank,
            place.local_size,
            target,
            control,
            host=place.host,
            attempt=place.attempt,
            watch=watch,
            timeout=timeout,
        )
        failed = False
    finally:
        # Leaving without a barrier aborts other processes in the middle of their last words. After an error the others
        # may never come to one, and taking the group down may wait for them: ending the process is left to the caller.
        if not failed and place.size > 1:
            dist.barrier(group=control)
        if not failed or place.size == 1:
            dist.destroy_process_group()


def _device(device: str, place: Place) -> torch.device:
    if device != "cuda":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # SLURM can be told to show each process its own GPU only.
    index = 0 if count == 1 and place.sees_own_gpu else place.local_rank
    if index >= count:
        # A job may have been given a machine that has lost one.
        kind = FaultError if place.hosts else UserError
        raise kind(
            f"{place.local_size} processes were started on {place.host}, but torch finds {count} GPUs; "
            "start as many processes as there are GPUs (--nproc-per-node)"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
