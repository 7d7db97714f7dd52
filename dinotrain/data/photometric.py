"""Flip, colour jitter, grey, blur, solarize and normalisation of whole batches of crops.

Every operation gives whole levels of 0..255 (BYOL, arXiv:2006.07733, appendix B; DINOv2, arXiv:2304.07193,
appendix B), so that the levels can be made in one place, `levels_into`, and be normalised in another, `normalize`, with
the same result as in one go, `augment`. Each operation works on just the crops that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from dinotrain.data import levels

_CACHE_LEVELS = 2**19  # levels augmented at once on a CPU: few enough to stay in the cache


class Column(IntEnum):
    """What the columns of a parameter table hold."""

    FLIP = 0
    """1: mirrored left to right, 2: top to bottom, 3: both."""
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
    table = _checked(params)
    wanted = _wanted(table)
    if (wanted < 0).all():
        return normalize(crops, mean=mean, std=std)
    out = torch.empty((len(crops), 3, *crops.shape[1:3]), device=crops.device)
    for rows, y in _augmented(crops, table, wanted, np.arange(len(table))):
        _normalize(y, mean, std)
        out.index_copy_(0, rows, y)
    return out


def levels_into(crops: UInt8[Tensor, "M H W 3"], params: Float[Tensor, "M P"]) -> None:
    """Augment a batch of crops in place, and leave the normalisation to `normalize`.

    Args:
        crops: RGB pixels.
        params: as for `augment`.
    """
    table = _checked(params)
    wanted = _wanted(table)
    busy = np.flatnonzero((wanted >= 0).any(0))
    for rows, y in _augmented(crops, table, wanted, busy):
        for channel in range(3):  # faster than all at once
            crops[..., channel].index_copy_(0, rows, y[:, channel].to(torch.uint8))


def normalize(
    crops: UInt8[Tensor, "M H W 3"], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "M 3 H W"]:
    """(levels / 255 - mean) / std in fp32, contiguous; mean and std of the three channels in 0..1."""
    out = torch.empty((len(crops), 3, *crops.shape[1:3]), device=crops.device)
    for piece in _pieces(len(crops), crops):
        out[piece] = _planes(crops[piece])
        _normalize(out[piece], mean, std)
    return out


def _checked(params: Float[Tensor, "M P"]) -> Float[np.ndarray, "M P"]:
    if params.shape[1] != len(Column):
        raise ValueError(f"params: got {params.shape[1]} columns, expected {len(Column)}")
    return params.float().cpu().numpy()


def _normalize(y: Float[Tensor, "m 3 H W"], mean: Sequence[float], std: Sequence[float]) -> None:
    for channel in range(3):
        y[:, channel].mul_(1 / (255 * std[channel])).sub_(mean[channel] / std[channel])


def _augmented(
    crops: UInt8[Tensor, "M H W 3"],
    table: Float[np.ndarray, "M P"],
    wanted: Int[np.ndarray, "stages M"],
    rows: Int64[np.ndarray, "n"],
) -> Iterator[tuple[Int64[Tensor, "m"], Float[Tensor, "m 3 H W"]]]:
    """The given rows, in pieces of which most need the same operations: their numbers and augmented levels."""
    rows = rows[np.lexsort(wanted[_SORTED_BY][:, rows])]
    radius = int(table[table[:, Column.SIGMA] > 0, Column.RADIUS].max(initial=0))
    operations = {**_OPERATIONS, Column.SIGMA: partial(levels.blur, radius=radius)}
    for piece in _pieces(len(rows), crops):
        first, stages, last = _plan(table, wanted, rows[piece], crops.device)
        y = _planes(crops.index_select(0, first))
        for stage in stages:
            y = y if stage.order is None else y.index_select(0, stage.order)
            for key, start, stop in stage.runs:
                operations[key](y[start:stop], stage.values[start:stop])
        yield last, y


def _pieces(count: int, crops: UInt8[Tensor, "M H W 3"]) -> Iterator[slice]:
    """Rows to be worked on at once: all on a GPU; on a CPU several small crops, but one large one."""
    together = count if crops.is_cuda else _CACHE_LEVELS // max(1, crops[:1].numel())
    together = together if together > 3 else 1
    return (slice(start, start + together) for start in range(0, count, together))


def _planes(crops: UInt8[Tensor, "m H W 3"]) -> Float[Tensor, "m 3 H W"]:
    return torch.stack(crops.unbind(-1), 1).float()


_FLIP_ROWS = len(Column)
"""Key of the second operation that one column asks for."""


def _wanted(table: Float[np.ndarray, "m P"]) -> Int[np.ndarray, "stages m"]:
    """Keys of the operations that each row needs, in this order, -1 for none: the column of the parameter."""
    wanted = np.full((9, len(table)), -1)
    flip = table[:, Column.FLIP]
    wanted[0, flip % 2 == 1] = Column.FLIP
    wanted[1, flip >= 2] = _FLIP_ROWS
    wanted[2:6] = table[:, Column.FIRST : Column.FOURTH + 1].T
    wanted[6, table[:, Column.GREY] > 0] = Column.GREY
    wanted[7, table[:, Column.SIGMA] > 0] = Column.SIGMA
    wanted[8, table[:, Column.THRESHOLD] < 256] = Column.THRESHOLD
    return wanted


_SORTED_BY = [0, 1, 8, 6, 7, 5, 4, 3, 2]
"""Places in the order of operations, the one that matters most last: what comes first in it takes longest."""


class _Stage(NamedTuple):
    """What is done at one place in the order of operations."""

    order: Int64[Tensor, "m"] | None
    """How to sort the rows that the stage before has left; None to leave them."""
    values: Float[Tensor, "m 1 1 1"]
    """The operation's parameter for each of the rows thus sorted."""
    runs: list[tuple[int, int, int]]
    """Keys of operations, each with the first of neighbouring rows that need it and the one after the last."""


def _plan(
    table: Float[np.ndarray, "M P"],
    wanted: Int[np.ndarray, "stages M"],
    rows: Int64[np.ndarray, "m"],
    device: torch.device,
) -> tuple[Int64[Tensor, "m"], list[_Stage], Int64[Tensor, "m"]]:
    """How to order some rows at first, the stages, and the order that they leave.

    All is worked out on the host and sent to the device in one go. The rows are sorted by what they need next where
    that spares operations: each works in place on a slice.
    """
    sent, sorts, runs = [rows], [], []
    for stage in wanted:
        here = stage[rows]
        if not (here >= 0).any():
            continue
        order = np.argsort(here, kind="stable")
        sorts.append(np.count_nonzero(np.diff(here)) > np.count_nonzero(np.diff(here[order])))
        if sorts[-1]:
            rows, here = rows[order], here[order]
        firsts = np.flatnonzero(np.diff(here, prepend=-2))
        keys, ends = here[firsts].tolist(), [*firsts[1:].tolist(), len(here)]
        runs.append([run for run in zip(keys, firsts.tolist(), ends) if run[0] >= 0])
        sent += [order, table[rows, here % len(Column)]]
    tensor = torch.from_numpy(np.array([*sent, rows], np.float64))
    tensor = (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
    orders, values = tensor[1::2].long(), tensor[2::2].float()[..., None, None, None]
    stages = [_Stage(order if sort else None, *rest) for sort, order, rest in zip(sorts, orders, zip(values, runs))]
    return tensor[0].long(), stages, orders[-1]


_OPERATIONS = {
    Column.FLIP: levels.flip_columns,
    _FLIP_ROWS: levels.flip_rows,
    Column.BRIGHTNESS: levels.brightness,
    Column.CONTRAST: levels.contrast,
    Column.SATURATION: levels.saturation,
    Column.HUE: levels.hue,
    Column.GREY: levels.grey,
    Column.THRESHOLD: levels.solarize,
}
