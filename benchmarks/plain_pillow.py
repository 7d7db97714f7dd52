"""Multi-crop augmentation crop by crop with Pillow, as one would first write it: the yardstick of `loader.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
VIEWS = [(224, (0.32, 1.0), 1.0, 0.0), (224, (0.32, 1.0), 0.1, 0.2), *[(98, (0.05, 0.32), 0.5, 0.0)] * 8]
"""Side in pixels, area as a share of the image, and the probabilities of blur and solarize, of each crop."""


class Photographs(Dataset):
    """Files as ten normalised crops each, over and over."""

    def __init__(self, paths: Sequence[Path], length: int) -> None:
        self.paths, self.length = paths, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Tensor]:
        return crops(self.paths[index % len(self.paths)])


def collate(samples: list[list[Tensor]]) -> list[Tensor]:
    """Batches of global and of local crops, in half precision."""
    views = [*zip(*samples)]
    return [torch.stack([crop for view in part for crop in view]).half() for part in (views[:2], views[2:])]


def crops(path: Path) -> list[Tensor]:
    image = Image.open(path).convert("RGB")
    return [_normalised(_colours(_cut(image, size, scale), *odds)) for size, scale, *odds in VIEWS]


def _cut(image: Image.Image, size: int, scale: tuple[float, float]) -> Image.Image:
    crop = image.crop(_random_box(image, scale)).resize((size, size), Image.Resampling.BICUBIC)
    return ImageOps.mirror(crop) if random.random() < 0.5 else crop


def _random_box(image: Image.Image, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random part of the image; all of it where none fits."""
    for _ in range(10):
        area = image.width * image.height * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if width <= image.width and height <= image.height:
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            return left, top, left + width, top + height
    return 0, 0, image.width, image.height


def _colours(crop: Image.Image, blur: float, solarize: float) -> Image.Image:
    if random.random() < 0.8:
        for change in random.sample([_brightness, _contrast, _saturation, _hue], 4):
            crop = change(crop)
    if random.random() < 0.2:
        crop = crop.convert("L").convert("RGB")
    if random.random() < blur:
        crop = _blur(crop, random.uniform(0.1, 2.0))
    if random.random() < solarize:
        crop = ImageOps.solarize(crop, 128)
    return crop


def _brightness(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(crop).enhance(random.uniform(0.6, 1.4))


def _contrast(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(crop).enhance(random.uniform(0.6, 1.4))


def _saturation(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Color(crop).enhance(random.uniform(0.8, 1.2))


def _hue(crop: Image.Image) -> Image.Image:
    hue, saturation, value = crop.convert("HSV").split()
    turned = np.asarray(hue) + np.array(int(random.uniform(-0.1, 0.1) * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _blur(crop: Image.Image, sigma: float) -> Image.Image:
    """9 x 9 taps at once; Pillow's own Gaussian is an approximation by boxes."""
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / sigma).square())
    kernel = torch.outer(line, line) / line.sum() ** 2
    x = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float()
    x = F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), kernel.expand(3, 1, 9, 9), groups=3)
    return Image.fromarray(x.round()[0].permute(1, 2, 0).to(torch.uint8).numpy())


def _normalised(crop: Image.Image) -> Tensor:
    x = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float().div(255)
    return (x - MEAN) / STD
