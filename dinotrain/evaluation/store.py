"""Features on disk: extracted once, mapped into memory by whoever needs them again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from dinotrain.data.storage.table import cache_folder
from dinotrain.distributed.world import World

READABLE = "readable"
Arrays = dict[str, np.ndarray]


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

    def arrays(
        self,
        about: Mapping[str, Any],
        names: Sequence[str],
        count: int,
        make: Callable[[Sequence[str]], Iterator[tuple[Mapping[str, Tensor], Bool[Tensor, "n"]]]],
    ) -> Arrays:
        """The named arrays of an entry and "readable", with `count` rows; all processes call this together.

        Args:
            about: all that the arrays depend on, in types that JSON has.
            names: of the arrays wanted.
            count: images.
            make: yields the rows of the arrays it is asked for, in order, the same on every process.
        """
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        known = self._known(key, [READABLE, *names], count)
        missing = [name for name in names if self.world.any(name not in known)]
        if missing or self.world.any(READABLE not in known):
            made = self._make(key, about, missing or list(names), count, make)
            if made is not None:
                self._memory.setdefault(key, {}).update(made)
            known = self._known(key, [READABLE, *names], count)
        return {name: known[name] for name in [READABLE, *names]}

    def _known(self, key: str, names: Sequence[str], count: int) -> Arrays:
        found = {name: array for name, array in self._memory.get(key, {}).items() if name in names}
        for name in names:
            path = None if self.folder is None else self.folder / key / f"{name}.npy"
            if path is None or name in found:
                continue
            with suppress(OSError, ValueError):
                array = np.load(path, mmap_mode="r")
                if len(array) == count:
                    found[name] = array
                    os.utime(path.parent)
        return found

    def _make(
        self, key: str, about: Mapping[str, Any], names: Sequence[str], count: int, make: Callable
    ) -> Arrays | None:
        """None if the arrays are in files now, else they themselves."""
        writer = self._writer(key, about) if self.world.local_rank == 0 else None
        # All machines write, or none does: their processes then look for the arrays in the same place.
        to_disk = not self.world.any(self.world.local_rank == 0 and writer is None)
        arrays: Arrays = {}
        start = 0
        for rows, readable in make(names):
            pieces = {**{name: rows[name].cpu().numpy() for name in names}, READABLE: readable.cpu().numpy()}
            for name, piece in pieces.items():
                if to_disk and writer is None:
                    continue
                if name not in arrays:
                    arrays[name] = _empty(name, piece, count, writer if to_disk else None)
                arrays[name][start : start + len(piece)] = piece
            start += len(readable)
        if not to_disk:
            if writer is not None:
                shutil.rmtree(writer, ignore_errors=True)
            return arrays
        if writer is not None:
            assert self.folder is not None
            _publish(writer, arrays, self.folder / key)
        arrays.clear()
        self.world.barrier()
        return None

    def _writer(self, key: str, about: Mapping[str, Any]) -> Path | None:
        """A folder for unfinished files; None where there can't be any."""
        if self.folder is None:
            return None
        try:
            (self.folder / key).mkdir(parents=True, exist_ok=True)
            (self.folder / key / "about.json").write_text(json.dumps(about, indent=1))
            self._prune(keep=self.folder / key)
            return Path(tempfile.mkdtemp(prefix="unfinished_", dir=self.folder))
        except OSError as error:
            warnings.warn(
                f"can't keep features in {self.folder} ({error.strerror}): they will be computed anew each time; the "
                "environment variable DINOTRAIN_CACHE can name another folder",
                stacklevel=2,
            )
            return None

    def _prune(self, keep: Path) -> None:
        assert self.folder is not None
        entries = sorted((path for path in self.folder.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)
        sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
        total = sum(sizes.values())
        for entry in entries:
            if total <= self.limit_gb * 2**30:
                return
            if entry != keep and not entry.name.startswith("unfinished_"):
                shutil.rmtree(entry, ignore_errors=True)
                total -= sizes[entry]


def _empty(name: str, piece: np.ndarray, count: int, folder: Path | None) -> np.ndarray:
    shape = (count, *piece.shape[1:])
    if folder is None:
        return np.empty(shape, piece.dtype)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=piece.dtype, shape=shape)


def _publish(unfinished: Path, arrays: Arrays, entry: Path) -> None:
    for array in arrays.values():
        assert isinstance(array, np.memmap)
        array.flush()
    entry.mkdir(parents=True, exist_ok=True)
    for name in arrays:
        os.replace(unfinished / f"{name}.npy", entry / f"{name}.npy")
    shutil.rmtree(unfinished, ignore_errors=True)
