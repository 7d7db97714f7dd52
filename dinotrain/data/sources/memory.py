"""Images of one size that are held in one array."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dinotrain.data.source import Source

_READING = threading.Lock()
"""Held while images are read; not an attribute, for a source must go to other processes."""


class MemorySource(Source):
    """Base of the sources whose images are one array, read once, when the first image is asked for.

    A process that is forked after that shares the array.
    """

    def __init__(self, *, name: str, length: int) -> None:
        self._name = name
        self._length = length
        self._images: np.ndarray | None = None

    @abstractmethod
    def _read(self) -> UInt8[np.ndarray, "N H W ..."]:
        """All images, [N, H, W, 3] or grey [N, H, W]."""

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def share(self) -> None:
        if self._images is None:
            # Of several threads that want an image, one reads them all.
            with _READING:
                if self._images is None:
                    self._images = self._read()

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """A copy of one picture, grey repeated to three channels."""
        if not 0 <= index < self._length:
            raise IndexError(f"index: got {index}, must be in 0..{self._length - 1}")
        self.share()
        assert self._images is not None
        picture = self._images[index]
        return np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else np.array(picture)

    def name(self, index: int) -> str:
        return f"{self._name}/{index:06d}"
