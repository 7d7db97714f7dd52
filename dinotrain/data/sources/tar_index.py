"""Where the images of a tar shard lie."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from array import array
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from dinotrain.data.images import EXTENSIONS
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.sources.tar_headers import Member, ReadAt, TarDamage, members

_VERSION = 1
_LONGEST_LABEL = 64
"""Bytes of a `.cls` file."""
_LONGEST_JSON = 2**20
_LABEL_KEYS = ("label", "cls")
_GREATEST = 2**63 - 1
_IMAGES = frozenset(extension.lstrip(".").encode() for extension in EXTENSIONS)
_NO_IMAGE = 2
_MORE_IMAGES = 4
"""A sample may well have some images beside the one that is used; more of them look like a mistake in the names."""


def index_name(shard: str) -> str:
    """Name of the index beside a shard: of `x.tar` it is `x.index.npz`."""
    return f"{shard.removesuffix('.tar')}.index.npz"


@dataclass(frozen=True)
class TarIndex:
    """The samples of a tar shard that have an image.

    A sample is a run of members that share their path up to the first dot of the base name, which is its name, as in
    WebDataset.
    """

    names: PathTable
    offsets: Int64[np.ndarray, "N"]
    """Of the image's bytes in the tar."""
    sizes: Int64[np.ndarray, "N"]
    """Of the image, bytes."""
    labels: Int64[np.ndarray, "N"] | None
    """Class numbers; None unless all samples have one."""
    tar_bytes: int
    """Size of the tar, by which one sees whether this still is the tar that was indexed."""

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes it to a file, all or nothing."""
        fields: dict[str, Any] = {
            "version": np.int64(_VERSION),
            "tar_bytes": np.int64(self.tar_bytes),
            "block": self.names.block,
            "ends": self.names.ends,
            "offsets": self.offsets,
            "sizes": self.sizes,
        }
        if self.labels is not None:
            fields["labels"] = self.labels
        path = os.path.abspath(path)
        file, draft = tempfile.mkstemp(suffix=".part", dir=os.path.dirname(path))
        try:
            with open(file, "wb") as out:
                np.savez(out, **fields)
            os.chmod(draft, 0o644)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise

    @staticmethod
    def load(data: bytes | str | PathLike[str]) -> TarIndex:
        """Reads what `save` wrote: the bytes of the file, or its path.

        Raises:
            ValueError: it is damaged, or of another version.
            OSError: it can't be read.
        """
        try:
            with np.load(io.BytesIO(data) if isinstance(data, bytes) else data, allow_pickle=False) as fields:
                return _checked({name: fields[name] for name in fields.files})
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"index of a shard: damaged ({' '.join(str(error).split())})") from error


class Scan(NamedTuple):
    """What a tar holds."""

    index: TarIndex
    reason: str | None
    """Why it could not be read to its end, on one line; its whole samples before that are in the index."""


def scan_tar(read: ReadAt, tar_bytes: int) -> Scan:
    """Index of a tar by its headers alone, but for labels: contents of images are not read.

    Labels are whole numbers, from `.cls` members, else from the key `label` or `cls` of `.json` members.

    Args:
        read: gives bytes start..stop of the tar.
        tar_bytes: size of the tar.
    """
    samples = _Samples(read)
    try:
        for member in members(read, tar_bytes):
            samples.add(member)
        samples.close()
        reason = samples.oddity()
    except TarDamage as damage:
        samples.close(damaged=True)
        reason = str(damage)
    return Scan(samples.index(tar_bytes), reason)


class _Samples:
    """Collects members to samples."""

    def __init__(self, read: ReadAt) -> None:
        self._read = read
        self._names: list[bytes] = []
        self._offsets, self._sizes, self._labels = array("q"), array("q"), array("q")
        self._labelled = True
        self._more = 0
        self._start(b"")

    def _start(self, key: bytes) -> None:
        self._key, self._rank = key, _NO_IMAGE
        self._image: Member | None = None
        self._label: int | None = None

    def add(self, member: Member) -> None:
        """The next member of the tar."""
        folder, slash, base = member.name.rpartition(b"/")
        stem, _, extension = base.partition(b".")
        if not stem:  # a hidden file
            return
        key = folder + slash + stem
        if key != self._key:
            self.close()
            self._start(key)
        extension = extension.lower()
        rank = _rank(extension)
        self._more += rank < _NO_IMAGE and self._image is not None
        if rank < self._rank:
            self._rank, self._image = rank, member
        elif self._labelled and extension == b"cls" and member.size <= _LONGEST_LABEL:
            self._label = _whole_number(self._content(member), self._label)
        elif self._labelled and extension == b"json" and member.size <= _LONGEST_JSON and self._label is None:
            self._label = _json_label(self._content(member))

    def close(self, damaged: bool = False) -> None:
        """The sample at hand is complete, or as complete as it will be."""
        if self._image is None:
            return
        if self._label is None and self._labelled and self._names and damaged:
            return  # all others have a label: that of this one is behind the damage
        self._names.append(self._key)
        self._offsets.append(self._image.offset)
        self._sizes.append(self._image.size)
        self._labels.append(-1 if self._label is None else self._label)
        self._labelled &= self._label is not None
        self._image = None

    def oddity(self) -> str | None:
        """What the user should know of an archive without faults."""
        if self._more <= _MORE_IMAGES * len(self._names):
            return None
        return (
            f"{self._more} images are left out: up to the first dot they have the name of the image before "
            f"({printable(self._names[0])})"
        )

    def index(self, tar_bytes: int) -> TarIndex:
        """Of the samples so far."""
        offsets, sizes, labels = (np.array(column, np.int64) for column in (self._offsets, self._sizes, self._labels))
        return TarIndex(PathTable(self._names), offsets, sizes, labels if self._labelled else None, tar_bytes)

    def _content(self, member: Member) -> bytes:
        return self._read(member.offset, member.offset + member.size)


def _rank(extension: bytes) -> int:
    """How well an extension fits the image of a sample: `.jpg`, then `.input.jpg`, then none of these."""
    if extension in _IMAGES:
        return 0
    return 1 if extension.rpartition(b".")[2] in _IMAGES else _NO_IMAGE


def _whole_number(text: bytes, otherwise: int | None) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() and int(text) <= _GREATEST else otherwise


def _json_label(text: bytes) -> int | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = [record.get(key) for key in _LABEL_KEYS] if isinstance(record, dict) else []
    whole = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return next((value for value in whole if 0 <= value <= _GREATEST), None)


def _checked(fields: dict[str, np.ndarray]) -> TarIndex:
    """From the arrays of a file."""
    if int(fields["version"]) != _VERSION:
        raise ValueError(f"version {int(fields['version'])}")
    names = PathTable.of_arrays(fields["block"], fields["ends"])
    offsets, sizes, labels = fields["offsets"], fields["sizes"], fields.get("labels")
    tar_bytes = int(fields["tar_bytes"])
    columns = [offsets, sizes] if labels is None else [offsets, sizes, labels]
    if any(column.dtype != np.int64 or column.shape != (len(names),) for column in columns):
        raise ValueError("columns of different lengths or types")
    if len(names) and (min(offsets.min(), sizes.min()) < 0 or (offsets + sizes).max() > tar_bytes):
        raise ValueError("images beyond the end of the shard")
    return TarIndex(names, offsets, sizes, labels, tar_bytes)
