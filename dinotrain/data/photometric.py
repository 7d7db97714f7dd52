"""Flip, colour jitter, grey, blur, solarize and normalisation of whole batches of crops, on their device.

Every operation gives whole levels of 0..255, rounded as Pillow rounds, so that the images are those that the published
recipes were trained on (BYOL, arXiv:2006.07733, appendix B; DINOv2, arXiv:2304.07193, appendix B). Each works on just
the rows that need it: before it, the rows are sorted by what they need, so that it can work in place on a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

_CACHE_LEVELS = 2**19  # levels augmented at once on a CPU: few enough to stay in the cache
_RED, _GREEN, _BLUE = 19595, 38470, 7471  # luma of ITU-R BT.601 in parts of 65536, as Pillow has it


class Column(IntEnum):
    """What the columns of a parameter table hold."""

    FLIP = 0
    """1: mirrored left to right."""
    BRIGHTNESS = 1
    """Factor, from 0 (black); 1 changes nothing."""
    CONTRAST = 2
    """Factor, from 0 (uniform grey); 1 changes nothing."""
    SATURATION = 3
    """Factor, from 0 (grey); 1 changes nothing."""
    HUE = 4
    """Turns that the hue is rotated by, -0.5..0.5."""
    FIRST = 5
    """Which of BRIGHTNESS .. HUE is applied first, -1 for none; the other three places likewise."""
    SECOND = 6
    THIRD = 7
    FOURTH = 8
    GREY = 9
    """1: made grey."""
    SIGMA = 10
    """Standard deviation of the Gaussian blur in pixels; 0 for no blur."""
    RADIUS = 11
    """Pixels that the blur reaches to each side, less than a side of the crop; the same in all blurred rows."""
    THRESHOLD = 12
    """Levels from this one on are inverted; 256 inverts none."""


def augment(
    crops: UInt8[Tensor, "M H W 3"], params: Float[Tensor, "M P"], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "M 3 H W"]:
    """Augment and normalise a batch of crops: flip, colour jitter, grey, blur, solarize, in this order.

    Args:
        crops: RGB pixels.
        params: one row per crop, see `Column`. What is done to which rows is worked out on the host: leave the table
            there, for with a table on a GPU the host waits here for all that the device has to do.
        mean, std: statistics of the three channels for the normalisation, in 0..1.

    Returns:
        (levels / 255 - mean) / std in fp32, contiguous.
    """
    if params.shape[1] != len(Column):
        raise ValueError(f"params: got {params.shape[1]} columns, expected {len(Column)}")
    out = torch.empty((len(crops), 3, *crops.shape[1:3]), dtype=torch.float32, device=crops.device)
    host = params.float().cpu()
    together = max(1, len(crops) if crops.is_cuda else _CACHE_LEVELS // max(1, crops[:1].numel()))
    for start in range(0, len(crops), together):
        rows = slice(start, start + together)
        _augment(crops[rows], host[rows], out[rows])
        for channel in range(3):
            out[rows, channel].mul_(1 / (255 * std[channel])).sub_(mean[channel] / std[channel])
    return out


def _augment(crops: UInt8[Tensor, "m H W 3"], params: Float[Tensor, "m P"], out: Float[Tensor, "m 3 H W"]) -> None:
    """Write the augmented levels of some crops to `out`."""
    table = params.numpy()
    stages, restore = _plan(table, crops.device)
    radius = int(table[table[:, Column.SIGMA] > 0, Column.RADIUS].max(initial=0))
    operations = {**_OPERATIONS, Column.SIGMA: partial(_blur, radius=radius)}
    y = crops.permute(0, 3, 1, 2).contiguous().float()
    for stage in stages:
        y = y.index_select(0, stage.order)
        for column, start, stop in stage.slices:
            operations[column](y[start:stop], stage.values[start:stop])
    torch.index_select(y, 0, restore, out=out)


class _Stage(NamedTuple):
    """What is done to all rows at one place in the order of operations."""

    order: Int64[Tensor, "m"]
    """How to sort the rows that the stage before has left."""
    values: Float[Tensor, "m 1 1 1"]
    """The operation's parameter for each of the rows thus sorted."""
    slices: list[tuple[Column, int, int]]
    """Operations, each named by the column of its parameter, with the first row and the one after the last."""


def _plan(table: Float[np.ndarray, "m P"], device: torch.device) -> tuple[list[_Stage], Int64[Tensor, "m"]]:
    """Stages, and how to sort the rows back in the end; computed on the host and sent to the device in one go."""
    sent, slices = [], []
    current = np.arange(len(table))
    for wanted in _wanted(table):
        order = np.argsort(wanted[current], kind="stable")
        current = current[order]
        here = wanted[current]
        firsts = np.flatnonzero(np.diff(here, prepend=-1))  # rows of column -1, which need nothing, come first
        if len(firsts):
            columns = [Column(column) for column in here[firsts].tolist()]
            slices.append([*zip(columns, firsts.tolist(), [*firsts[1:].tolist(), len(here)])])
            sent += [order, table[current, here]]
    tensor = torch.from_numpy(np.array([*sent, np.argsort(current)], np.float64))
    tensor = (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
    orders, values = tensor[::2].long(), tensor[1::2].float()[..., None, None, None]
    return [_Stage(*stage) for stage in zip(orders, values, slices)], orders[-1]


def _wanted(table: Float[np.ndarray, "m P"]) -> Int[np.ndarray, "stages m"]:
    """Column of the operation that each row needs at each stage, -1 for none."""
    wanted = np.full((8, len(table)), -1)
    wanted[0, table[:, Column.FLIP] > 0] = Column.FLIP
    wanted[1:5] = table[:, Column.FIRST : Column.FOURTH + 1].T
    wanted[5, table[:, Column.GREY] > 0] = Column.GREY
    wanted[6, table[:, Column.SIGMA] > 0] = Column.SIGMA
    wanted[7, table[:, Column.THRESHOLD] < 256] = Column.THRESHOLD
    return wanted


# The operations below change whole levels y in place into whole levels.


def _flip(y: Float[Tensor, "n 3 H W"], _: Float[Tensor, "n 1 1 1"]) -> None:
    y.copy_(y.flip(-1))


def _luma(y: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    """Brightness in whole levels; exact, as all numbers stay under 2**24."""
    red, green, blue = y.split(1, dim=1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).add_(2**15).mul_(2**-16).floor_()


def _brightness(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    y.mul_(factor).clamp_(0, 255).floor_()


def _contrast(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    mean = _luma(y).mean((1, 2, 3), keepdim=True).add_(0.5).floor_()
    y.sub_(mean).mul_(factor).add_(mean).clamp_(0, 255).floor_()


def _saturation(y: Float[Tensor, "n 3 H W"], factor: Float[Tensor, "n 1 1 1"]) -> None:
    luma = _luma(y)
    y.sub_(luma).mul_(factor).add_(luma).clamp_(0, 255).floor_()


def _hue(y: Float[Tensor, "n 3 H W"], turns: Float[Tensor, "n 1 1 1"]) -> None:
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


def _grey(y: Float[Tensor, "n 3 H W"], _: Float[Tensor, "n 1 1 1"]) -> None:
    y.copy_(_luma(y))


def _blur(y: Float[Tensor, "n 3 H W"], sigma: Float[Tensor, "n 1 1 1"], *, radius: int) -> None:
    """Gaussian of 2 * radius + 1 taps along each axis; beyond the border lies the mirror image of what is within."""
    offsets = torch.arange(radius + 1, dtype=torch.float32, device=y.device)
    taps = torch.exp(-0.5 * (offsets / sigma).square())
    taps = (taps / (2 * taps.sum(-1, keepdim=True) - taps[..., :1])).split(1, dim=-1)
    pair = torch.empty_like(y)
    for dim, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded, side = F.pad(y, padding, mode="reflect"), y.shape[dim]
        y.mul_(taps[0])
        for k in range(1, radius + 1):
            torch.add(padded.narrow(dim, radius - k, side), padded.narrow(dim, radius + k, side), out=pair)
            y.add_(pair.mul_(taps[k]))
    y.add_(0.5).floor_()


def _solarize(y: Float[Tensor, "n 3 H W"], threshold: Float[Tensor, "n 1 1 1"]) -> None:
    inverted = (y - (threshold - 1)).clamp_(0, 1)  # 1 from the threshold on, 0 below: levels are whole
    y.add_(inverted.mul_(255 - 2 * y))


_OPERATIONS = {
    Column.FLIP: _flip,
    Column.BRIGHTNESS: _brightness,
    Column.CONTRAST: _contrast,
    Column.SATURATION: _saturation,
    Column.HUE: _hue,
    Column.GREY: _grey,
    Column.THRESHOLD: _solarize,
}
