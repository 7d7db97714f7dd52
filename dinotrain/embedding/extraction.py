"""From images to pieces of features, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.embedding.parts import Parts, Piece
from dinotrain.embedding.tokens import TokenFunction
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.reading import read_batches

Loaded = Tensor | str
"""The pixels of an image, or why it can't be read."""


def extract_pieces(
    function: TokenFunction,
    source: Source,
    parts: Parts,
    *,
    preparation: Preparation,
    world: World,
    dtype: np.dtype,
    threads: int | None = None,
    check: Callable[[], object] = lambda: None,
    report: Callable[[int], object] = lambda done: None,
) -> int:
    """Compute and store all pieces that are not there; every process its own, none twice.

    All processes call this together, and `check` equally often, before each batch; it may raise to end it all.

    Args:
        dtype: of the numbers that are stored.
        threads: that read images; None for one per core.
        report: told how many images all processes have done.

    Returns:
        The number of images that were computed.
    """
    shares = parts.plan.shares(world.gather(parts.missing())[0], world.size)
    sizes = [[len(batch) for piece in share for batch in parts.plan.batches(piece)] for share in shares]
    steps = _steps(function, source, parts, shares[world.rank], preparation, np.dtype(dtype), threads)
    done = 0
    for number in range(max(map(len, sizes))):
        world.at("embedding", patient=True)
        check()
        next(steps, None)
        done += sum(share[number] for share in sizes if number < len(share))
        report(done)
    return done


def _steps(
    function: TokenFunction,
    source: Source,
    parts: Parts,
    share: Sequence[int],
    preparation: Preparation,
    dtype: np.dtype,
    threads: int | None,
) -> Iterator[None]:
    """A batch with each step; a piece is stored with the last of its batches."""

    def load(index: int) -> Loaded:
        try:
            return preparation.pixels(source.image(index))
        except BrokenImage as error:
            return error.reason

    batches = [(piece, batch) for piece in share for batch in parts.plan.batches(piece)]
    loaded = read_batches(load, (batch for _, batch in batches), threads=threads, fetch=source.fetch)
    gathered: list[Piece] = []
    for (number, batch), images in zip(batches, loaded):
        gathered.append(_computed(function, images, preparation, dtype))
        if batch[-1] == parts.plan.images(number)[-1]:
            parts.write(number, _joined(gathered))
            gathered = []
        yield


def _computed(
    function: TokenFunction, images: Sequence[Loaded | None], preparation: Preparation, dtype: np.dtype
) -> Piece:
    """What can't be read is black in the batch, so that the other images have the batch they always have."""
    blank = torch.zeros(3, preparation.size, preparation.size, dtype=torch.uint8)
    pixels = torch.stack([image if isinstance(image, Tensor) else blank for image in images])
    readable = np.array([isinstance(image, Tensor) for image in images])
    values = function(pixels)
    columns = {name: value.cpu().numpy()[readable].astype(dtype) for name, value in values.items()}
    return Piece(columns, readable, [image for image in images if isinstance(image, str)])


def _joined(pieces: Sequence[Piece]) -> Piece:
    names = pieces[0].columns
    return Piece(
        {name: np.concatenate([piece.columns[name] for piece in pieces]) for name in names},
        np.concatenate([piece.readable for piece in pieces]),
        [reason for piece in pieces for reason in piece.reasons],
    )
