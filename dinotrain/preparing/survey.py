"""A first pass over all images, to know which of those that look the same is the largest."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dinotrain.data.source import Source
from dinotrain.preparing.conversion import Converted, Look
from dinotrain.preparing.duplicates import Match
from dinotrain.preparing.progress import Progress
from dinotrain.preparing.record import write_whole
from dinotrain.preparing.sequence import ImageSequence
from dinotrain.preparing.verdicts import VERDICT, verdicts
from dinotrain.preparing.worker_pool import WorkerPool

BLOCK = 2**14
"""Images that are put on record together."""

_SEEN = np.dtype(
    [
        ("digest", np.uint64),
        ("hash", np.uint64),
        ("hashed", np.bool_),
        ("broken", np.bool_),
        ("area", np.int64),
        ("bytes", np.int64),
    ]
)


class Survey:
    """Looks at every image of a sequence, and settles which are left out: the broken, and copies of larger ones.

    Memory per million images: 44 MB, and 90 MB more while the copies are found.

    Args:
        source: the images.
        sequence: their order.
        near_distance: most bits in which the hashes of near duplicates may differ.
        folder: where what is known is kept, so that it can go on after a stop.
    """

    def __init__(self, source: Source, sequence: ImageSequence, *, near_distance: int, folder: Path) -> None:
        self._source, self._sequence, self._folder = source, sequence, folder
        self._near_distance = near_distance
        self._seen = np.zeros(len(sequence), _SEEN)
        self._reasons: dict[int, str] = {}
        self._verdicts = np.zeros(0, VERDICT)
        self.progress = Progress(len(sequence), what="surveyed")
        self._go_on()

    def run(self, workers: int, report: Callable[[Progress], None]) -> None:
        """Look at what has not been seen yet, then find the copies.

        Raises:
            UserError: a worker died.
            OSError: the disk is full.
        """
        left = self.progress.total - self.progress.looked_at
        if left:
            with WorkerPool(self._source, Look(), min(workers, left)) as pool:
                for image in pool.run(self._sequence.indices(self.progress.looked_at)):
                    self._see(image)
                    report(self.progress)
        self._verdicts = self._settle()

    def left_out(self, begin: int) -> Iterator[tuple[Converted, Match | None] | None]:
        """For each image from a place on: a broken one with its reason, a copy with the image that is kept; else None.

        None stands for the images that `to_convert` gives.
        """
        for places, images in self._blocks(begin):
            settled = self._verdicts[places]
            kept = self._sequence.at(settled["kept"]).tolist()
            for place, image, verdict, match in zip(places.tolist(), images.tolist(), settled.tolist(), kept):
                if self._seen["broken"][place]:
                    yield Converted(image, reason=self._reasons[place]), None
                elif verdict[0] == place:
                    yield None
                else:
                    copy = Converted(image, bytes_in=int(self._seen["bytes"][place]))
                    yield copy, Match(match, verdict[1], verdict[2])

    def to_convert(self, begin: int) -> Iterator[int]:
        """Numbers in the source of the images that are neither broken nor copies, from a place on."""
        for places, images in self._blocks(begin):
            wanted = (self._verdicts["kept"][places] == places) & ~self._seen["broken"][places]
            yield from images[wanted].tolist()

    def _blocks(self, begin: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places, and the numbers in the source of the images there, some at a time."""
        for first in range(begin, len(self._sequence), BLOCK):
            places = np.arange(first, min(first + BLOCK, len(self._sequence)))
            yield places, self._sequence.at(places)

    def _see(self, image: Converted) -> None:
        progress, place = self.progress, self.progress.looked_at
        broken, hashed = image.reason is not None, image.hash is not None
        width, height = image.size_in
        self._seen[place] = (image.digest, image.hash or 0, hashed, broken, width * height, image.bytes_in)
        if image.reason is not None:
            self._reasons[place] = image.reason
        progress.looked_at += 1
        progress.failed += broken
        progress.bytes_in += image.bytes_in
        if progress.looked_at % BLOCK == 0 or progress.looked_at == progress.total:
            self._save(place // BLOCK)

    def _settle(self) -> np.ndarray:
        """Find the copies, or take what was found before."""
        stored = self._folder / "verdicts.npy"
        try:
            settled = np.load(stored, allow_pickle=False)
            if settled.shape == self._seen.shape and settled.dtype == VERDICT:
                return settled
        except (OSError, ValueError, EOFError):
            pass
        # The broken ones take part as empty images, which are like each other and nothing else.
        seen = self._seen
        settled = verdicts(
            seen["digest"], seen["hash"], seen["hashed"], seen["area"], seen["bytes"], self._near_distance
        )
        stream = io.BytesIO()
        np.save(stream, settled)
        write_whole(stored, stream.getvalue())
        return settled

    def _block(self, number: int) -> Path:
        return self._folder / f"survey-{number:06d}.npz"

    def _save(self, number: int) -> None:
        first = number * BLOCK
        reasons = {place: reason for place, reason in self._reasons.items() if place >= first}
        stream = io.BytesIO()
        text = np.frombuffer(json.dumps(reasons).encode(), np.uint8)
        np.savez(stream, seen=self._seen[first : self.progress.looked_at], reasons=text)
        write_whole(self._block(number), stream.getvalue())

    def _go_on(self) -> None:
        """Take up the blocks that are on record."""
        progress = self.progress
        while progress.looked_at < progress.total:
            first = progress.looked_at
            try:
                with np.load(self._block(first // BLOCK), allow_pickle=False) as arrays:
                    seen, reasons = arrays["seen"], json.loads(arrays["reasons"].tobytes())
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                return
            if len(seen) != min(BLOCK, progress.total - first) or seen.dtype != _SEEN:
                return
            self._seen[first : first + len(seen)] = seen
            self._reasons |= {int(place): reason for place, reason in reasons.items()}
            progress.looked_at += len(seen)
            progress.failed += int(seen["broken"].sum())
            progress.bytes_in += int(seen["bytes"].sum())
