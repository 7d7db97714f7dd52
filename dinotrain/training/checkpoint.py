"""Checkpoints: saved in the background, complete or absent, checked when read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from dinotrain.distributed.failure import is_lost_connection
from dinotrain.distributed.watch import CHECKPOINT_THREAD
from dinotrain.distributed.world import World
from dinotrain.errors import FaultError, UserError, is_full_or_forbidden
from dinotrain.training.manifest import (
    FORMAT,
    MANIFEST,
    checkpoint_step,
    checksum,
    complete_checkpoints,
    read_manifest,
)
from dinotrain.training.state import TrainState

VISIBLE_SECONDS = 30.0
"""How long the files of a complete checkpoint may take to be seen by another machine."""


class Checkpointer:
    """The checkpoints of one run: `step_<n>/` folders in torch's distributed format, with a manifest of checksums.

    A checkpoint is written to a folder with another name, which gets its own when all is on disk; so a save that was
    cut off is never taken for a checkpoint.

    Args:
        folder: shared by all processes.
        keep_last: how many of the newest to keep, at least 1.
        keep_every: keep those whose step is a multiple of this for good; None for none.
        config: the resolved configuration, stored with each checkpoint.
        record: what else the manifest says of the run, as JSON.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        keep_last: int,
        keep_every: int | None = None,
        config: str = "",
        record: dict[str, str | int | None] | None = None,
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"checkpoint.keep_last: got {keep_last}, expected at least 1")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"checkpoint.keep_every: got {keep_every}, expected at least 1, or null")
        self.folder, self.world = folder, world
        self.keep_last, self.keep_every, self.config, self.record = keep_last, keep_every, config, record or {}
        # The save runs beside the training, which would mix up its messages with those of a shared group.
        self._group: Any = dist.new_group(backend="gloo", timeout=world.timeout)
        # A process of an earlier start, on a machine that is only thought to be dead, may be writing still.
        self._token = world.gather(secrets.token_hex(4) if world.main else None)[0]
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if world.main:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.tmp"):
                _remove(leftover)
        world.barrier()

    def save(self, state: TrainState) -> None:
        """Start saving; returns when the state is copied.

        Raises:
            UserError: if the save before could not be finished; a FaultError if that may pass.
            Exception: of torch's, if it could not because another process has ended.
        """
        self.wait()
        target = self.folder / f"step_{state.step:08d}"
        if self.world.any(self.world.main and (target / MANIFEST).exists()):
            return
        partial = target.with_suffix(f".{self._token}.tmp")
        future: Any = dcp.async_save(state.tensors(), checkpoint_id=partial, process_group=self._group)
        arguments = (future, partial, target, state.numbers())
        self._thread = threading.Thread(target=self._finish, args=arguments, name=CHECKPOINT_THREAD)
        self._thread.start()

    def wait(self) -> None:
        """Until the save under way, if any, is complete on all processes."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            reason = innermost(error)
            if is_lost_connection(reason):
                raise reason  # nothing is wrong with the folder: another process has ended
            text = " ".join(f"{type(reason).__name__}: {reason}".split())
            kind = UserError if is_full_or_forbidden(reason) else FaultError
            raise kind(f"a checkpoint could not be written to {self.folder}: {text}") from error

    def settle(self) -> None:
        """Let the save under way, if any, come to its end, whichever: for a run that fails for another reason."""
        if self._thread is not None:
            self._thread.join()

    def _finish(self, future: Any, partial: Path, target: Path, numbers: dict) -> None:
        try:
            future.result()
            mine = {path.name: checksum(path) for path in partial.glob(f"__{self.world.rank}_*.distcp")}
            files: list[Any] = [None] * self.world.size
            dist.all_gather_object(files, mine, group=self._group)
            if self.world.main:
                self._publish(partial, target, {name: check for part in files for name, check in part.items()}, numbers)
            dist.barrier(group=self._group)
        except BaseException as error:  # told to the training loop by the next wait()
            self._error = error

    def _publish(self, partial: Path, target: Path, files: dict, numbers: dict) -> None:
        (partial / "config.yaml").write_text(self.config)
        files |= {name: checksum(partial / name) for name in (".metadata", "config.yaml")}
        manifest = {"format": FORMAT, "world_size": self.world.size, **self.record, "numbers": numbers, "files": files}
        _write_durably(partial / MANIFEST, json.dumps(manifest, indent=1))
        if target.exists():  # without a manifest, or the save would not have begun
            shutil.rmtree(target)
        os.replace(partial, target)
        _sync_folder(self.folder)
        for path in self.surplus():
            # Renamed first: a removal that is cut off must not leave a manifest without its data.
            doomed = path.with_suffix(".tmp")
            os.replace(path, doomed)
            _remove(doomed)

    def surplus(self) -> list[Path]:
        """Checkpoints that are neither among the newest nor kept for good."""
        older = complete_checkpoints(self.folder)[: -self.keep_last]
        return [path for path in older if self.keep_every is None or checkpoint_step(path) % self.keep_every]

    def load(self, path: Path, state: TrainState) -> None:
        """Restore `state` in place from a checkpoint, written by any number of processes.

        Raises:
            ValueError: if a file is missing or damaged, or the networks are not those of the checkpoint.
            FaultError: if files can't be read now.
        """
        manifest = read_manifest(path)
        self._verify(path, manifest["files"])
        tensors = state.tensors()
        try:
            dcp.load(tensors, checkpoint_id=path)
        except CheckpointException as error:
            reasons = {str(reason[0]) for reason in error.failures.values()}
            if all(isinstance(innermost(reason[0]), OSError) for reason in error.failures.values()):
                raise FaultError(f"{path} can't be read: {'; '.join(sorted(reasons))}") from error
            raise ValueError(f"{path} does not fit this run: {'; '.join(sorted(reasons))}") from error
        state.method.load_state_dict(tensors["method"])
        state.set_numbers(manifest["numbers"])

    def _verify(self, path: Path, files: dict) -> None:
        mine = sorted(files)[self.world.rank :: self.world.size]
        damaged = [name for name in mine if not _is_whole(path / name, files[name])]
        found = sorted(name for part in self.world.gather(damaged) for name in part)
        if found:
            raise ValueError(
                f"checkpoint {path} is damaged ({', '.join(found)} missing or changed since it was written): "
                "remove that folder to go on from the one before"
            )


def _remove(folder: Path) -> None:
    """Remove what is no checkpoint any more; what another process holds open is left for the next start."""
    shutil.rmtree(folder, ignore_errors=True)


def _is_whole(path: Path, expected: dict[str, int]) -> bool:
    """Whether a file has its checksum; on a shared file system it may be seen some time after it was written."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        names = {entry.name for entry in os.scandir(path.parent)}  # makes network file systems look again
        if path.name in names and path.stat().st_size == expected["bytes"]:
            return checksum(path) == expected
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def innermost(error: BaseException) -> BaseException:
    """The reason at the bottom of wrapped errors."""
    while True:
        failures = getattr(error, "failures", None)
        inner = next(iter(failures.values()))[0] if failures else error.__cause__
        if inner is None:
            return error
        error = inner


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
