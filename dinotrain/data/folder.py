"""A folder of images, at any depth."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from os import PathLike

import numpy as np

from dinotrain.data.images import EXTENSIONS, read_file
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.source import Source
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
        self._root, self._test_root = _splits(top)
        self._prefix = os.path.relpath(self._root, top) + b"/" if self._root != top else b""
        self._paths = PathTable(_walk(self._root, self._extensions))
        if not len(self._paths):
            raise UserError(f"data.root: {_nothing_in(self._root, self._extensions)}")
        self.labels, self.classes = _label(self._paths, classes)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when its file can't be read."""
        return read_file(os.path.join(self._root, self._paths[index]))

    def name(self, index: int) -> str:
        """Path below the root."""
        return printable(self._prefix + self._paths[index])

    def test(self) -> FolderSource | None:
        """The other split of a folder with splits; its classes have the numbers they have here."""
        if self._test_root is None:
            return None
        root = os.fsdecode(self._test_root)
        return FolderSource(root=root, extensions=self._extensions, min_size=self.min_size, classes=self.classes)

    def fingerprint(self) -> str:
        return f"folder:{len(self)}:{self._paths.digest()}"


def _normalized(extensions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(extensions, str) or not extensions:
        raise ValueError(f"extensions: got {extensions!r}, must be a list such as ['.jpg', '.png']")
    return tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)


def _folder(root: str | PathLike[str]) -> bytes:
    """The root as an absolute path, checked."""
    path = os.path.abspath(os.path.expanduser(os.fsencode(root)))
    if not os.path.exists(path):
        raise UserError(f"data.root: {printable(path)} does not exist, expected a folder of images")
    if not os.path.isdir(path):
        raise UserError(
            f"data.root: {printable(path)} is a file, expected a folder of images (data=list reads a list of paths)"
        )
    return path


def _splits(top: bytes) -> tuple[bytes, bytes | None]:
    """Folder to read, and that of the test split."""
    train = os.path.join(top, _TRAIN)
    if os.path.isdir(train):
        for name in _TESTS:
            if os.path.isdir(test := os.path.join(top, name)):
                return train, test
    return top, None


_Item = tuple[bytes, tuple[tuple[int, int], ...] | None]
"""Path below the root; for a folder also (device, inode) of all folders above it, None for a file."""


def _walk(root: bytes, extensions: Collection[str]) -> Iterator[bytes]:
    """Paths of all files with these extensions, relative to root, sorted by each folder's names in bytes."""
    endings = tuple(os.fsencode(extension) for extension in extensions)
    stack: list[_Item] = [(b"", ())]
    while stack:
        path, above = stack.pop()
        if above is None:
            yield path
        else:
            stack += sorted(_entries(root, path, above, endings), reverse=True)


def _entries(
    root: bytes, path: bytes, above: tuple[tuple[int, int], ...], endings: tuple[bytes, ...]
) -> Iterator[_Item]:
    """Sub-folders and image files of one folder, in no order."""
    folder = os.path.join(root, path)
    try:
        info = os.stat(folder)
        here = (info.st_dev, info.st_ino)
        if here in above:  # a symbolic link to a folder above it
            return
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith(b"."):
                    continue
                if _is_folder(entry):
                    yield os.path.join(path, entry.name), (*above, here)
                elif entry.name.lower().endswith(endings):
                    # Also broken links and other odd things: reading them says what is wrong.
                    yield os.path.join(path, entry.name), None
    except OSError as error:
        if not path:
            raise UserError(f"data.root: can't list {printable(root)}: {error.strerror}") from error
        warnings.warn(f"data.root: left out {printable(folder)}: {error.strerror}", stacklevel=2)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _label(paths: PathTable, known: Sequence[str] | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Class numbers by first-level folder, and class names; (None, None) where these folders are no classes."""
    numbers: dict[bytes, int] = {os.fsencode(name): number for number, name in enumerate(known or ())}
    seen: set[bytes] = set()
    labels = np.empty(len(paths), np.int64)
    for index in range(len(paths)):
        folder, separator, _ = paths[index].partition(b"/")
        if not separator:
            return None, None
        seen.add(folder)
        labels[index] = numbers.setdefault(folder, len(numbers))
    if len(seen) < 2 and known is None:
        return None, None
    return labels, tuple(os.fsdecode(folder) for folder in numbers)


def _nothing_in(root: bytes, extensions: Sequence[str]) -> str:
    files = sum(len(names) for _, _, names in os.walk(root))
    shown = ", ".join(extensions[:4] if len(extensions) <= 4 else (".jpg", ".png", ".webp", ".tif", "and more"))
    other = f"; {files} other files" if files else ""
    return f"no images in {printable(root)} (looked at any depth for {shown}{other})"
