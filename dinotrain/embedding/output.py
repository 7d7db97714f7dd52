"""The file of features, and what stands beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dinotrain.data.skips import SkipLog
from dinotrain.embedding.array_files import (
    read_npy,
    read_npz,
    read_pt,
    write_names,
    write_npy,
    write_npz,
    write_pt,
)
from dinotrain.embedding.collected import Collected
from dinotrain.embedding.content import Column
from dinotrain.embedding.differences import differences
from dinotrain.embedding.parquet_file import read_parquet, write_parquet
from dinotrain.embedding.parts import read_json, writing
from dinotrain.errors import UserError

WRITERS = {".parquet": write_parquet, ".npy": write_npy, ".npz": write_npz, ".pt": write_pt}
NOT_DECISIVE = ("batch", "device")
"""What changes features in their last bits alone: parts made with others are not to be mixed, but a file is as good."""


class Output:
    """A file of features by the name of its ending, with `NAME.json` and, if need be, other files beside it.

    Args:
        path: of the file.
        columns: of it.

    Raises:
        UserError: if there is no such kind of file, or it can't hold these columns.
    """

    def __init__(self, path: Path, columns: tuple[Column, ...]) -> None:
        self.path, self.columns = path, columns
        if path.suffix not in WRITERS:
            raise UserError(f"out: got {path}, expected a file that ends in {', '.join(WRITERS)}")
        if path.suffix == ".npy" and len(columns) > 1 and not all(column.pooled for column in columns):
            raise UserError(
                "out: .npy holds one array; expected tokens=[patches] and one layer, tokens without patches, or a "
                "file that ends in .parquet, .npz or .pt"
            )

    @property
    def parts(self) -> Path:
        """The folder of what is extracted already."""
        return self.beside("parts")

    def beside(self, ending: str) -> Path:
        """A file that belongs to it."""
        return self.path.with_name(f"{self.path.name}.{ending}")

    @property
    def record(self) -> dict[str, Any]:
        """What is known of the file that is there; empty if it is not, or not whole."""
        found = read_json(self.beside("json"))
        try:
            whole = self.path.stat().st_size == found.get("bytes")
        except OSError:
            whole = False
        return found if whole else {}

    def is_done(self, about: Mapping[str, Any]) -> bool:
        """Whether the file is there, with these features.

        Raises:
            UserError: if it has others, or something else is there.
        """
        if not self.path.exists():
            return False
        known = self.record.get("features")
        if isinstance(known, dict):
            different = differences(_decisive(known), _decisive(about))
            if different:
                raise UserError(
                    f"out: {self.path} holds other features ({'; '.join(different)}); expected another file, or "
                    "again=true to replace it"
                )
            return True
        if not self.parts.exists():
            raise UserError(f"out: {self.path} exists, and is none of this command; expected another file")
        return False

    def write(self, features: Collected, about: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write all files; each is there as a whole or not at all.

        Args:
            about: all that decides on the features.
            facts: what else is worth knowing of them.

        Raises:
            UserError: if they can't be written.
        """
        beside = self.beside("new")
        try:
            with writing(self.path, kept=True):
                self._extras(features)
                WRITERS[self.path.suffix](beside, features)
                _flush(beside)
                record = {
                    "features": dict(about),
                    **facts,
                    "images": len(features),
                    "columns": [{"name": column.name, "shape": column.shape} for column in self.columns],
                    "skipped": [index for index, _ in features.skipped],
                    "bytes": beside.stat().st_size,
                }
                os.replace(beside, self.path)
                described = self.beside("json.new")
                described.write_text(json.dumps(record, indent=1))
                os.replace(described, self.beside("json"))
        finally:
            with suppress(OSError):
                beside.unlink()

    def blocks(self, column: Column) -> Iterator[np.ndarray]:
        """A column of the file that is there, some rows at a time, in float32.

        Raises:
            UserError: if it can't be read.
        """
        found = {
            ".parquet": lambda: read_parquet(self.path, column),
            ".npy": lambda: read_npy(self.path, column, self.columns),
            ".npz": lambda: read_npz(self.path, column),
            ".pt": lambda: read_pt(self.path, column),
        }
        try:
            for block in found[self.path.suffix]():
                yield block.astype(np.float32)
        except Exception as error:  # a damaged file raises nearly anything
            line = " ".join(str(error).split())
            raise UserError(f"out: {self.path} can't be read ({line}); again=true makes it anew") from error

    def remove(self) -> None:
        """The file, all beside it, and what is extracted already.

        Raises:
            UserError: if what is there is none of this command.
        """
        if self.path.exists() and not self.record and not self.parts.exists():
            raise UserError(f"out: {self.path} exists, and is none of this command; expected another file")
        with writing(self.path):
            for path in (self.path, *(self.beside(ending) for ending in ("json", "names.csv", "skipped.txt"))):
                path.unlink(missing_ok=True)
            if self.parts.exists():
                shutil.rmtree(self.parts)

    def _extras(self, features: Collected) -> None:
        listed = self.beside("skipped.txt.new")
        listed.unlink(missing_ok=True)
        log = SkipLog(listed, length=len(features.source), max_fraction=1.0)
        log.add(skipped for _, skipped in features.skipped)
        if listed.exists():
            os.replace(listed, self.beside("skipped.txt"))
        else:
            self.beside("skipped.txt").unlink(missing_ok=True)
        if self.path.suffix == ".npy":
            names = self.beside("names.csv.new")
            write_names(names, features)
            os.replace(names, self.beside("names.csv"))


def _decisive(about: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in NOT_DECISIVE}


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
