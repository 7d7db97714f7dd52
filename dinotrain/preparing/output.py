"""The folder of shards: which are complete, and what is known of them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dinotrain.errors import UserError
from dinotrain.preparing.record import ShardRecord, write_whole
from dinotrain.preparing.shard import PATTERN, index_path

SUMMARY = "summary.json"
_OWN = re.compile(r"shard-(\d{6,})\.(tar|index\.npz)")


class Output:
    """A conversion's folder, for one process at a time.

    While a conversion goes on, the sub-folder `.prepare` holds its options, a record of every complete shard, and the
    shard in the making. A shard counts as complete when its record is there; `summary.json` is written last of all.

    Args:
        folder: made if it is not there.
        options: what decides on the bytes of the shards.

    Raises:
        UserError: it can't be written to, holds something else, or a conversion with other options.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder, self._options = folder, dict(options)
        self.scratch = folder / ".prepare"
        """What is removed in the end."""
        self._lock: IO[str] | None = None
        self.shards = 0
        """Number of complete ones."""

    def __enter__(self) -> Output:
        try:
            if self.summary() is None:
                self.scratch.mkdir(parents=True, exist_ok=True)
                self._lock = (self.scratch / "lock").open("w")
                self._acquire(self._lock)
                self._open()
        except OSError as error:
            self.__exit__()
            raise UserError(f"out: can't write to {self.folder} ({error.strerror})") from error
        except UserError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def summary(self) -> dict[str, Any] | None:
        """That of a conversion that is finished; None while there is none.

        Raises:
            UserError: it was made with other options, or some of its shards are gone.
        """
        try:
            summary = json.loads((self.folder / SUMMARY).read_text())
            options, shards = summary["options"], summary["shards"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"out: {self.folder / SUMMARY} is none of this command; expected another folder") from None
        self._compare(options)
        for shard in shards:
            if not _has_length(self.folder / shard["name"], shard["bytes"]):
                raise UserError(
                    f"out: {self.folder / shard['name']} is missing or has another size than when it was made; "
                    f"expected the finished set, or remove {SUMMARY} and the shards to begin again"
                )
        return summary

    def path(self, number: int) -> Path:
        """Where a complete shard lies."""
        return self.folder / PATTERN.format(number)

    def draft(self) -> Path:
        """Where the next shard is to be written."""
        return self.scratch / PATTERN.format(self.shards)

    def records(self) -> Iterator[ShardRecord]:
        """Those of the complete shards, one after another."""
        for number in range(self.shards):
            record = ShardRecord.load(self._record_path(number))
            if record is None:
                raise UserError(
                    f"out: {self._record_path(number)} can't be read; the same command makes its shard anew"
                )
            yield record

    def commit(self, record: ShardRecord) -> None:
        """Put the files of the next shard in their place, and count it as complete."""
        if record.tar_bytes:
            draft, path = self.draft(), self.path(self.shards)
            os.replace(index_path(draft), index_path(path))
            os.replace(draft, path)
        record.save(self._record_path(self.shards))
        self.shards += 1

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, and forget how it came about."""
        text = json.dumps({**summary, "options": self._options}, indent=1, ensure_ascii=False)
        write_whole(self.folder / SUMMARY, text.encode("utf-8", "backslashreplace") + b"\n")
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _acquire(self, lock: IO[str]) -> None:
        """Take the folder for this process; the system gives it back when the process ends in any way."""
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"out: another process is writing to {self.folder}; expected to wait for its end") from None
        except OSError:  # a file system without locks
            pass

    def _open(self) -> None:
        """Find the complete shards, and remove what is left of others."""
        stored = self.scratch / "options.json"
        try:
            options = json.loads(stored.read_text())
        except (FileNotFoundError, ValueError):
            options = None
        if options is None:
            self._expect_no_shards()
        records = self._complete() if options is not None else 0
        if options is not None and records:
            self._compare(options)
        else:
            if options != self._options:
                self._forget()
            write_whole(stored, json.dumps(self._options).encode())
        self.shards = records
        for path in self.folder.iterdir():
            name = _OWN.fullmatch(path.name)
            if name and int(name[1]) >= records:
                path.unlink()

    def _forget(self) -> None:
        """Remove what was found out with other options, before there was a shard."""
        for path in self.scratch.glob("*.np[yz]"):
            path.unlink()

    def _complete(self) -> int:
        """Number of shards from the first on whose record and files are there."""
        number = end = 0
        while (record := ShardRecord.load(self._record_path(number))) is not None:
            tar = self.path(number)
            whole = not record.tar_bytes or (_has_length(tar, record.tar_bytes) and index_path(tar).exists())
            if not whole or record.begin != end:
                break
            number, end = number + 1, record.end
        return number

    def _compare(self, options: Mapping[str, Any]) -> None:
        """Raises `UserError` if these are not the options given now."""
        keys = sorted(options.keys() | self._options.keys())
        changed = [key for key in keys if options.get(key) != self._options.get(key)]
        if changed:
            told = ", ".join(f"{key} ({options.get(key)} -> {self._options.get(key)})" for key in changed)
            raise UserError(
                f"out: {self.folder} holds a conversion with another {told}; expected the same, or a new out"
            )

    def _expect_no_shards(self) -> None:
        tars = sorted(path.name for path in self.folder.glob("*.tar"))
        if tars:
            raise UserError(
                f"out: {self.folder} holds {tars[0]}, no part of an unfinished conversion; expected a new folder"
            )

    def _record_path(self, number: int) -> Path:
        return self.scratch / f"{number:06d}.npz"


def _has_length(path: Path, length: int) -> bool:
    try:
        return os.stat(path).st_size == length
    except OSError:
        return False
