"""Which images are computed and stored together."""

from __future__ import annotations

import pytest

from dinotrain.embedding.plan import MOST_BYTES, Plan


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (8, 4), (1001, 7), (300_000, 64)])
def test_every_image_is_in_one_batch_of_one_piece(count: int, batch: int) -> None:
    plan = Plan.of(count, batch, row_bytes=1536)
    pieces = [list(plan.images(piece)) for piece in range(plan.pieces)]
    assert [image for piece in pieces for image in piece] == list(range(count))
    for piece, images in enumerate(pieces):
        batches = [list(part) for part in plan.batches(piece)]
        assert [image for part in batches for image in part] == images
        assert all(len(part) == batch for part in batches[:-1])


def test_pieces_are_small_in_memory_and_few_on_disk() -> None:
    assert Plan.of(10_000_000, 64, row_bytes=1536).pieces <= 512
    patches = Plan.of(1_000_000, 64, row_bytes=1369 * 1024 * 4)
    assert patches.per_piece == 1
    pooled = Plan.of(100_000_000, 64, row_bytes=100_000)
    assert pooled.batch * pooled.per_piece * 100_000 <= MOST_BYTES


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_each_piece_is_one_process_own(processes: int) -> None:
    shares = Plan(100, 4, 1).shares([1, 2, 5, 6, 9], processes)
    assert len(shares) == processes
    assert [piece for share in shares for piece in share] == [1, 2, 5, 6, 9]
