"""The Parquet files of a set, and which of them are its test split."""

from __future__ import annotations

import glob
import os
import posixpath
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial

from dinotrain.data.paths import printable
from dinotrain.data.storage.remote import Remote, Storage, is_remote, shown
from dinotrain.errors import UserError

_ENDINGS = (".parquet", ".parq", ".pq")
_TRAIN, _TESTS = "train", ("validation", "test")
_SPLIT = re.compile(r"(train|training|validation|valid|val|test)(?![A-Za-z0-9])")
_ALIASES = {"training": "train", "valid": "validation", "val": "validation"}


def parquet_files(roots: Sequence[str], storage: Storage) -> tuple[list[str], list[str]]:
    """Files to read, and those of the test split (none if there is no such split), each sorted by path.

    In a folder a split is a sub-folder `train`, `validation` (`valid`, `val`) or `test`, or the files whose names
    start with one of these words, as in `train-00000-of-00004.parquet`. Where there is no training split, and of files
    that are named one by one or by a pattern, all are read.

    Args:
        roots: folders, files or patterns with `*`, as paths or URLs.
        storage: how those are read that are URLs.

    Raises:
        UserError: there is no Parquet file.
    """
    found: dict[str, list[str]] = {}
    for root in roots:
        for path, below in _remote(root, storage) if is_remote(root) else _local(root):
            found.setdefault(_split(below), []).append(path)
    test = next((found[name] for name in _TESTS if name in found and _TRAIN in found), [])
    files = found.get(_TRAIN) or [path for paths in found.values() for path in paths]
    if not files:
        raise UserError(
            f"data.root: no Parquet file in {', '.join(map(told, roots))} (looked at any depth for {_ENDINGS[0]})"
        )
    return sorted(set(files)), sorted(set(test))


def told(path: str) -> str:
    """A path or URL for messages."""
    return shown(path) if is_remote(path) else printable(os.fsencode(path))


def _local(root: str) -> Iterator[tuple[str, str]]:
    """Paths of files, and what stands below the folder in each; "" for a file that was named itself."""
    root = os.path.abspath(os.path.expanduser(root.removeprefix("file://")))
    if os.path.isdir(root):
        seen: set[str] = set()
        for folder, folders, names in os.walk(root, followlinks=True, onerror=partial(_unlisted, root)):
            if (real := os.path.realpath(folder)) in seen:  # a link to a folder above it
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                if _taken(name):
                    path = os.path.join(folder, name)
                    yield path, os.path.relpath(path, root).replace(os.sep, "/")
    elif os.path.exists(root):
        yield root, ""
    elif glob.has_magic(root):
        # Through a link to a folder above it, a pattern finds a file again and again, by longer and longer paths.
        found = sorted(glob.glob(root, recursive=True), key=lambda path: (len(path), path), reverse=True)
        yield from (
            (path, "") for path in {os.path.realpath(path): path for path in found}.values() if not os.path.isdir(path)
        )
    else:
        raise UserError(f"data.root: {told(root)} does not exist, expected a Parquet file or a folder of such files")


def _unlisted(root: str, error: OSError) -> None:
    if error.filename == root:
        raise UserError(f"data.root: can't list {told(root)}: {error.strerror}") from error
    warnings.warn(f"data.root: left out {told(str(error.filename))}: {error.strerror}", stacklevel=2)


def _remote(root: str, storage: Storage) -> Iterator[tuple[str, str]]:
    found = Remote(storage).find(root)
    if "*" in root or found == [root]:
        yield from ((url, "") for url in found)
        return
    for url in Remote(storage).find(root.rstrip("/") + "/**"):
        if _taken(posixpath.basename(url)):
            yield url, url.removeprefix(root.rstrip("/") + "/")


def _taken(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not name.startswith((".", "_"))


def _split(below: str) -> str:
    """Split of a file by its path below the root, "" if that names none."""
    *folders, name = below.split("/")
    whole = (match[1] for folder in folders if (match := _SPLIT.fullmatch(folder)))
    split = next(whole, None) or ((match := _SPLIT.match(name)) and match[1]) or ""
    return _ALIASES.get(split, split)
