"""From a source to shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.preparing.conversion import Conversion, Converted
from dinotrain.preparing.duplicates import DigestTable, Match
from dinotrain.preparing.output import Output
from dinotrain.preparing.progress import Progress
from dinotrain.preparing.sequence import ImageSequence
from dinotrain.preparing.shard import Shard
from dinotrain.preparing.survey import Survey
from dinotrain.preparing.worker_pool import WorkerPool


class Converter:
    """Writes the shards that are not there yet.

    What a shard holds depends on the images before it alone, not on the number of workers, nor on whether they were
    converted in one go.

    Args:
        source: the images.
        sequence: their order.
        conversion: what is done to each.
        output: where the shards go.
        shard_size: most bytes of a shard; one that holds a single image may have more.
        exact: for dropping images whose bytes have been there; None to keep them.
        survey: a finished one, for leaving out what it says; None to convert all.
        labels: whether class numbers are written.
        max_broken: the share of images that may fail before it gives up.
    """

    def __init__(
        self,
        source: Source,
        sequence: ImageSequence,
        conversion: Conversion,
        output: Output,
        *,
        shard_size: int,
        exact: DigestTable | None,
        survey: Survey | None,
        labels: bool,
        max_broken: float,
    ) -> None:
        self._source, self._sequence, self._conversion, self._output = source, sequence, conversion, output
        self._shard_size, self._labels, self._max_broken = shard_size, labels, max_broken
        self._exact, self._survey = exact, survey
        self.progress = Progress(len(sequence))
        self._go_on()

    def run(self, workers: int, report: Callable[[Progress], None]) -> None:
        """Convert what is left; `report` is called after every image.

        Raises:
            UserError: the disk is full, a worker died, or too many images are broken.
        """
        left = self.progress.total - self.progress.looked_at
        if not left:
            return
        shard = self._new_shard()
        try:
            with WorkerPool(self._source, self._conversion, min(workers, left)) as pool:
                for image, match in self._outcomes(pool):
                    if image.reason is None and match is None and self._is_full(shard, image):
                        self._output.commit(shard.finish(self.progress.looked_at))
                        shard = self._new_shard()
                    self._take(shard, image, match)
                    report(self.progress)
            self._output.commit(shard.finish(self.progress.looked_at))
        except OSError as error:
            raise UserError(
                f"out: can't write to {self._output.folder} ({error.strerror}); "
                "the complete shards stay, and the same command goes on after them"
            ) from error
        finally:
            shard.discard()

    def _go_on(self) -> None:
        """Take up what is known from the complete shards."""
        images = []
        for record in self._output.records():
            self.progress.count(record)
            images.append(record.images[["index", "digest"]])
        if images and self._exact is not None:
            known = np.concatenate(images)
            self._exact.extend(known["digest"], known["index"])

    def _outcomes(self, pool: WorkerPool) -> Iterator[tuple[Converted, Match | None]]:
        """The images that are left, in order; with the one that is kept for a duplicate."""
        begin = self.progress.looked_at
        if self._survey is None:
            for image in pool.run(self._sequence.indices(begin)):
                yield image, self._match(image)
            return
        converted = pool.run(self._survey.to_convert(begin))
        for known in self._survey.left_out(begin):
            yield (next(converted), None) if known is None else known

    def _new_shard(self) -> Shard:
        return Shard(
            self._source,
            self._output.draft(),
            begin=self.progress.looked_at,
            number=self.progress.kept,
            labels=self._labels,
        )

    def _match(self, image: Converted) -> Match | None:
        if self._exact is None or image.reason is not None:
            return None
        owner = self._exact.find(image.digest)
        return None if owner is None else Match(owner, 0, True)

    def _is_full(self, shard: Shard, image: Converted) -> bool:
        return len(shard) > 0 and shard.length_with(image) > self._shard_size

    def _take(self, shard: Shard, image: Converted, match: Match | None) -> None:
        progress = self.progress
        progress.looked_at += 1
        progress.bytes_in += image.bytes_in
        if image.reason is not None:
            progress.failed += 1
            shard.fail(image)
            self._check_broken(image)
        elif match is not None:
            progress.dropped += 1
            shard.drop(image, match)
        else:
            progress.kept += 1
            shard.add(image)
            if self._exact is not None:
                self._exact.add(image.digest, image.index)

    def _check_broken(self, image: Converted) -> None:
        """Raises `UserError` when too many images have failed."""
        failed, total = self.progress.failed, self.progress.total
        if failed > max(1, self._max_broken * total):
            raise UserError(
                f"max_broken: {failed} of {total} images can't be read, more than {self._max_broken:.2%} "
                f"(the last: {self._source.name(image.index)}: {image.reason})"
            )
