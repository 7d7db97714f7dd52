"""Which images are computed together, and stored together: the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_BYTES = 64 * 2**20
"""Of a piece, where it is more than one batch."""
USUAL_PIECES = 256


@dataclass(frozen=True)
class Plan:
    """Images in batches, and these in pieces.

    What a network makes of an image depends in the last bits on the size of the batch it stands in; so every image has
    its place in a batch, whoever computes that, before or after an interruption.

    Args:
        count: images.
        batch: of a forward pass.
        per_piece: batches that are stored together.
    """

    count: int
    batch: int
    per_piece: int

    @classmethod
    def of(cls, count: int, batch: int, row_bytes: int) -> Plan:
        """Some hundred pieces of a large set, so that little is lost at an interruption, but none above a limit."""
        most = max(MOST_BYTES // (row_bytes * batch), 1)
        return cls(count, batch, min(max(count // (batch * USUAL_PIECES), 1), most))

    @property
    def pieces(self) -> int:
        return -(-self.count // (self.batch * self.per_piece))

    def images(self, piece: int) -> range:
        """The images of a piece."""
        width = self.batch * self.per_piece
        return range(piece * width, min((piece + 1) * width, self.count))

    def batches(self, piece: int) -> list[range]:
        """The images of each batch of a piece."""
        images = self.images(piece)
        return [images[start : start + self.batch] for start in range(0, len(images), self.batch)]

    def shares(self, pieces: Sequence[int], processes: int) -> list[Sequence[int]]:
        """What of these pieces is whose: neighbouring ones, for files that hold many images."""
        bounds = [len(pieces) * number // processes for number in range(processes + 1)]
        return [pieces[start:end] for start, end in pairwise(bounds)]
