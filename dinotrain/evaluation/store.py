"""Features on disk: extracted once, mapped into memory by whoever needs them again."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from dinotrain.data.storage.table import cache_folder
from dinotrain.distributed.world import World

READABLE = "readable"
UNFINISHED = "unfinished_"
UNFINISHED_SECONDS = 7 * 24 * 3600
"""After which a folder that nobody has written to is what a killed process left."""
Arrays = dict[str, np.ndarray]
Rounds = Iterator[tuple[Mapping[str, Tensor], Bool[Tensor, "n"]]]
Make = Callable[[Sequence[str]], Rounds]


def readable_name(name: str) -> str:
    """The array that says which rows of another could be read; of each its own, for reading may fail once."""
    return f"{name}.{READABLE}"


class FeatureStore:
    """Named arrays with a row per image, for each description of how they come about.

    An entry is a folder of `.npy` files, each complete or not there; what is missing of an entry is made and added.
    With processes on several machines, the first of each machine writes, so that every machine has its own, or the
    shared, copy. Without a folder, and where it can't be written to, arrays are kept in memory.

    Args:
        folder: of all entries; None for memory alone.
        limit_gb: entries that were not used for longest are removed beyond that, before a new one is made.
    """

    def __init__(self, folder: Path | None, world: World, *, limit_gb: float = 100.0) -> None:
        self.folder, self.world, self.limit_gb = folder, world, limit_gb
        self._memory: dict[str, Arrays] = {}

    @classmethod
    def of_user(cls, world: World, *, limit_gb: float = 100.0) -> FeatureStore:
        """In the user's cache folder, see `dinotrain.data.storage.table.cache_folder`."""
        return cls(Path(cache_folder()) / "features", world, limit_gb=limit_gb)

    @classmethod
    @contextmanager
    def for_once(cls, world: World) -> Iterator[FeatureStore]:
        """In a folder of its own that is removed at the end; in memory, every process would have a copy."""
        token = world.gather(secrets.token_hex(8))[0]
        folder = Path(cache_folder()) / "features" / f"{UNFINISHED}{token}"
        try:
            yield cls(folder, world)
        finally:
            if world.local_rank == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def arrays(self, about: Mapping[str, Any], names: Sequence[str], count: int, make: Make) -> Arrays:
        """The named arrays of an entry with `count` rows, and which rows are readable in all of them.

        All processes call this together.

        Args:
            about: all that the arrays depend on, in types that JSON has.
            names: of the arrays wanted.
            count: images.
            make: yields the rows of the arrays it is asked for, in order, the same on every process.
        """
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        known = self._known(key, names, count)
        missing = [name for name in names if self.world.any(name not in known)]
        if missing:
            made = self.folder is not None and self._to_files(key, about, missing, count, make)
            if not made or self.world.any(not set(missing) <= set(self._known(key, missing, count))):
                # There is no room for files, or another job has removed them already.
                self._memory.setdefault(key, {}).update(_in_memory(missing, count, make))
            known = self._known(key, names, count)
        readable = np.logical_and.reduce([known[readable_name(name)] for name in names])
        return {**{name: known[name] for name in names}, READABLE: readable}

    def _known(self, key: str, names: Sequence[str], count: int) -> Arrays:
        """Of these arrays, those that are there, each with its readable rows."""
        found: Arrays = {}
        memory = self._memory.get(key, {})
        for name in names:
            both = (name, readable_name(name))
            if name in memory:
                found |= {each: memory[each] for each in both}
            elif self.folder is not None:
                with suppress(OSError, ValueError):
                    arrays = {each: np.load(self.folder / key / f"{each}.npy", mmap_mode="r") for each in both}
                    if all(len(array) == count for array in arrays.values()):
                        found |= arrays
                        os.utime(self.folder / key)
        return found

    def _to_files(self, key: str, about: Mapping[str, Any], names: Sequence[str], count: int, make: Make) -> bool:
        """Make the arrays and put them into files; False, alike on all processes, if these can't be written."""
        draft = Draft(self._unfinished(), count) if self.world.local_rank == 0 else None
        try:
            if self.world.any(draft is not None and draft.folder is None):
                return False
            start = 0
            for rows, readable in make(names):
                pieces = {} if draft is None else _pieces(names, rows, readable)
                if start == 0 and self.world.any(draft is not None and not draft.reserve(pieces)):
                    return False
                if draft is not None:
                    draft.write(start, pieces)
                start += len(readable)
            published = draft is None or draft.publish(self._entry(key), about)
            return not self.world.any(not published)
        finally:
            if draft is not None:
                draft.discard()

    def _entry(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key

    def _unfinished(self) -> Path | None:
        """A folder for unfinished files; None where there can't be any."""
        if self.folder is None:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.world.main:
                _prune(self.folder, self.limit_gb)
            return Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        except OSError as error:
            _warn(self.folder, error)
            return None


class Draft:
    """Files that are being written.

    Args:
        folder: for them alone; None if there is no place for any.
        count: rows of each array.
    """

    def __init__(self, folder: Path | None, count: int) -> None:
        self.folder, self.count = folder, count
        self._arrays: dict[str, np.memmap] = {}

    def reserve(self, pieces: Arrays) -> bool:
        """Take the room that is needed, for the first rows show how much; whether there is enough."""
        if self.folder is None:
            return False
        try:
            for name, piece in pieces.items():
                path = self.folder / f"{name}.npy"
                shape = (self.count, *piece.shape[1:])
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=piece.dtype, shape=shape)
                # Without it, a full disk would end the process as soon as it writes to the map.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            _warn(self.folder.parent, error)
            return False
        return True

    def write(self, start: int, pieces: Arrays) -> None:
        """Rows from `start` on."""
        for name, piece in pieces.items():
            self._arrays[name][start : start + len(piece)] = piece

    def publish(self, entry: Path, about: Mapping[str, Any]) -> bool:
        """Put them where they are looked for; whether that went well."""
        assert self.folder is not None
        try:
            for array in self._arrays.values():
                array.flush()
            entry.mkdir(parents=True, exist_ok=True)
            (entry / "about.json").write_text(json.dumps(about, indent=1))
            for name in sorted(self._arrays, key=lambda name: not name.endswith(READABLE)):
                os.replace(self.folder / f"{name}.npy", entry / f"{name}.npy")
        except OSError as error:
            _warn(entry.parent, error)
            return False
        return True

    def discard(self) -> None:
        """Remove what is left of them."""
        self._arrays.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _in_memory(names: Sequence[str], count: int, make: Make) -> Arrays:
    arrays: Arrays = {}
    start = 0
    for rows, readable in make(names):
        for name, piece in _pieces(names, rows, readable).items():
            if name not in arrays:
                arrays[name] = np.empty((count, *piece.shape[1:]), piece.dtype)
            arrays[name][start : start + len(piece)] = piece
        start += len(readable)
    return arrays


def _pieces(names: Sequence[str], rows: Mapping[str, Tensor], readable: Bool[Tensor, "n"]) -> Arrays:
    """The rows of a round as they are stored."""
    pieces = {name: rows[name].cpu().numpy() for name in names}
    return pieces | dict.fromkeys(map(readable_name, names), readable.cpu().numpy())


def _prune(folder: Path, limit_gb: float) -> None:
    """Remove what killed processes left, and entries that were not used for longest beyond the limit.

    Other jobs may be doing the same.
    """
    ages, sizes = {}, {}
    for entry in folder.iterdir():
        with suppress(OSError):
            ages[entry] = entry.stat().st_mtime
            sizes[entry] = sum(file.stat().st_size for file in entry.iterdir())
    left = [entry for entry in sizes if entry.name.startswith(UNFINISHED)]
    for entry in left:
        if time.time() - ages[entry] > UNFINISHED_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
    total = sum(size for entry, size in sizes.items() if entry not in left)
    for entry in sorted(set(sizes) - set(left), key=lambda entry: ages[entry]):
        if total <= limit_gb * 2**30:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= sizes[entry]


def _warn(folder: Path, error: OSError) -> None:
    warnings.warn(
        f"can't keep features in {folder} ({error.strerror}): they will be computed anew each time; the environment "
        "variable DINOTRAIN_CACHE can name another folder",
        stacklevel=2,
    )
