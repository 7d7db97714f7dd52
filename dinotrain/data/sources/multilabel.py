"""Image files that have several labels each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from os import PathLike

import numpy as np
from jaxtyping import Bool

from dinotrain.data.images import read_file
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.source import Source
from dinotrain.errors import UserError


class MultiLabelSource(Source):
    """Files of a folder with any number of the classes each; `labels`, one class per image, they have none.

    Args:
        root: the folder.
        paths: of the images below it; one that is missing is broken.
        multi_labels: which classes each image has.
        classes: their names.
        min_size: images with a shorter side than this many pixels count as broken.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        paths: PathTable,
        multi_labels: Bool[np.ndarray, "N C"],
        classes: Sequence[str],
        min_size: int = 1,
    ) -> None:
        if min_size < 1:
            raise ValueError(f"min_size: got {min_size}, must be at least 1")
        self.min_size, self.paths = min_size, paths
        self._root = os.fsencode(root)
        self.multi_labels, self.classes = multi_labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when it can't be read."""
        return read_file(os.path.join(self._root, self.paths[index]))

    def name(self, index: int) -> str:
        """Path below the root."""
        return printable(self.paths[index])

    def fingerprint(self) -> str:
        return f"multilabel:{len(self)}:{self.paths.digest()}:{label_digest(self.multi_labels, self.classes or ())}"


def label_digest(labels: Bool[np.ndarray, "N C"], classes: Sequence[str]) -> str:
    """Hash of which image has which class."""
    digest = hashlib.sha256(np.packbits(labels).data)
    digest.update("\0".join(classes).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def existing_folder(root: str | PathLike[str], expected: str) -> str:
    """The root as an absolute path; raises `UserError`, with what was expected of it, where it is no folder."""
    path = os.path.abspath(os.path.expanduser(os.fspath(root)))
    if not os.path.isdir(path):
        raise UserError(f"data.root: {printable(os.fsencode(path))} is no folder, expected {expected}")
    return path
