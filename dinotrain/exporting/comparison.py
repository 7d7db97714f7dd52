"""How far an export is from what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dinotrain.exporting.subject import Outputs, Subject

TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of what computes in these types, relative to the largest value."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one result of an export for one batch of images.

    Args:
        batch, height, width: of the images, in px.
        name: of the result.
        value: largest absolute difference, relative to the largest absolute value of ours.
        native: whether the images have the size of the position table.
    """

    batch: int
    height: int
    width: int
    name: str
    value: float
    native: bool

    @property
    def images(self) -> str:
        """The images in words."""
        return f"{self.batch} x {self.height}x{self.width} px"


def compare(subject: Subject, run: Callable[[Tensor], Outputs], seed: int = 0) -> list[Difference]:
    """What `run` makes of random images of several sizes and numbers, beside what the subject makes of them."""
    return [difference for images in samples(subject, seed) for difference in _of(subject, run, images)]


def samples(subject: Subject, seed: int = 0) -> Iterator[Tensor]:
    """Batches of noise: of the native size, larger, smaller, not square."""
    grid, patch = subject.grid, subject.architecture.patch_size
    generator = torch.Generator().manual_seed(seed)
    for batch, rows, columns in ((2, grid, grid), (1, grid + 3, max(grid - 1, 2)), (3, max(grid // 2, 2), grid + 1)):
        yield torch.randn(batch, subject.architecture.channels, rows * patch, columns * patch, generator=generator)


def _of(subject: Subject, run: Callable[[Tensor], Outputs], images: Tensor) -> Iterator[Difference]:
    batch, _, height, width = images.shape
    theirs = run(images)
    for name, ours in subject.outputs(images).items():
        if theirs[name].shape != ours.shape:
            value = float("inf")
        else:
            value = ((theirs[name].float() - ours).abs().max() / ours.abs().max().clamp(min=1e-12)).item()
        native = height == width == subject.architecture.image_size
        # What is no number is as far away as can be.
        far = value if value == value else float("inf")
        yield Difference(batch=batch, height=height, width=width, name=name, value=far, native=native)
