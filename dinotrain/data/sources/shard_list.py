"""The tar shards that a root names."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from dinotrain.data.paths import printable
from dinotrain.data.storage.remote import Remote, is_remote, shown
from dinotrain.errors import UserError

_ENDING, _COMPRESSED = ".tar", (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_TRAIN = ("train", "training")
_TESTS = ("val", "validation", "valid", "test")
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_TRAIN + _TESTS)})(?![a-z])")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class Shards(NamedTuple):
    """Paths or URLs of shards."""

    train: list[str]
    test: list[str]
    """Of the test split; empty if there is none."""


def shard_list(root: str | os.PathLike[str], remote: Remote) -> Shards:
    """The shards that a root names.

    In a folder a split is a sub-folder `train`, `val` (`validation`, `valid`) or `test`, or the shards with one of
    these words in their name, as in `pictures-train-0000.tar`. Where there is no training split, all shards of the
    folder are taken for it.

    Args:
        root: a folder (its `.tar` files, sorted), one file, a pattern with `*`, a range such as
            `name-{000000..000123}.tar` or `{a,b}.tar`; as a path or URL.
        remote: lists folders that are URLs.

    Raises:
        UserError: there is none, or one is listed twice.
    """
    root = os.fspath(root)
    shards = _remote_shards(root, remote) if is_remote(root) else _local_shards(root)
    if not shards.train:
        raise UserError(f"data.root: no {_ENDING} file matches {told(root)}")
    _refuse_twins([*shards.train, *shards.test])
    return shards


def told(path: str) -> str:
    """A path or URL for messages."""
    return shown(path) if is_remote(path) else printable(os.fsencode(path))


def shard_name(path: str) -> str:
    """Base name of a shard, printable."""
    if is_remote(path):
        return posixpath.basename(urlsplit(path).path) or shown(path)
    return printable(os.fsencode(os.path.basename(path)))


def lasting_name(path: str) -> str:
    """Path or URL by which a shard is known again: without the query of a URL, if that may be a signature."""
    return shown(path) if is_remote(path) and _is_tar(urlsplit(path).path) else path


def beside(path: str, name: str) -> str:
    """Path or URL of a file in the folder of a shard."""
    if not is_remote(path):
        return os.path.join(os.path.dirname(path), name)
    head, question, query = path.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{question}{query}"


def _expanded(pattern: str) -> Iterator[str]:
    """Every text that the braces stand for, in their order."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, names = match.groups()
    if names is None:
        low, high, width = int(first), int(last), len(first)
        if low > high:
            raise UserError(f"data.root: got the range {match[0]}, its first number must not be above its last")
        choices = (f"{number:0{width}d}" for number in range(low, high + 1))
    else:
        choices = iter(names.split(","))
    for choice in choices:
        yield from _expanded(pattern[: match.start()] + choice + pattern[match.end() :])


def _local_shards(root: str) -> Shards:
    path = os.path.abspath(os.path.expanduser(root.removeprefix("file://")))
    if os.path.isdir(path):
        return _in_folder(path, _listed)
    if os.path.lexists(path):
        return Shards([path], [])
    patterns = list(_expanded(path))
    if patterns == [path] and not glob.has_magic(path):
        raise UserError(f"data.root: {told(path)} does not exist, expected tar shards or a folder of them")
    return Shards([shard for pattern in patterns for shard in _matching(pattern)], [])


def _remote_shards(url: str, remote: Remote) -> Shards:
    patterns = list(_expanded(url))
    if patterns == [url] and not glob.has_magic(url) and not urlsplit(url).path.endswith(_ENDING):
        found = remote.find(url)
        return Shards(found, []) if found == [url] else _in_folder(url.rstrip("/"), remote.find)
    shards = [remote.find(pattern) if glob.has_magic(pattern) else [pattern] for pattern in patterns]
    return Shards([shard for found in shards for shard in found if shard in patterns or _is_tar(shard)], [])


def _listed(folder: str) -> list[str]:
    """What lies in a local folder, sorted by name."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder), key=os.fsencode)]
    except OSError as error:
        raise UserError(f"data.root: can't list {told(folder)}: {error.strerror}") from error


def _matching(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [pattern]
    return _tars(sorted(glob.glob(pattern, recursive=True), key=os.fsencode), pattern)


def _in_folder(folder: str, listed: Callable[[str], list[str]]) -> Shards:
    """The shards of a folder, also what only is called so: reading it says what is wrong."""
    shards = _tars(listed(folder), folder)
    if not shards:
        train = _in_first(folder, _TRAIN, listed)
        return Shards(train, _in_first(folder, _TESTS, listed) if train else [])
    words = [_WORD.search(posixpath.basename(shard).lower()) for shard in shards]
    splits: dict[str, list[str]] = {}
    for shard, word in zip(shards, words, strict=True):
        splits.setdefault(word[0] if word else "", []).append(shard)
    train = [shard for word in _TRAIN for shard in splits.get(word, [])]
    test = next((splits[word] for word in _TESTS if word in splits), [])
    return Shards(train, test) if train and test else Shards(shards, [])


def _in_first(folder: str, names: Sequence[str], listed: Callable[[str], list[str]]) -> list[str]:
    """The shards in the first of these sub-folders that holds some."""
    for name in names:
        with suppress(UserError):  # there is none
            if shards := _tars(listed(f"{folder}/{name}"), folder):
                return shards
    return []


def _tars(paths: Sequence[str], where: str) -> list[str]:
    """Those that are called .tar and not hidden; refuses a set of compressed ones."""
    tars = [path for path in paths if _is_tar(path)]
    if not tars and (compressed := [path for path in paths if path.lower().endswith(_COMPRESSED)]):
        raise UserError(
            f"data.root: {told(where)} holds compressed archives ({shard_name(compressed[0])}), which allow no access "
            "by position: unpack them to plain .tar, or unpack all images and convert these with "
            "python -m dinotrain.prepare"
        )
    return tars


def _is_tar(path: str) -> bool:
    name = posixpath.basename(path)
    return name.lower().endswith(_ENDING) and not name.startswith(".")


def _refuse_twins(shards: list[str]) -> None:
    seen: set[str] = set()
    for shard in shards:
        place = shard if is_remote(shard) else os.path.realpath(shard)
        if place in seen:
            raise UserError(f"data.root: the shard {told(shard)} is listed twice, every shard must be there once")
        seen.add(place)
