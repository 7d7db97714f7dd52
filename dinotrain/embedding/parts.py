"""The folder of what is extracted already, beside the file that it will be."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinotrain.embedding.differences import differences
from dinotrain.embedding.plan import Plan
from dinotrain.errors import UserError

ABOUT = "about.json"
_PIECE = re.compile(r"(\d{8})\.npz")


class Piece(NamedTuple):
    """The features of neighbouring images."""

    columns: dict[str, np.ndarray]
    """A row for each image that could be read."""
    readable: np.ndarray
    """[images] bool."""
    reasons: list[str]
    """Why the others could not."""


class Parts:
    """Pieces in files, each complete or not there.

    Args:
        folder: for them alone.
        plan: which images are in which piece.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan

    @contextmanager
    def opened(self, about: Mapping[str, Any], begin: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Make the folder, or make sure that it is of the same features; for one process at a time.

        Args:
            begin: called first, once no other process is at it.

        Raises:
            UserError: if it is of others, can't be written to, or another process is at it.
        """
        with self._alone():
            begin()
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
            self._compare(about)
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Beside the folder, not in it: who begins anew removes that."""
        path = self.folder.with_name(f"{self.folder.name}.lock")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    raise BlockingIOError  # Its holder was at its end.
            except BlockingIOError:
                raise UserError(f"out: another process is at work in {self.folder}; wait for it, or end it") from None
            except OSError:
                pass  # A file system without locks.
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """The pieces that are not there yet."""
        found = {int(match[1]) for name in os.listdir(self.folder) if (match := _PIECE.fullmatch(name))}
        return [number for number in range(self.plan.pieces) if number not in found]

    def write(self, number: int, piece: Piece) -> None:
        """Store a piece."""
        path = self._path(number)
        beside = path.with_suffix(f".{os.getpid()}.new")
        extra = {"readable": piece.readable, "reasons": np.array(piece.reasons, np.str_)}
        with writing(path, kept=True):
            with beside.open("wb") as file:
                np.savez(file, allow_pickle=False, **piece.columns, **extra)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)

    def read(self, number: int, columns: Sequence[str]) -> Piece:
        """Some columns of a piece.

        Raises:
            UserError: if its file is damaged.
        """
        path = self._path(number)
        try:
            with path.open("rb") as file, np.load(file) as stored:
                found = {name: stored[name] for name in columns}
                piece = Piece(found, stored["readable"], stored["reasons"].tolist())
            if len(piece.readable) != len(self.plan.images(number)):
                raise ValueError("not as many images as it should have")
            return piece
        except Exception as error:  # a damaged archive raises nearly anything
            line = " ".join(str(error).split())
            raise UserError(f"out: {path} is damaged ({line}); remove it and give the same command again") from error

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"

    def _compare(self, about: Mapping[str, Any]) -> None:
        path = self.folder / ABOUT
        if path.exists():
            different = differences(read_json(path), about)
            if different:
                raise UserError(
                    f"out: {self.folder} holds a part of other features ({'; '.join(different)}); expected another "
                    "out, or again=true to begin anew"
                )
        else:
            with writing(path):
                beside = path.with_suffix(".new")
                beside.write_text(json.dumps(about, indent=1))
                os.replace(beside, path)
        for left in self.folder.glob("*.new"):
            # Of a process that was killed.
            with suppress(OSError):
                left.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def writing(path: Path, *, kept: bool = False) -> Iterator[None]:
    """A failure to write becomes one line; `kept` if what is extracted already stays."""
    try:
        yield
    except OSError as error:
        more = "; what is done is kept, the same command goes on" if kept else ""
        raise UserError(f"out: can't write {path} ({error.strerror or error}){more}") from error
