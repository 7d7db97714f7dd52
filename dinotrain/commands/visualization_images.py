"""The images that a visualization is of, wherever they lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from omegaconf import DictConfig

from dinotrain.commands.config import compose_config
from dinotrain.commands.recognition import quoted, recognise
from dinotrain.commands.sources import build_source
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode, read_file
from dinotrain.data.paths import printable
from dinotrain.data.source import Source
from dinotrain.data.sources.folder import FolderSource
from dinotrain.errors import UserError

SETS = (".tar", ".parquet", ".txt", ".csv", ".tsv", ".npz", ".npy")
"""Files that hold many images."""
SPARE = 4
"""Times as many images as wanted are tried where some can't be read."""


class Picture(NamedTuple):
    """An image to look at."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]


class Candidate(NamedTuple):
    """An image that may turn out to be none."""

    name: str
    read: Callable[[], UInt8[np.ndarray, "H W 3"]]


def pictures_of(config: DictConfig, words: Sequence[str], limit: int) -> tuple[list[Picture], int]:
    """The images that were named, or else those of the group `data`; at most so many, evenly spaced.

    What can't be read is told on the standard error, and another image taken for it where there are more.

    Args:
        words: files, folders, shards and so on.

    Returns:
        The images, and how many there were to choose from.

    Raises:
        UserError: if there is none that can be read.
    """
    found = [_of_word(word) for word in words] if words else [_of_source(build_source(config))]
    ends = np.cumsum([len(each) for each in found])
    count = int(ends[-1])
    chosen = np.unique(np.linspace(0, max(count - 1, 0), min(limit, count)).round().astype(int))
    taken = chosen.tolist()
    others = iter(np.setdiff1d(np.arange(count), chosen)[: SPARE * limit].tolist())
    pictures: dict[int, Picture] = {}
    while taken:
        for number in taken:
            word = int(np.searchsorted(ends, number, side="right"))
            candidate = found[word][number - (int(ends[word - 1]) if word else 0)]
            try:
                pictures[number] = Picture(candidate.name, candidate.read())
            except BrokenImage as error:
                print(f"skipped: {candidate.name}: {error.reason}", file=sys.stderr, flush=True)
        taken = _some(others, len(chosen) - len(pictures))
    if not pictures:
        raise UserError("images: none that can be read")
    return _brief([pictures[number] for number in sorted(pictures)]), count


def source_at(path: str, key: str) -> Source:
    """A set of images: a folder, shards and so on.

    Raises:
        UserError: with the key, if it can't be told what it is, or read.
    """
    try:
        if os.path.isdir(os.path.expanduser(path)) and (kind := recognise(path)) == "folder":
            # Its name may hold bytes that are no text.
            return FolderSource(root=path)
        kind = recognise(path)
        words = [f"data={kind}", f"data.root={quoted(path)}", "weights=''", "out=''"]
        return build_source(compose_config("visualize", words))
    except UserError as error:
        said = str(error).removeprefix("data.root: ")
        raise UserError(f"{key}: {printable(os.fsencode(said))}") from error


class _Images(Sequence[Candidate]):
    """A set of images as candidates."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Candidate:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Candidate(self.source.name(index), lambda: self.source.image(index))


def _of_source(source: Source) -> Sequence[Candidate]:
    return _Images(source)


def _of_word(word: str) -> Sequence[Candidate]:
    """A file that is not known to be a set is an image, or shows itself to be none."""
    path = os.path.expanduser(word)
    if os.path.isdir(path) or "://" in word or path.lower().endswith(SETS):
        return _of_source(source_at(word, "images"))
    if not os.path.lexists(path):
        # A pattern of shards has an ending; this is a name that was mistyped.
        raise UserError(f"images: {printable(os.fsencode(word))} does not exist")
    name = printable(os.fsencode(word))
    return [Candidate(name, lambda: decode(read_file(os.fsencode(path))))]


def _brief(pictures: list[Picture]) -> list[Picture]:
    """Names without the folders that all have in common."""
    names = [picture.name for picture in pictures]
    with suppress(ValueError):  # absolute paths and relative ones have nothing in common
        common = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [os.path.relpath(name, common) for name in names] if common else names
    return [picture._replace(name=name) for picture, name in zip(pictures, names)]


def _some(numbers: Iterator[int], count: int) -> list[int]:
    return [number for number, _ in zip(numbers, range(count))]
