"""The list of images that could not be read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from os import PathLike

from dinotrain.data.batch import Skipped
from dinotrain.errors import UserError


class SkipLog:
    """Counts the different broken samples of a run, and lists them in a file as `name<TAB>reason`, each once.

    The file is read back when a run is resumed; take lines out of it once their images are put right. Of several
    processes one keeps the log, with what all of them skipped.

    Args:
        path: the list, `skipped.txt`; written when there is something to write.
        length: number of samples in the source.
        max_fraction: the share of them that may be broken. A single one always may.
    """

    def __init__(self, path: str | PathLike[str], *, length: int, max_fraction: float) -> None:
        if length < 1:
            raise ValueError(f"length: got {length}, must be at least 1")
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_broken: got {max_fraction}, must be in 0..1")
        self._path, self._length, self._max_fraction = os.fspath(path), length, max_fraction
        self._names: set[str] = set()
        if os.path.exists(path):
            self._read_back()

    def __len__(self) -> int:
        """Number of different broken samples."""
        return len(self._names)

    def add(self, skipped: Iterable[Skipped]) -> int:
        """Take note of skipped samples; returns how many of them are new.

        Raises:
            UserError: more samples are broken than may be.
        """
        told = list(skipped)
        new = {_field(name): _field(reason) for name, reason in told}
        new = {name: reason for name, reason in new.items() if name not in self._names}
        if new:
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(f"{name}\t{reason}\n" for name, reason in new.items())
            self._names.update(new)
        if told and len(self) > max(1, self._max_fraction * self._length):
            raise UserError(
                f"data.max_broken: {len(self)} of {self._length} images can't be read, more than "
                f"{self._max_fraction:.2%} (the last: {_field(told[-1].name)}: {_field(told[-1].reason)}); "
                f"all of them are listed in {self._path}"
            )
        return len(new)

    def _read_back(self) -> None:
        with open(self._path, "rb") as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # a killed process left half a line
            os.truncate(self._path, len(whole))
        self._names.update(line.partition("\t")[0] for line in whole.decode("utf-8").split("\n") if line)


def _field(text: str) -> str:
    """Text without the characters that separate fields and lines."""
    return text.translate({ord(separator): " " for separator in "\t\n\r"})
