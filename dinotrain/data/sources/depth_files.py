"""Files with the distance of every pixel."""

from __future__ import annotations

import io
import zipfile
from typing import Literal

import numpy as np
from jaxtyping import Float32

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.pixel_values import read_named, read_values
from dinotrain.errors import UserError

ENDINGS: tuple[bytes, ...] = (b".png", b".npy", b".npz", b".tif", b".tiff", b".pgm", b".pfm")
"""Names of the files that are taken for depth."""

Unit = Literal["mm", "cm", "m"]

_METRES: dict[object, float] = {"mm": 0.001, "cm": 0.01, "m": 1.0}
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_KEY = "depth"  # of the array that is taken where an .npz has several


def metres_per_step(unit: object) -> float:
    """What one step of the stored numbers is, in metres: a unit by its name, or that length itself.

    Raises:
        ValueError: neither.
    """
    if isinstance(unit, str) and unit in _METRES:
        return _METRES[unit]
    if isinstance(unit, bool) or not isinstance(unit, (int, float)) or not 0 < unit < float("inf"):
        raise ValueError(f"unit: got {unit!r}, must be mm, cm, m, or the metres of one step, such as 0.0002")
    return float(unit)


def read_depth(path: bytes, name: str) -> np.ndarray:
    """The stored numbers [H, W] of a depth file: an image in grey, an array, or an .npz with one or with `depth`.

    Args:
        path: the file.
        name: its printable name.

    Raises:
        BrokenImage: it can't be read.
        UserError: it holds something else.
    """
    data = read_named(path, name)
    values = _array(data, name) if data.startswith((_NPY, _ZIP)) else read_values(data, name)
    if values.dtype.kind not in "uif":
        raise UserError(f"data.root: {name} holds {values.dtype}, expected numbers")
    return values


def to_metres(values: np.ndarray, step: float, max_depth: float | None) -> Float32[np.ndarray, "H W"]:
    """Stored numbers in metres; 0 for what is not finite, not above 0, or beyond max_depth."""
    depth = (values.astype(np.float64) * step).astype(np.float32)
    known = np.isfinite(depth) & (depth > 0)
    if max_depth is not None:
        known &= depth <= np.float32(max_depth)
    return np.where(known, depth, np.float32(0))


def _array(data: bytes, name: str) -> np.ndarray:
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else _chosen(dict(loaded), name)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BrokenImage(f"{name}: {' '.join(str(error).split()) or 'a damaged array'}") from error
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2:
        raise UserError(f"data.root: {name} holds an array of shape {list(shape)}, expected [height, width]")
    return values


def _chosen(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if _KEY not in arrays:
        raise UserError(f"data.root: {name} holds {', '.join(sorted(arrays)) or 'nothing'}, expected `{_KEY}`")
    return arrays[_KEY]
