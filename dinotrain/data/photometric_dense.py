"""The photometric augmentation without branches, for `torch.compile`: every operation for every crop.

The result is that of `dinotrain.data.photometric.augment`, which works on just the crops that need an operation. Here
an operation that a crop does not need gets numbers that change nothing, so that a whole batch is one fixed graph.

The order of the four colour operations differs among the crops. Only the contrast looks at more than one pixel; the
others come before or after it, so that all colours take two passes over memory: what comes before, with the sum that
the mean grey level is made of, and what comes after. Brightness and saturation are both a blend with some grey (black,
luma), and share places: as many before as after the hue, in either pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor

from dinotrain.data.levels import BLUE, GREEN, RED, gaussian
from dinotrain.data.photometric import Column

Planes = tuple[Tensor, Tensor, Tensor]
"""Levels of red, green and blue, each [M, H, W]."""

Augmentation = Callable[[UInt8[Tensor, "M H W 3"], Float[Tensor, "M P"]], Float[Tensor, "M 3 H W"]]
"""From crops, on their device, and the table of their numbers, on the host, to the input of a network."""

_PLACES = 2  # for blends, on either side of the hue
_PASS = 4 * _PLACES + 2  # columns of a pass: a factor and a share of luma for each blend, turns, whether there is a hue
_SCALE, _SHIFT, _BEFORE = 5, 8, 11  # first columns of a program's parts, after flips, contrast, grey and threshold
_AFTER, _TAPS = _BEFORE + _PASS, _BEFORE + 2 * _PASS


def compiled_augment(*, mean: Sequence[float], std: Sequence[float]) -> Augmentation:
    """The augmentation and normalisation of `dinotrain.data.photometric.augment`, compiled.

    The numbers are the same, save that a level may be rounded to its neighbour where a device divides or adds less
    exactly. Nothing waits for the device. Each shape of a batch is compiled when it is first met, which takes a while.

    Args:
        mean, std: statistics of the three channels for the normalisation, in 0..1.
    """
    return partial(_augment, torch.compile(dense, dynamic=False, fullgraph=True), mean, std)


def _augment(
    function: Callable[[Tensor, Tensor], Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    crops: UInt8[Tensor, "M H W 3"],
    params: Float[Tensor, "M P"],
) -> Float[Tensor, "M 3 H W"]:
    if not len(crops):
        return torch.empty((0, 3, *crops.shape[1:3]), device=crops.device)
    numbers = program(params, mean=mean, std=std)
    if crops.is_cuda:
        numbers = numbers.pin_memory().to(crops.device, non_blocking=True)
    return function(crops, numbers)


def program(params: Float[Tensor, "M P"], *, mean: Sequence[float], std: Sequence[float]) -> Float32[Tensor, "M K"]:
    """A table of parameters, on the host, as the numbers that `dense` takes: all of them, to be sent in one go.

    Raises:
        ValueError: if the table has other columns than `Column`, or a row has a colour operation twice.
    """
    if params.shape[1] != len(Column):
        raise ValueError(f"params: got {params.shape[1]} columns, expected {len(Column)}")
    table = params.float().cpu().numpy()
    flip = table[:, Column.FLIP]
    contrast, passes = _colour_passes(table)
    scale = [1 / (255 * x) for x in std] + [m / s for m, s in zip(mean, std)]
    columns = [flip % 2, flip >= 2, contrast, table[:, Column.GREY] > 0, table[:, Column.THRESHOLD]]
    known = np.column_stack([*columns, np.tile(scale, (len(table), 1)), passes])
    sigma = torch.from_numpy(table[:, [Column.SIGMA]]).clamp(min=1e-3)  # which leaves only the middle tap
    taps = gaussian(sigma, int(table[:, Column.RADIUS].max()))
    return torch.cat([torch.from_numpy(known.astype(np.float32)), taps], 1)


def _colour_passes(table: Float[np.ndarray, "M P"]) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M K"]]:
    """Factors of the contrast, and the numbers of what comes before and after it, see `_blends_and_hue`."""
    order = table[:, Column.FIRST : Column.FOURTH + 1].astype(np.int64)
    contrast = np.ones(len(table))
    passes = np.tile([1.0, 0.0] * (2 * _PLACES) + [0.0, 0.0], (len(table), 2, 1))
    used = np.zeros((len(table), 2, 2), np.int64)  # blends in either pass, on either side of the hue
    after, turned = np.zeros(len(table), np.int64), np.zeros((len(table), 2), np.int64)
    for key in (Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION, Column.HUE):
        if ((order == key).sum(1) > 1).any():
            raise ValueError(f"params: got {key.name.lower()} twice in one row, expected it once")
    for keys in order.T:
        is_contrast, is_hue = keys == Column.CONTRAST, keys == Column.HUE
        contrast[is_contrast] = table[is_contrast, Column.CONTRAST]
        after[is_contrast] = 1
        passes[is_hue, after[is_hue], -2:] = np.column_stack([table[is_hue, Column.HUE], np.ones(is_hue.sum())])
        turned[is_hue, after[is_hue]] = 1
        blend = np.flatnonzero((keys == Column.BRIGHTNESS) | (keys == Column.SATURATION))
        side = turned[blend, after[blend]]
        place = 2 * (_PLACES * side + used[blend, after[blend], side])
        passes[blend, after[blend], place] = table[blend, keys[blend]]
        passes[blend, after[blend], place + 1] = keys[blend] == Column.SATURATION
        used[blend, after[blend], side] += 1
    return contrast, passes.reshape(len(table), -1)


def dense(crops: UInt8[Tensor, "M H W 3"], numbers: Float32[Tensor, "M K"]) -> Float32[Tensor, "M 3 H W"]:
    """What is compiled; `numbers` are those of `program`, on the device of the crops.

    Levels that have to be stored between two passes over memory are stored as bytes.
    """
    columns = numbers[:, :, None, None]
    flip_columns, flip_rows, contrast, grey, threshold = columns[:, :_SCALE].unbind(1)
    before, after = columns[:, _BEFORE:_AFTER].unbind(1), columns[:, _AFTER:_TAPS].unbind(1)
    crops = torch.where(flip_columns[..., None] > 0, crops.flip(2), crops)
    crops = torch.where(flip_rows[..., None] > 0, crops.flip(1), crops)
    red, green, blue = (plane.float() for plane in crops.unbind(-1))
    stored = [plane.to(torch.uint8) for plane in _blends_and_hue((red, green, blue), before)]
    middle = _whole_luma(stored).float().mean((1, 2), keepdim=True).add(0.5).floor()
    red, green, blue = (plane.float() for plane in stored)
    planes = _blends_and_hue(_blend((red, green, blue), contrast, middle), after)
    luma = _luma(planes)
    coloured = torch.stack([torch.where(grey > 0, luma, plane).to(torch.uint8) for plane in planes], 1)
    taps = columns[:, _TAPS : _TAPS + min(crops.shape[1:3]), None].unbind(1)  # no blur reaches further than a crop
    y = _blur(coloured.float(), taps)
    y = torch.where(y >= threshold[:, None], 255 - y, y)
    return y * columns[:, _SCALE:_SHIFT] - columns[:, _SHIFT:_BEFORE]


def _whole_luma(planes: Sequence[UInt8[Tensor, "M H W"]]) -> Int32[Tensor, "M H W"]:
    """In integers: were the bytes made fp32 here as well, it would be fp32 that is stored."""
    red, green, blue = (plane.int() for plane in planes)
    return (red * RED + green * GREEN + blue * BLUE + 2**15) >> 16


def _blends_and_hue(planes: Planes, numbers: Sequence[Tensor]) -> Planes:
    """One pass: blends, the hue, blends; numbers are a factor and the share of luma for each blend, turns, whether."""
    *blends, turns, hued = numbers
    pairs = [*zip(blends[::2], blends[1::2])]
    for factor, share in pairs[:_PLACES]:
        planes = _blend(planes, factor, _luma(planes) * share)
    planes = _hue(planes, turns, hued)
    for factor, share in pairs[_PLACES:]:
        planes = _blend(planes, factor, _luma(planes) * share)
    return planes


def _blend(planes: Planes, factor: Tensor, other: Tensor) -> Planes:
    red, green, blue = (((plane - other) * factor + other).clamp(0, 255).floor() for plane in planes)
    return red, green, blue


def _luma(planes: Planes) -> Tensor:
    red, green, blue = planes
    return ((red * RED + green * GREEN + blue * BLUE + 2**15) * 2**-16).floor()


def _hue(planes: Planes, turns: Tensor, hued: Tensor) -> Planes:
    """See `dinotrain.data.levels.hue`."""
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    bent = ((value + red - green - blue) / chroma.clamp(min=1) + 1).copysign(green - blue)
    hue = ((3 - bent) * (255 / 6)).floor() + (255 * turns).trunc()
    hue = (hue - (hue * 2**-8).floor() * 256) * (6 / 255)
    # A quotient below a whole number is below it by 1 / 255 or more: so much for devices that divide less exactly.
    chroma = (chroma * 255 / value.clamp(min=1) + 2**-10).floor() * value * (1 / 255)
    ramps = 2 - (hue - 3).abs(), (hue - 2).abs() - 1, (hue - 4).abs() - 1
    turned = [(value + 0.5 - ramp.clamp(0, 1) * chroma).floor() for ramp in ramps]
    red, green, blue = (torch.where(hued > 0, new, old) for new, old in zip(turned, planes))
    return red, green, blue


def _blur(y: Float32[Tensor, "M 3 H W"], taps: Sequence[Tensor]) -> Float32[Tensor, "M 3 H W"]:
    """See `dinotrain.data.levels.blur`; `taps` are the middle one and those to one side of it, each [M, 1, 1, 1]."""
    middle, *others = taps
    radius = len(others)
    for dim, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded, side = F.pad(y, padding, mode="reflect"), y.shape[dim]
        y = y * middle
        for k, tap in enumerate(others, 1):
            y = y + (padded.narrow(dim, radius - k, side) + padded.narrow(dim, radius + k, side)) * tap
    return (y + 0.5).floor()
