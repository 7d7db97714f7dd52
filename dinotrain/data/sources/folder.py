"""A folder of images, at any depth."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from os import PathLike

import numpy as np
from jaxtyping import Int64

from dinotrain.data.batch import Skipped
from dinotrain.data.images import EXTENSIONS, read_file
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.source import Source
from dinotrain.data.sources.tree import Tree, find_images, stamps_of
from dinotrain.data.storage.remote import is_remote, shown
from dinotrain.data.storage.table import cached
from dinotrain.errors import UserError

_TRAIN, _TESTS = b"train", (b"val", b"test")


class FolderSource(Source):
    """All image files under a folder, sorted by name, folder by folder.

    Where every image lies in some sub-folder, and at least two of the first-level sub-folders hold images, these are
    the classes; else the images have no labels. Hidden files and folders are left out, symbolic links are followed.
    A folder that has the sub-folders `train` and `val` (or else `test`) is read as two splits: this source is the
    first, `test()` the other, and the sub-folders of each are the classes.

    Args:
        root: the folder.
        extensions: endings of the file names to take, by default those of all formats that can be read.
        min_size: images with a shorter side than this many pixels count as broken.
        classes: class names in the order of their numbers; classes that are not among them follow.

    Raises:
        UserError: no such folder, or no image in it.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        extensions: Sequence[str] | None = None,
        min_size: int = 1,
        classes: Sequence[str] | None = None,
    ) -> None:
        if min_size < 1:
            raise ValueError(f"min_size: got {min_size}, must be at least 1")
        self._extensions = _normalized(EXTENSIONS if extensions is None else extensions)
        self.min_size = min_size
        top = _folder(root)
        self._root, self._test_root = self._splits(top)
        self._prefix = os.path.relpath(self._root, top) + b"/" if self._root != top else b""
        endings = tuple(os.fsencode(extension) for extension in self._extensions)
        key = b"\0".join((b"1", self._root, *endings))
        asked = partial(_unchanged, self._root, time.time_ns())
        arrays = cached("folder", os.fsdecode(key), partial(_build, self._root, endings), asked)
        self.paths = PathTable.from_cache(arrays, "paths")
        """The files, relative to the folder."""
        self._digest = arrays["digest"].tobytes().decode()
        lost = list(PathTable.from_cache(arrays, "lost"))  # folders that could not be listed, each before the reason
        self.left_out = tuple(
            Skipped(printable(self._prefix + folder), reason.decode())
            for folder, reason in zip(lost[::2], lost[1::2], strict=True)
        )
        if not len(self.paths):
            raise UserError(f"data.root: {_nothing_in(self._root, self._extensions)}")
        self.labels, self.classes = _label(arrays, classes)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when its file can't be read."""
        return read_file(os.path.join(self._root, self.paths[index]))

    def name(self, index: int) -> str:
        """Path below the root."""
        return printable(self._prefix + self.paths[index])

    def test(self) -> FolderSource | None:
        """The other split of a folder with splits; its classes have the numbers they have here."""
        if self._test_root is None:
            return None
        root = os.fsdecode(self._test_root)
        return FolderSource(root=root, extensions=self._extensions, min_size=self.min_size, classes=self.classes)

    def fingerprint(self) -> str:
        return f"folder:{len(self)}:{self._digest}"

    def _splits(self, top: bytes) -> tuple[bytes, bytes | None]:
        """Folder to read, and that of the test split."""
        train = os.path.join(top, _TRAIN)
        if os.path.isdir(train):
            for name in _TESTS:
                if os.path.isdir(test := os.path.join(top, name)):
                    return train, test
        return top, None


def _normalized(extensions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(extensions, str) or not extensions:
        raise ValueError(f"extensions: got {extensions!r}, must be a list such as ['.jpg', '.png']")
    return tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)


def _folder(root: str | PathLike[str]) -> bytes:
    """The root as an absolute path, checked."""
    if isinstance(root, str) and is_remote(root):
        raise UserError(
            f"data.root: {shown(root)} is a URL, expected a folder on a local disk (data=list, data=shards and "
            "data=parquet read URLs)"
        )
    path = os.path.abspath(os.path.expanduser(os.fsencode(root)))
    if not os.path.exists(path):
        raise UserError(f"data.root: {printable(path)} does not exist, expected a folder of images")
    if not os.path.isdir(path):
        raise UserError(
            f"data.root: {printable(path)} is a file, expected a folder of images (data=list reads a list of paths)"
        )
    return path


def _build(root: bytes, endings: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The listing of a folder: paths with labels, and what shows whether it still holds."""
    tree = find_images(root, endings)
    lost = PathTable(chain.from_iterable((path, reason.encode()) for path, reason in tree.lost))
    arrays = tree.paths.for_cache("paths") | tree.watched.for_cache("watched") | lost.for_cache("lost")
    arrays |= {
        "stamps": tree.stamps,
        "settled": np.array([tree.settled]),
        "made": np.array([time.time_ns()]),
        "digest": np.frombuffer(tree.paths.digest().encode(), np.uint8),
    }
    return arrays | _first_levels(tree)


def _first_levels(tree: Tree) -> dict[str, np.ndarray]:
    """Number and name of the first-level folder of each image; nothing where some lie in none."""
    tops = [tree.holders[index].partition(b"/")[0] for index in range(len(tree.holders))]
    if b"" in tops:
        return {}
    numbers = {top: number for number, top in enumerate(dict.fromkeys(tops))}
    names = PathTable(numbers)
    labels = np.repeat(np.array([numbers[top] for top in tops], np.int64), tree.counts)
    return {"labels": labels} | names.for_cache("classes")


def _unchanged(root: bytes, asked: int, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a listing holds: no folder has changed, or could have done so unnoticed before it was asked for."""
    if not arrays["settled"][0] and arrays["made"][0] < asked:
        return False
    watched = PathTable.from_cache(arrays, "watched")
    return np.array_equal(stamps_of(root, watched), arrays["stamps"])


def _label(
    arrays: dict[str, np.ndarray], known: Sequence[str] | None
) -> tuple[Int64[np.ndarray, "N"] | None, tuple[str, ...] | None]:
    """Class numbers by first-level folder, and class names; (None, None) where these folders are no classes."""
    if "labels" not in arrays:
        return None, None
    table = PathTable.from_cache(arrays, "classes")
    names = [os.fsdecode(table[index]) for index in range(len(table))]
    if known is None:
        return (None, None) if len(names) < 2 else (arrays["labels"], tuple(names))
    numbers = {name: number for number, name in enumerate(known)}
    new = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    return new[arrays["labels"]], tuple(numbers)


def _nothing_in(root: bytes, extensions: Sequence[str]) -> str:
    files = sum(len(names) for _, _, names in os.walk(root))
    shown = ", ".join(extensions[:4] if len(extensions) <= 4 else (".jpg", ".png", ".webp", ".tif", "and more"))
    other = f"; {files} other files" if files else ""
    return f"no images in {printable(root)} (looked at any depth for {shown}{other})"
