"""Images in tar shards, as WebDataset has them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from dinotrain.data.arguments import share, whole
from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import read_file
from dinotrain.data.order import Windowed
from dinotrain.data.paths import printable
from dinotrain.data.source import Source
from dinotrain.data.sources.shard_files import Part, ShardFiles
from dinotrain.data.sources.shard_list import beside, lasting_name, shard_list, shard_name, told
from dinotrain.data.sources.shard_table import ShardTable, shard_table
from dinotrain.data.storage.remote import Remote, Storage, is_remote
from dinotrain.errors import UserError

_Split = Literal["train", "test"]
_MOST_NUMBERED_CLASSES = 2**20
"""Beyond this, labels are taken for numbers of another sort, and have no names."""


class ShardSource(Source):
    """The images of tar shards, local or remote, each read by its position in its shard.

    Members of a shard that follow each other and share their path up to the first dot of the base name are a sample:
    an image, and maybe its label, a whole number in `.cls` or under `label` or `cls` in `.json`. Where the samples lie
    is read from `x.index.npz` beside the shard `x.tar`, or found by its headers and kept in the user's cache folder.
    Class names are the lines of `classes.txt` or the list `classes` of `summary.json` beside the shards, if there is
    one of them. A shard that can't be read is left out, of one that is cut short the samples before the cut are used.

    Args:
        root: a folder (its .tar files), a file, a pattern with `*`, or a range such as `name-{000000..000123}.tar`;
            as a path or URL (s3://, gs://, https://, hf:// ...).
        split: "train", or "test" for the other shards of a folder in which sub-folders or names say which these are
            (`val`, `validation`, `valid` or else `test`).
        window: shards whose samples are shuffled together.
        labels: use the labels, if all samples have one.
        min_size: images with a shorter side than this many pixels count as broken.
        max_broken: share of the shards that may be left out.
        storage: how remote shards are read.

    Raises:
        UserError: no shard, none or too few that can be read, or one that is listed twice.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        split: _Split = "train",
        window: int = 16,
        labels: bool = True,
        min_size: int = 1,
        max_broken: float = 0.01,
        storage: Storage | None = None,
    ) -> None:
        self._window = whole("window", window, 1)
        self.min_size = whole("min_size", min_size, 1)
        share("max_broken", max_broken)
        if split not in get_args(_Split):
            raise ValueError(f"split: got {split!r}, must be train or test")
        storage = storage or Storage()
        remote = Remote(storage)
        found = shard_list(root, remote)
        self._shards = found.train if split == "train" else found.test
        if not self._shards:
            raise UserError(f"data.root: no shards of a test split in {told(os.fspath(root))}")
        self._table = shard_table(f"{split} {_key(root)}", self._shards, remote)
        self.left_out = _left_out(self._shards, self._table)
        _refuse_too_few(self._shards, self._table, max_broken)
        self._usable = np.flatnonzero(self._table.counts)
        self._firsts = np.concatenate([[0], np.cumsum(self._table.counts[self._usable])])
        self._files = ShardFiles(self._shards, storage)
        if labels and _all_labelled(self._table, self._shards):
            self.labels = self._table.labels
            self.classes = _classes(self._shards[0], int(self.labels.max()), remote)
        rest = {"window": window, "labels": labels, "min_size": min_size, "max_broken": max_broken, "storage": storage}
        self._test = {"root": root, "split": "test", **rest} if split == "train" and found.test else None

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, index: int) -> bytes:
        """One image file; raises `BrokenImage` when it can't be read, or its shard failed a short time ago."""
        return self._files.read(self._part(index))

    def fetch(self, indices: Sequence[int]) -> None:
        self._files.fetch([self._part(index) for index in indices])

    def name(self, index: int) -> str:
        """Base name of the shard, and the sample's name in it."""
        return f"{shard_name(self._shards[self._shard(index)])}/{printable(self._table.names[index])}"

    def test(self) -> ShardSource | None:
        """The other shards of a folder with splits."""
        return None if self._test is None else ShardSource(**self._test)

    def order(self) -> Windowed:
        return Windowed(np.diff(self._firsts), self._window)

    def fingerprint(self) -> str:
        shards = [(shard_name(self._shards[shard]), int(self._table.counts[shard])) for shard in self._usable.tolist()]
        digest = hashlib.sha256(f"{shards} {self._table.names.digest()}".encode()).hexdigest()[:16]
        return f"shards:{len(self)}:{digest}"

    def _part(self, index: int) -> Part:
        shard, start = self._shard(index), int(self._table.offsets[index])
        return Part(shard, start, start + int(self._table.sizes[index]))

    def _shard(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        return int(self._usable[np.searchsorted(self._firsts, index, side="right") - 1])


def _key(root: str | os.PathLike[str]) -> str:
    """What the set is called in the cache folder."""
    text = os.fspath(root)
    return lasting_name(text) if is_remote(text) else os.path.abspath(os.path.expanduser(text.removeprefix("file://")))


def _left_out(shards: Sequence[str], table: ShardTable) -> tuple[Skipped, ...]:
    """The shards with something wrong."""
    odd = np.flatnonzero(np.diff(table.reasons.ends)).tolist()
    return tuple(Skipped(shard_name(shards[number]), _reason(table, number)) for number in odd)


def _reason(table: ShardTable, number: int) -> str:
    reason, count = table.reasons[number].decode(), int(table.counts[number])
    return f"{reason}; {count} of its samples are used" if count else reason


def _refuse_too_few(shards: Sequence[str], table: ShardTable, max_broken: float) -> None:
    failed, total = np.flatnonzero(table.counts == 0).tolist(), len(shards)
    if len(failed) <= max_broken * total and len(failed) < total:
        return
    many = "the shard can't be used" if total == 1 else f"{len(failed)} of {total} shards can't be used"
    limit = "" if len(failed) == total else f"; data.max_broken allows {max_broken:.2%}"
    raise UserError(f"data.root: {many} ({told(shards[failed[0]])}: {_reason(table, failed[0])}){limit}")


def _all_labelled(table: ShardTable, shards: Sequence[str]) -> bool:
    usable = table.counts > 0
    without = np.flatnonzero(usable & ~table.labelled)
    if len(without) and (table.labelled & usable).any():
        warnings.warn(
            f"data.root: labels are not used: in {len(without)} of {int(usable.sum())} shards some samples have none "
            f"(the first: {shard_name(shards[int(without[0])])})",
            stacklevel=3,
        )
    return not len(without)


def _classes(shard: str, greatest: int, remote: Remote) -> tuple[str, ...] | None:
    """Names of the classes, from a file beside this shard; else their numbers."""
    for name, parse in (("classes.txt", _lines), ("summary.json", _listed)):
        path = beside(shard, name)
        try:
            names = parse(remote.read(path) if is_remote(path) else read_file(path))
        except (BrokenImage, ValueError):
            continue
        if names is None:
            continue
        if len(names) <= greatest:
            raise UserError(f"data.root: {told(path)} names {len(names)} classes, but there is a label {greatest}")
        return names
    return tuple(map(str, range(greatest + 1))) if greatest < _MOST_NUMBERED_CLASSES else None


def _lines(text: bytes) -> tuple[str, ...] | None:
    return tuple(printable(line.rstrip(b"\r")) for line in text.rstrip().split(b"\n"))


def _listed(text: bytes) -> tuple[str, ...] | None:
    record = json.loads(text)
    names = record.get("classes") if isinstance(record, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) and names else None
