"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017)."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from os import PathLike

import numpy as np
from jaxtyping import UInt8

from dinotrain.data.sources.memory import MemorySource
from dinotrain.errors import UserError

CLASSES = (
    *("t-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

_PREFIXES = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_FOLDERS = (
    *("", "fashion-mnist", "datasets/fashion-mnist", "share/datasets/fashion-mnist"),
    *("usr/share/datasets/fashion-mnist", "FashionMNIST/raw"),
)


class FashionMnistSource(MemorySource):
    """The 60,000 training or 10,000 test images of Fashion-MNIST, 28 x 28 pixels, 10 classes, grey as RGB.

    Read from IDX files, gzipped or not (`train-images-idx3-ubyte.gz` and so on), as the Debian package
    `dataset-fashion-mnist` installs them in /usr/share/datasets/fashion-mnist.

    Args:
        root: the folder with these files, or one above it.
        split: "train" or "test".

    Raises:
        UserError: the files are not there, or are damaged.
    """

    def __init__(self, *, root: str | PathLike[str], split: str = "train") -> None:
        if split not in _PREFIXES:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        self._root, self._split = root, split
        self._folder, self._ending = _find(os.path.abspath(os.path.expanduser(os.fspath(root))))
        labels = _idx(self._file(_LABELS), dimensions=1)
        if not len(labels) or labels.max() >= len(CLASSES):
            raise UserError(f"data.root: {self._file(_LABELS)} does not hold labels in 0..{len(CLASSES) - 1}")
        super().__init__(name=f"fashion_mnist/{split}", length=len(labels))
        self.labels, self.classes = labels.astype(np.int64), CLASSES

    def test(self) -> FashionMnistSource | None:
        """The test images, for the training images."""
        return FashionMnistSource(root=self._root, split="test") if self._split == "train" else None

    def fingerprint(self) -> str:
        labels = np.asarray(self.labels, np.uint8)
        return f"fashion_mnist:{self._split}:{len(self)}:{zlib.crc32(labels.tobytes()):08x}"

    def _file(self, kind: str) -> str:
        return os.path.join(self._folder, f"{_PREFIXES[self._split]}-{kind}{self._ending}")

    def _read(self) -> UInt8[np.ndarray, "N H W"]:
        file = self._file(_IMAGES)
        images = _idx(file, dimensions=3)
        if len(images) != len(self):
            raise UserError(f"data.root: {file} has {len(images)} images, expected {len(self)} as labels")
        return images


def _find(root: str) -> tuple[str, str]:
    """Folder and file name ending of the first complete layout at or under root."""
    names = [f"{prefix}-{kind}" for prefix in _PREFIXES.values() for kind in (_IMAGES, _LABELS)]
    for folder in (os.path.normpath(os.path.join(root, name)) for name in _FOLDERS):
        for ending in (".gz", ""):
            if all(os.path.isfile(os.path.join(folder, name + ending)) for name in names):
                return folder, ending
    raise UserError(
        f"data.root: no Fashion-MNIST in {root}: looked there and in its usual sub-folders for "
        f"{', '.join(name + '.gz' for name in names)} (install the Debian package dataset-fashion-mnist, which puts "
        "them in /usr/share/datasets/fashion-mnist)"
    )


def _idx(file: str, *, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes: two zero bytes, type 8, number of dimensions, big-endian sizes, values."""
    try:
        with gzip.open(file) if file.endswith(".gz") else open(file, "rb") as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data.root: can't read {file}: {error}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"data.root: {file} is no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    values = np.frombuffer(data, np.uint8, offset=start)
    if len(values) != np.prod(shape, dtype=np.int64):
        raise UserError(f"data.root: {file} has {len(values)} values, expected {list(shape)}")
    return values.reshape(shape)
