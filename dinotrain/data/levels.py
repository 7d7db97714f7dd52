"""Operations on whole levels 0..255 of a batch of crops: each changes them in place into whole levels again.

They are rounded as Pillow rounds, so that the images are those that the published recipes were trained on. The second
argument holds one number per crop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

RED, GREEN, BLUE = 19595, 38470, 7471
"""Luma of ITU-R BT.601 in parts of 65536, as Pillow has it."""


def flip_columns(y: Float[Tensor, "n 3 H W"], _: Float[Tensor, "n 1 1 1"]) -> None:
    """Mirror left to right."""
    y.copy_(y.flip(-1))


def flip_rows(y: Float[Tensor, "n 3 H W"], _: Float[Tensor, "n 1 1 1"]) -> None:
    """Mirror top to bottom."""
    y.copy_(y.flip(-2))


def brightness(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    """Blend with black."""
    y.mul_(factor).clamp_(0, 255).floor_()


def contrast(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    """Blend with the mean grey level of each crop."""
    mean = _luma(y).mean((1, 2, 3), keepdim=True).add_(0.5).floor_()
    y.sub_(mean).mul_(factor).add_(mean).clamp_(0, 255).floor_()


def saturation(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    """Blend with the grey version of each crop."""
    luma = _luma(y)
    y.sub_(luma).mul_(factor).add_(luma).clamp_(0, 255).floor_()


def hue(y: Float[Tensor, "n 3 H W"], turns: Float[Tensor, "n 1 1 1"]) -> None:
    """Rotate the hue in HSV space with 8 bits each, as Pillow has them, without branches.

    With V the greatest channel, C = V - least channel and the hue h in sixths of a turn:
    h = 3 -+ (1 + (V + R - G - B) / C), minus where G >= B; and back: R = V - C clamp(2 - |h - 3|),
    G = V - C clamp(|h - 2| - 1), B = V - C clamp(|h - 4| - 1), clamped to 0..1.
    """
    red, green, blue = y.split(1, dim=1)
    value = y.amax(1, keepdim=True)
    chroma = value - y.amin(1, keepdim=True)
    side = green - blue
    bent = (value + red).sub_(green).sub_(blue).div_(chroma.clamp(min=1)).add_(1).copysign_(side)
    hue = bent.neg_().add_(3).mul_(255 / 6).floor_().add_((255 * turns).trunc_())
    hue.sub_((hue / 256).floor_().mul_(256)).mul_(6 / 255)
    # The saturation C / V in whole levels, and back to C.
    chroma.mul_(255).div_(value.clamp(min=1)).floor_().mul_(value).mul_(1 / 255)
    value += 0.5
    torch.sub(2, (hue - 3).abs_(), out=red)
    torch.sub((hue - 2).abs_(), 1, out=green)
    torch.sub((hue - 4).abs_(), 1, out=blue)
    torch.sub(value, y.clamp_(0, 1).mul_(chroma), out=y).floor_()


def grey(y: Float[Tensor, "n 3 H W"], _: Float[Tensor, "n 1 1 1"]) -> None:
    """Replace all channels by the luma."""
    y.copy_(_luma(y))


def blur(y: Float[Tensor, "n 3 H W"], sigma: Float[Tensor, "n 1 1 1"], *, radius: int) -> None:
    """Gaussian of 2 * radius + 1 taps along each axis; beyond the border lies the mirror image of what is within."""
    taps = gaussian(sigma, radius).split(1, dim=-1)
    pair = torch.empty_like(y)
    for dim, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded, side = F.pad(y, padding, mode="reflect"), y.shape[dim]
        y.mul_(taps[0])
        for k in range(1, radius + 1):
            torch.add(padded.narrow(dim, radius - k, side), padded.narrow(dim, radius + k, side), out=pair)
            y.add_(pair.mul_(taps[k]))
    y.add_(0.5).floor_()


def gaussian(sigma: Float[Tensor, "*n 1"], radius: int) -> Float[Tensor, "*n taps"]:
    """The middle tap of normalised Gaussians and the `radius` taps to one side of it; sigma in pixels, above 0."""
    offsets = torch.arange(radius + 1, dtype=torch.float32, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma).square())
    return taps / (2 * taps.sum(-1, keepdim=True) - taps[..., :1])


def solarize(y: Float[Tensor, "n 3 H W"], threshold: Float[Tensor, "n 1 1 1"]) -> None:
    """Invert the levels from the threshold on."""
    inverted = (y - (threshold - 1)).clamp_(0, 1)  # 1 from the threshold on, 0 below: levels are whole
    y.add_(inverted.mul_(255 - 2 * y))


def _luma(y: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    """Brightness in whole levels; exact, as all numbers stay under 2**24."""
    red, green, blue = y.split(1, dim=1)
    return (red * RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).add_(2**15).mul_(2**-16).floor_()
