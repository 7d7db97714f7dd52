"""The one extractor: images of a source in, features of a frozen backbone out, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dinotrain.data.source import Source
from dinotrain.distributed.collectives import gather_rows
from dinotrain.distributed.world import World
from dinotrain.evaluation.reading import read_batches
from dinotrain.models.vit import VisionTransformer

_MOST_ASPECT = 16


class Features(NamedTuple):
    """Features in the order of the indices asked for."""

    values: Float[Tensor, "n D"]
    readable: Bool[Tensor, "n"]
    """False where an image could not be read; its features are zeros."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From an image to the input of a network: short side to size / crop_fraction, centre crop, normalised."""

    size: int
    crop_fraction: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "3 S S"]:
        x = torch.from_numpy(_without_ends(image)).permute(2, 0, 1).unsqueeze(0)
        height, width = x.shape[-2:]
        short = round(self.size / self.crop_fraction)
        scale = short / min(height, width)
        shape = (max(round(height * scale), self.size), max(round(width * scale), self.size))
        if shape != (height, width):
            x = F.interpolate(x, size=shape, mode="bicubic", antialias=True)
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        return x[0, :, top : top + self.size, left : left + self.size].contiguous()

    def normalize(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std


def _without_ends(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The middle of a strip, of which a resized whole could take any amount of memory."""
    height, width = image.shape[:2]
    most = _MOST_ASPECT * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return image[top : top + min(height, most), left : left + min(width, most)]


def extract(
    function: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B D"]],
    source: Source,
    indices: np.ndarray,
    *,
    preparation: Preparation,
    world: World,
    batch: int = 256,
    threads: int | None = 2,
    check: Callable[[], object] = lambda: None,
) -> Features:
    """Features of the images at `indices`, each computed once, the same on every process for any number of them."""
    chunks = list(
        extracted(
            lambda images: {"values": function(images)},
            source,
            indices,
            preparation=preparation,
            world=world,
            batch=batch,
            threads=threads,
            check=check,
        )
    )
    return Features(torch.cat([chunk["values"] for chunk, _ in chunks]), torch.cat([ok for _, ok in chunks]))


def extracted(
    function: Callable[[Float[Tensor, "B 3 S S"]], Mapping[str, Float[Tensor, "B _"]]],
    source: Source,
    indices: np.ndarray,
    *,
    preparation: Preparation,
    world: World,
    batch: int,
    threads: int | None = None,
    check: Callable[[], object] = lambda: None,
) -> Iterator[tuple[dict[str, Float[Tensor, "n _"]], Bool[Tensor, "n"]]]:
    """The same piece by piece, every process getting the rows of all: named features, and which images were readable.

    All processes make the same number of calls of `function`, as sharded networks need: short shares are filled up with
    repeats, which are dropped. `check` is called before each, also equally often; it may raise to end it all.

    Args:
        batch: images per process and call.
        threads: that read images; None for one per core.
    """
    rounds = -(-len(indices) // (batch * world.size))
    # The last round is shared evenly, too: no process reads images only to throw them away.
    bounds = [(len(indices) * number // rounds, len(indices) * (number + 1) // rounds) for number in range(rounds)]
    shares = [_share(end - start, world) for start, end in bounds]
    mine = [indices[start:end][share.first : share.last] for (start, end), share in zip(bounds, shares)]
    padded = [[*part.tolist(), *indices[:1].tolist() * (share.width - len(part))] for part, share in zip(mine, shares)]
    blank = torch.zeros(3, preparation.size, preparation.size, dtype=torch.uint8)
    loaded = read_batches(
        lambda index: preparation.pixels(source.image(index)), padded, threads=threads, fetch=source.fetch
    )
    for images, own in zip(loaded, mine):
        world.at("evaluating", patient=True)
        check()
        pixels = torch.stack([blank if image is None else image for image in images])
        readable = torch.tensor([image is not None for image in images], device=world.device)
        found = function(preparation.normalize(pixels.to(world.device)))
        kept = {name: torch.where(readable.unsqueeze(1), value.float(), 0.0) for name, value in found.items()}
        rows = {name: gather_rows(value[: len(own)]) for name, value in kept.items()}
        yield rows, gather_rows(readable[: len(own)].int()).bool()


class _Share(NamedTuple):
    """Which of a round's images are a process's, and how many each process computes."""

    first: int
    last: int
    width: int


def _share(count: int, world: World) -> _Share:
    width = -(-count // world.size)
    return _Share(min(world.rank * width, count), min((world.rank + 1) * width, count), width)


def cls_function(backbone: VisionTransformer) -> Callable[[Tensor], Tensor]:
    """A batch of images -> the CLS tokens after the final norm, without gradients, in evaluation mode."""

    @torch.no_grad()
    def function(images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        was_training = backbone.training
        backbone.eval()
        cls = backbone([images])[0].cls
        backbone.train(was_training)
        return cls

    return function


def pixel_function(side: int = 32) -> Callable[[Tensor], Tensor]:
    """A batch of images -> their pixels, at most side x side: what a network has to beat."""

    def function(images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        if images.shape[-1] > side:
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        return images.flatten(1)

    return function
