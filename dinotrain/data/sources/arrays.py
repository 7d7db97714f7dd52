"""Images in a NumPy file."""

from __future__ import annotations

import os
import zipfile
import zlib
from io import BufferedIOBase
from os import PathLike
from typing import IO, NamedTuple, NoReturn

import numpy as np
from jaxtyping import UInt8

from dinotrain.data.sources.memory import MemorySource
from dinotrain.errors import UserError

_KEYS = {"train": ("images", "labels"), "test": ("test_images", "test_labels")}
_EXPECTED = "uint8 [N, H, W, 3] or [N, H, W]"


class _Header(NamedTuple):
    """What a NumPy file says of an array before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: int


class ArraySource(MemorySource):
    """The images of an `.npz` file, or of an `.npy` file, which is mapped into memory instead of read.

    An `.npz` file holds `images` (uint8 [N, H, W, 3], or [N, H, W] for grey), and if it likes `labels` (whole numbers
    from 0, [N]), `test_images` and `test_labels` alike, and `classes` (text, [classes]). An `.npy` file holds images.

    Args:
        root: the file.
        split: "train", or "test" for `test_images`.

    Raises:
        UserError: no such file, or not these arrays in it.
    """

    def __init__(self, *, root: str | PathLike[str], split: str = "train") -> None:
        if split not in _KEYS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        self._file = os.path.abspath(os.path.expanduser(os.fspath(root)))
        self._split = split
        self._headers = _headers(self._file)
        self._image_key, label_key = _KEYS[split]
        header = self._headers.get(self._image_key)
        if header is None:
            self._refuse(f"got the arrays {', '.join(self._headers) or 'none'}, expected {self._image_key!r}")
        if header.dtype != np.uint8 or not _image_shape(header.shape):
            self._refuse(f"{self._image_key} is {header.dtype} {list(header.shape)}, expected {_EXPECTED}")
        super().__init__(name=f"{os.path.basename(self._file)}/{split}", length=header.shape[0])
        self.labels = self._labels(label_key)
        self.classes = tuple(map(str, self._load("classes"))) if "classes" in self._headers else None

    def test(self) -> ArraySource | None:
        """The test images of an `.npz` file that has them."""
        if self._split == "test" or "test_images" not in self._headers:
            return None
        return ArraySource(root=self._file, split="test")

    def fingerprint(self) -> str:
        header = self._headers[self._image_key]
        return f"arrays:{self._split}:{'x'.join(map(str, header.shape))}:{header.checksum:08x}"

    def _read(self) -> UInt8[np.ndarray, "N H W ..."]:
        return self._load(self._image_key)

    def _labels(self, key: str) -> np.ndarray | None:
        header = self._headers.get(key)
        if header is None:
            return None
        if header.dtype.kind not in "iu" or header.shape != (len(self),):
            self._refuse(f"{key} is {header.dtype} {list(header.shape)}, expected whole numbers [{len(self)}]")
        labels = self._load(key).astype(np.int64)
        if labels.min() < 0:
            self._refuse(f"{key} has {labels.min()}, expected numbers from 0")
        return labels

    def _load(self, key: str) -> np.ndarray:
        try:
            if _is_npy(self._file):
                return np.load(self._file, mmap_mode="r", allow_pickle=False)
            with np.load(self._file, allow_pickle=False) as arrays:
                return arrays[key]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"data.root: {self._file}: can't read {key}: {error}") from error

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"data.root: {self._file}: {what}")


def _is_npy(file: str) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def _headers(file: str) -> dict[str, _Header]:
    """Shapes and types of the arrays in a file, by name, without reading them."""
    try:
        if _is_npy(file):
            with open(file, "rb") as stream:
                return {"images": _header(stream, _ends_checksum(stream))}
        with zipfile.ZipFile(file) as archive:
            return {entry.filename.removesuffix(".npy"): _archived(archive, entry) for entry in archive.infolist()}
    except FileNotFoundError as error:
        raise UserError(f"data.root: {file} does not exist, expected an .npz or .npy file") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"data.root: {file} can't be read as an .npz or .npy file: {error}") from error


def _archived(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    with archive.open(entry) as stream:
        return _header(stream, entry.CRC)


def _header(stream: IO[bytes] | BufferedIOBase, checksum: int) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return _Header(shape, dtype, checksum)


def _ends_checksum(stream: IO[bytes] | BufferedIOBase, length: int = 65536) -> int:
    """Checksum of the first and last bytes of a file that may be too large to read; the stream is at 0 afterwards."""
    head = stream.read(length)
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - length))
    tail = stream.read(length)
    stream.seek(0)
    return zlib.crc32(tail, zlib.crc32(head))


def _image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4) and min(shape) > 0 and shape[3:] in ((), (3,))
