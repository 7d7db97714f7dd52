"""Multi-crop: which parts of an image become crops, and the numbers of their photometric augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.data.photometric import Column

_TRIES = 10  # boxes drawn before the fallback to the middle of the image
_GEOMETRY_DRAWS = 4  # random numbers per box: area, aspect, top, left
_PHOTOMETRIC_DRAWS = 14  # random numbers per crop, in the order of `MultiCrop.parameters`

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""


class MultiCrop:
    """Cuts 2 global and some local crops from an image (SwAV, arXiv:2006.09882; DINOv2, arXiv:2304.07193, appendix B).

    The crops are cut and resized to bytes here. Flip, colours, blur and solarize are only drawn here, as one row of
    numbers per crop; `dinotrain.data.photometric.augment` applies them to whole batches. The first global crop is
    never solarized, local crops neither.

    Args:
        global_size, local_size: side of the crops in pixels.
        num_local: number of local crops, may be 0.
        global_scale, local_scale: least and greatest area of a crop, as a share of the image.
        ratio: least and greatest width / height of what is cut out, drawn log-uniformly.
        flip: probability of mirroring left to right.
        jitter_probability: probability that brightness, contrast, saturation and hue are changed, in random order.
        brightness, contrast, saturation: factors are drawn from max(0, 1 - x) .. 1 + x.
        hue: rotation of the hue, drawn from -x .. x turns.
        grayscale: probability of making a crop grey.
        blur_global1, blur_global2, blur_local: probability of Gaussian blur on the first and second global crop and on
            the local crops.
        blur_sigma: least and greatest standard deviation of the blur, in pixels.
        blur_kernel: taps of the blur along each axis, an odd number.
        solarize_global2: probability of inverting the bright levels of the second global crop.
        solarize_threshold: first level that counts as bright.
        original_blur: blur with one minus the probabilities above, as the code that DINOv2 was released with does,
            by mistake.
    """

    def __init__(
        self,
        *,
        global_size: int = 224,
        local_size: int = 98,
        num_local: int = 8,
        global_scale: Sequence[float] = (0.32, 1.0),
        local_scale: Sequence[float] = (0.05, 0.32),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter_probability: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grayscale: float = 0.2,
        blur_global1: float = 1.0,
        blur_global2: float = 0.1,
        blur_local: float = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        blur_kernel: int = 9,
        solarize_global2: float = 0.2,
        solarize_threshold: int = 128,
        original_blur: bool = False,
    ) -> None:
        self.global_size = _whole("global_size", global_size, 1)
        self.local_size = _whole("local_size", local_size, 1)
        self.num_local = _whole("num_local", num_local, 0)
        self.num_params = len(Column)
        """Numbers per crop, `dinotrain.data.photometric.Column`."""
        views = 2 + self.num_local
        scales = _range("global_scale", global_scale, 1.0), _range("local_scale", local_scale, 1.0)
        self._scales = [scales[0]] * 2 + [scales[1]] * self.num_local
        least, greatest = self._ratio = _range("ratio", ratio, math.inf)
        self._log_ratio = math.log(least), math.log(greatest)
        self._flip = _share("flip", flip)
        self._jitter = _share("jitter_probability", jitter_probability)
        self._set_jitter(brightness, contrast, saturation, hue)
        self._grayscale = _share("grayscale", grayscale)
        shares = {"blur_global1": blur_global1, "blur_global2": blur_global2, "blur_local": blur_local}
        blur = [_share(name, value) for name, value in shares.items()]
        if not isinstance(original_blur, bool):
            raise ValueError(f"original_blur: got {original_blur!r}, must be true or false")
        if original_blur:
            blur = [1 - value for value in blur]
        self._blur = np.array(blur[:2] + [blur[2]] * self.num_local)
        self._sigma = _range("blur_sigma", blur_sigma, math.inf)
        self._radius = self._checked_radius(blur_kernel)
        self._solarize = np.zeros(views)
        self._solarize[1] = _share("solarize_global2", solarize_global2)
        self._threshold = _whole("solarize_threshold", solarize_threshold, 0, 255)

    def into(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        rng: np.random.Generator,
        global_out: UInt8[Tensor, "2 S S 3"] | UInt8[np.ndarray, "2 S S 3"],
        local_out: UInt8[Tensor, "L s s 3"] | UInt8[np.ndarray, "L s s 3"],
        params_out: Float[Tensor, "V P"] | Float[np.ndarray, "V P"],
    ) -> None:
        """Write the crops of one image, and one row of numbers per crop, global crops first.

        The draws depend on `rng` alone, always in this order and number: 10 tries x views x 4 numbers for the boxes,
        then views x 14 for the rest.
        """
        height, width, _ = image.shape
        boxes = self.boxes(rng, height, width)
        torch.as_tensor(params_out).copy_(torch.from_numpy(self.parameters(rng)))
        pixels = _channels_first(np.require(image, np.uint8, ["C", "W"])[None])
        slots = [*_channels_first(global_out).split(1)]
        if self.num_local:  # a split of nothing is not nothing
            slots += _channels_first(local_out).split(1)
        for (top, left, high, wide), slot in zip(boxes, slots, strict=True):
            _resize(pixels[:, :, top : top + high, left : left + wide], slot)

    def boxes(self, rng: np.random.Generator, height: int, width: int) -> list[Box]:
        """Where the crops are cut: the first try that lies within the image, of tries that are uniform in area."""
        draws = rng.random((_TRIES, len(self._scales), _GEOMETRY_DRAWS))
        boxes: list[Box | None] = [
            self._box(numbers, scale, height, width) for numbers, scale in zip(draws[0].tolist(), self._scales)
        ]
        for view, scale in enumerate(self._scales):
            later = iter(range(1, _TRIES))
            while boxes[view] is None:
                attempt = next(later, None)
                if attempt is None:
                    boxes[view] = self._middle(height, width)
                else:
                    boxes[view] = self._box(draws[attempt, view].tolist(), scale, height, width)
        return [box for box in boxes if box is not None]

    def _box(self, numbers: list[float], scale: tuple[float, float], height: int, width: int) -> Box | None:
        area = height * width * (scale[0] + numbers[0] * (scale[1] - scale[0]))
        aspect = math.exp(self._log_ratio[0] + numbers[1] * (self._log_ratio[1] - self._log_ratio[0]))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < wide <= width and 0 < high <= height):
            return None
        return int(numbers[2] * (height - high + 1)), int(numbers[3] * (width - wide + 1)), high, wide

    def _middle(self, height: int, width: int) -> Box:
        """The largest box in the middle of the image with an aspect that is allowed."""
        high, wide = height, width
        if width / height < self._ratio[0]:
            high = min(height, round(width / self._ratio[0]))
        elif width / height > self._ratio[1]:
            wide = min(width, round(height * self._ratio[1]))
        return (height - high) // 2, (width - wide) // 2, max(1, high), max(1, wide)

    def parameters(self, rng: np.random.Generator) -> Float[np.ndarray, "V P"]:
        """Numbers of the photometric augmentation of all views, see `dinotrain.data.photometric.Column`."""
        draws = rng.random((len(self._scales), _PHOTOMETRIC_DRAWS))
        table = np.empty((len(draws), len(Column)), np.float32)
        table[:, Column.FLIP] = draws[:, 0] < self._flip
        table[:, Column.BRIGHTNESS : Column.HUE + 1] = self._factor_low + draws[:, 1:5] * self._factor_span
        order = self._jittered[draws[:, 6:10].argsort(1)]
        table[:, Column.FIRST : Column.FOURTH + 1] = np.where(draws[:, 5:6] < self._jitter, order, -1)
        table[:, Column.GREY] = draws[:, 10] < self._grayscale
        sigma = self._sigma[0] + draws[:, 12] * (self._sigma[1] - self._sigma[0])
        table[:, Column.SIGMA] = np.where(draws[:, 11] < self._blur, sigma, 0)
        table[:, Column.RADIUS] = self._radius
        table[:, Column.THRESHOLD] = np.where(draws[:, 13] < self._solarize, self._threshold, 256)
        return table

    def _set_jitter(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        values = [_number(name, value, 0) for name, value in strengths.items()]
        hue = _number("hue", hue, 0, 0.5)
        self._factor_low = np.array([*(max(0.0, 1 - value) for value in values), -hue])
        self._factor_span = np.array([*(1 + value for value in values), hue]) - self._factor_low
        columns = np.arange(Column.BRIGHTNESS, Column.HUE + 1)
        self._jittered = np.where(self._factor_span > 0, columns, -1)

    def _checked_radius(self, kernel: int) -> int:
        sizes = [self.global_size] * 2 + [self.local_size] * self.num_local
        blurred = [size for size, share in zip(sizes, self._blur) if share > 0]
        if _whole("blur_kernel", kernel, 1) % 2 == 0 or kernel // 2 >= min(blurred, default=math.inf):
            raise ValueError(
                f"blur_kernel: got {kernel}, must be odd, and less than twice the side of a blurred crop "
                f"({min(blurred, default='none')} px)"
            )
        return kernel // 2


# The function under F.interpolate, which can write to a given place; not part of PyTorch's public interface.
_BICUBIC = getattr(getattr(torch._C, "_nn", None), "_upsample_bicubic2d_aa", None)


def _resize(pixels: UInt8[Tensor, "1 3 h w"], out: UInt8[Tensor, "1 3 S S"]) -> None:
    """Bicubic resize with antialias, as Pillow does it.

    Bytes that lie channels-last in memory, as both arguments do, are what PyTorch has its fast kernel for.
    """
    if _BICUBIC is None:
        out.copy_(F.interpolate(pixels, out.shape[-2:], mode="bicubic", antialias=True))
    else:
        _BICUBIC(pixels, out.shape[-2:], False, None, None, out=out)


def _channels_first(pixels: np.ndarray | Tensor) -> UInt8[Tensor, "B 3 H W"]:
    """View of [B, H, W, 3]; the memory stays as it is."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2)


def _whole(name: str, value: object, least: int, greatest: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= greatest:
        expected = f"at least {least}" if greatest == math.inf else f"in {least}..{greatest}"
        raise ValueError(f"{name}: got {value!r}, must be a whole number {expected}")
    return int(value)


def _share(name: str, value: object) -> float:
    return _number(name, value, 0, 1)


def _number(name: str, value: object, least: float, greatest: float = math.inf) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value <= greatest
        or math.isinf(value)
    ):
        expected = f"at least {least}" if greatest == math.inf else f"in {least}..{greatest}"
        raise ValueError(f"{name}: got {value!r}, must be a number {expected}")
    return float(value)


def _range(name: str, value: object, greatest: float) -> tuple[float, float]:
    try:
        low, high = value  # pyright: ignore[reportGeneralTypeIssues]
        if not 0 < low <= high <= greatest or math.isinf(high):
            raise ValueError
        return float(low), float(high)
    except (TypeError, ValueError):
        limit = "" if greatest == math.inf else f" <= {greatest:g}"
        raise ValueError(f"{name}: got {value}, must be two numbers with 0 < first <= second{limit}") from None
