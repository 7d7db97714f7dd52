"""Photometric augmentation: draws, as one row of numbers per crop, what `dinotrain.data.photometric` does to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64

from dinotrain.data import arguments
from dinotrain.data.photometric import Column

_DRAWS = 14  # random numbers per crop, in the order of `Augment.parameters`; one for the vertical flip comes after all


class Augment:
    """Draws flip, colours, blur and solarizing (BYOL, arXiv:2006.07733; DINOv2, arXiv:2304.07193, appendix B).

    The first global crop is never solarized, local crops neither.

    Args:
        flip: probability of mirroring left to right.
        vertical_flip: probability of mirroring top to bottom, for pictures without an up.
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

    num_params = len(Column)
    """Numbers per crop, `dinotrain.data.photometric.Column`."""

    def __init__(
        self,
        *,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
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
        self._flip = arguments.share("flip", flip)
        self._vertical_flip = arguments.share("vertical_flip", vertical_flip)
        self._jitter = arguments.share("jitter_probability", jitter_probability)
        self._set_jitter(brightness, contrast, saturation, hue)
        self._grayscale = arguments.share("grayscale", grayscale)
        shares = {"blur_global1": blur_global1, "blur_global2": blur_global2, "blur_local": blur_local}
        blur = [arguments.share(name, value) for name, value in shares.items()]
        if not isinstance(original_blur, bool):
            raise ValueError(f"original_blur: got {original_blur!r}, must be true or false")
        self._blur = [1 - value for value in blur] if original_blur else blur
        self._sigma = arguments.interval("blur_sigma", blur_sigma)
        if arguments.whole("blur_kernel", blur_kernel, 1) % 2 == 0:
            raise ValueError(f"blur_kernel: got {blur_kernel}, must be an odd number")
        self._radius = blur_kernel // 2
        self._solarize = arguments.share("solarize_global2", solarize_global2)
        self._threshold = arguments.whole("solarize_threshold", solarize_threshold, 0, 255)

    def check(self, global_size: int, local_size: int, num_local: int) -> None:
        """Raise `ValueError` if the blur reaches further than a crop of these sizes, in pixels, that may be blurred."""
        sizes = [global_size] * 2 + [local_size] * min(num_local, 1)
        least = min((size for size, share in zip(sizes, self._blur) if share > 0), default=math.inf)
        if self._radius >= least:
            raise ValueError(
                f"blur_kernel: got {2 * self._radius + 1}, must be less than twice the side of a blurred crop "
                f"({least} px)"
            )

    def parameters(self, rng: np.random.Generator, num_local: int) -> Float32[np.ndarray, "V P"]:
        """Numbers for the 2 global and then the local crops of one image, see `dinotrain.data.photometric.Column`."""
        return self.table(self.draw(rng, num_local))

    def draw(self, rng: np.random.Generator, num_local: int) -> Float64[np.ndarray, "V D"]:
        """Random numbers in 0..1 for the crops of one image, always as many."""
        draws = rng.random((2 + num_local, _DRAWS)), rng.random((2 + num_local, 1))
        return np.concatenate(draws, axis=1)

    def table(self, draws: Float64[np.ndarray, "*B V D"]) -> Float32[np.ndarray, "*B V P"]:
        """What `parameters` returns, from what `draw` returned, for many images at once."""
        num_local = draws.shape[-2] - 2
        blur = np.array(self._blur[:2] + self._blur[2:] * num_local)
        solarize = np.array([0, self._solarize] + [0] * num_local)
        table = np.empty((*draws.shape[:-1], self.num_params), np.float32)
        table[..., Column.FLIP] = (draws[..., 0] < self._flip) + 2 * (draws[..., _DRAWS] < self._vertical_flip)
        table[..., Column.BRIGHTNESS : Column.HUE + 1] = self._factor_low + draws[..., 1:5] * self._factor_span
        order = self._jittered[draws[..., 6:10].argsort(-1)]
        table[..., Column.FIRST : Column.FOURTH + 1] = np.where(draws[..., 5:6] < self._jitter, order, -1)
        table[..., Column.GREY] = draws[..., 10] < self._grayscale
        sigma = self._sigma[0] + draws[..., 12] * (self._sigma[1] - self._sigma[0])
        table[..., Column.SIGMA] = np.where(draws[..., 11] < blur, sigma, 0)
        table[..., Column.RADIUS] = self._radius
        table[..., Column.THRESHOLD] = np.where(draws[..., 13] < solarize, self._threshold, 256)
        return table

    def _set_jitter(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        values = [arguments.number(name, value, 0) for name, value in strengths.items()]
        hue = arguments.number("hue", hue, 0, 0.5)
        self._factor_low = np.array([*(max(0.0, 1 - value) for value in values), -hue])
        self._factor_span = np.array([*(1 + value for value in values), hue]) - self._factor_low
        columns = np.arange(Column.BRIGHTNESS, Column.HUE + 1)
        self._jittered = np.where(self._factor_span > 0, columns, -1)
