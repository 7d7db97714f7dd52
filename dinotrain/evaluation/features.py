"""The one extractor: images of a source in, features of a frozen backbone out, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.collectives import gather_rows
from dinotrain.distributed.world import World
from dinotrain.models.vit import VisionTransformer


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
        x = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
        height, width = x.shape[-2:]
        short = round(self.size / self.crop_fraction)
        scale = short / min(height, width)
        shape = (max(round(height * scale), self.size), max(round(width * scale), self.size))
        if shape != (height, width):
            x = F.interpolate(x, size=shape, mode="bicubic", antialias=True)
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        return x[0, :, top : top + self.size, left : left + self.size].contiguous()

    def normalize(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std


def extract(
    function: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B D"]],
    source: Source,
    indices: np.ndarray,
    *,
    preparation: Preparation,
    world: World,
    batch: int = 256,
    threads: int = 2,
    check: Callable[[], object] = lambda: None,
) -> Features:
    """Features of the images at `indices`, each computed once, the same on every process for any number of them.

    All processes make the same number of calls of `function`, as sharded networks need: short shares are filled up with
    repeats, which are dropped. `check` is called before each, also equally often; it may raise to end it all.
    """
    share = -(-len(indices) // world.size)
    mine = indices[world.rank * share : (world.rank + 1) * share]
    padded = np.concatenate([mine, np.repeat(indices[:1], share - len(mine))])
    values, readable = [], []
    for pixels, ok in _batches(source, padded, preparation, batch, threads):
        world.at("evaluating", patient=True)
        check()
        features = function(preparation.normalize(pixels.to(world.device))).float()
        values.append(torch.where(ok.to(world.device).unsqueeze(1), features, 0.0))
        readable.append(ok.to(world.device))
    local = torch.cat(values)[: len(mine)]
    return Features(gather_rows(local), gather_rows(torch.cat(readable)[: len(mine)].int()).bool())


def _batches(
    source: Source, indices: np.ndarray, preparation: Preparation, batch: int, threads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    def read(index: int) -> Tensor | None:
        try:
            return preparation.pixels(source.image(index))
        except BrokenImage:
            return None

    blank = torch.zeros(3, preparation.size, preparation.size, dtype=torch.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch].tolist()
            source.fetch(part)
            images = list(pool.map(read, part))
            ok = torch.tensor([image is not None for image in images])
            yield torch.stack([blank if image is None else image for image in images]), ok


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
