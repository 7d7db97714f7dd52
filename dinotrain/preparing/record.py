"""What is known of a finished shard."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGE = np.dtype(
    [
        ("index", np.int64),  # number in the source
        ("offset", np.int64),  # of its bytes in the tar file
        ("bytes", np.int64),
        ("digest", np.uint64),
        ("size_in", np.int32, 2),  # width and height
        ("size_out", np.int32, 2),
        ("format_in", "S12"),
        ("format_out", "S12"),
    ]
)
"""An image that was kept."""

DUPLICATE = np.dtype([("index", np.int64), ("kept", np.int64), ("distance", np.int64), ("exact", np.bool_)])
"""An image that was dropped, and the one that is there in its stead."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The images of one shard, and those that were looked at for it and left out."""

    begin: int
    """Place in the sequence of images where it begins."""
    end: int
    """Place after the last image that was looked at."""
    images: np.ndarray
    """Of type IMAGE, in the order of the shard."""
    duplicates: np.ndarray
    """Of type DUPLICATE."""
    failures: tuple[tuple[int, str], ...]
    """Number in the source, and reason."""
    bytes_in: int
    """Of all images that could be read."""
    bytes_kept: int
    """Of the images in the shard."""
    tar_bytes: int
    """Length of the shard; 0 where no image was left for one."""

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        stream = io.BytesIO()
        numbers = [self.begin, self.end, self.bytes_in, self.bytes_kept, self.tar_bytes]
        failures = np.frombuffer(json.dumps(self.failures).encode(), np.uint8)
        np.savez(stream, numbers=numbers, images=self.images, duplicates=self.duplicates, failures=failures)
        write_whole(path, stream.getvalue())

    @classmethod
    def load(cls, path: Path) -> ShardRecord | None:
        """Read it back; None if it is not there, or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                begin, end, bytes_in, bytes_kept, tar_bytes = arrays["numbers"].tolist()
                return cls(
                    begin=begin,
                    end=end,
                    images=arrays["images"],
                    duplicates=arrays["duplicates"],
                    failures=tuple((index, reason) for index, reason in json.loads(arrays["failures"].tobytes())),
                    bytes_in=bytes_in,
                    bytes_kept=bytes_kept,
                    tar_bytes=tar_bytes,
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there as a whole or as it was before."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
