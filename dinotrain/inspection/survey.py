"""Reading some images of a set, or all of them, to tell what is in it."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode
from dinotrain.data.order import sample_rng
from dinotrain.data.source import Source

PIXELS = "pixels in memory"
"""Format of the images of a source that holds them decoded."""

_AT_ONCE = 64
"""Images that are fetched together."""
_MOST_THREADS = 16
_Z = 1.96
"""Standard deviations on either side of the middle that hold 95 % of a normal distribution."""
_MODES = {"L": "grey", "1": "1-bit", "P": "palette", "I": "32-bit grey", "F": "float grey", "LA": "grey + alpha"}


class Look(NamedTuple):
    """What one image turned out to be; of one that can't be used, as far as its header says."""

    format: str | None = None
    mode: str | None = None
    width: int = 0
    """Pixels, upright; 0 where it is not known, the height likewise."""
    height: int = 0
    size: int = 0
    """Bytes of the file; 0 where there is none."""
    reason: str | None = None
    """Why it can't be used."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in n images of a set."""

    total: int
    """Images in the set."""
    widths: Int64[np.ndarray, "n"]
    """Pixels, upright; 0 where it is not known, the heights likewise."""
    heights: Int64[np.ndarray, "n"]
    sizes: Int64[np.ndarray, "n"]
    """Bytes of the files; 0 where there is none, or it can't be read."""
    formats: Counter[str]
    modes: Counter[str]
    broken: tuple[Skipped, ...]
    """Images that can't be used, with the reason."""
    too_small: int
    """Broken images that are in order but for their size."""

    @property
    def read(self) -> int:
        """Images that were looked at."""
        return len(self.widths)

    @property
    def complete(self) -> bool:
        """Whether that was all of them."""
        return self.read == self.total

    def broken_share(self) -> tuple[float, float]:
        """Least and greatest share of broken images in the set, with 95 % confidence (Wilson, JASA 22, 1927)."""
        n, share = self.read, len(self.broken) / self.read
        if self.complete:
            return share, share
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        return max(middle - half, len(self.broken) / self.total), min(middle + half, 1.0)


def survey(source: Source, images: int | None, report: Callable[[int], None]) -> Survey:
    """Read and decode images of a source in threads.

    Args:
        source: the set.
        images: how many to read, spread evenly over the set and always the same; None for all.
        report: told how many are done.
    """
    source.share()  # or each thread would read for itself what is to be kept in memory
    indices = spread(len(source), images)
    looks: list[np.ndarray] = []
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    broken: list[Skipped] = []
    too_small = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(_threads()) as pool:
        warnings.simplefilter("ignore")  # of Pillow, about harmless faults
        for start in range(0, len(indices), _AT_ONCE):
            part = indices[start : start + _AT_ONCE].tolist()
            source.fetch(part)
            found = list(pool.map(partial(_look, source), part))
            looks.append(np.array([(look.width, look.height, look.size) for look in found], np.int64))
            formats.update(look.format for look in found if look.format)
            modes.update(look.mode for look in found if look.mode)
            for index, look in zip(part, found):
                if look.reason is not None:
                    broken.append(Skipped(source.name(index), look.reason))
                    too_small += 0 < min(look.width, look.height) < source.min_size
            report(start + len(part))
    widths, heights, sizes = np.concatenate(looks).T
    return Survey(
        total=len(source),
        widths=widths,
        heights=heights,
        sizes=sizes,
        formats=formats,
        modes=modes,
        broken=tuple(broken),
        too_small=too_small,
    )


def spread(length: int, count: int | None) -> Int64[np.ndarray, "n"]:
    """`count` of `length` numbers in ascending order: one drawn from each of as many equal parts, or all if it is None.

    Drawn, since sets often repeat with a period, such as that of their classes.
    """
    if count is None or count >= length:
        return np.arange(length)
    ends = np.arange(count + 1) * length // count
    return ends[:-1] + (sample_rng(0, 0).random(count) * np.diff(ends)).astype(np.int64)


def _threads() -> int:
    return min(2 * len(os.sched_getaffinity(0)), _MOST_THREADS)


def _look(source: Source, index: int) -> Look:
    try:
        data = source.read(index)
    except BrokenImage as broken:
        return Look(reason=broken.reason)
    if not isinstance(data, bytes):
        return Look(PIXELS, "RGB", data.shape[1], data.shape[0])
    header = _header(data)
    try:
        height, width, _ = decode(data, min_size=source.min_size).shape
    except BrokenImage as broken:
        return header._replace(reason=broken.reason)
    except MemoryError:
        return header._replace(reason="does not fit into memory")
    return header._replace(width=width, height=height)


def _header(data: bytes) -> Look:
    """What a file says it is."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Look(image.format or "other", _mode(image.mode), *image.size, len(data))
    except Exception:  # Pillow's plugins raise nearly every type of error on damaged files
        return Look(size=len(data))


def _mode(name: str) -> str:
    return "16-bit grey" if name.startswith("I;16") else _MODES.get(name, name)
