"""Pickles of plain values, read without running what else they may hold."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

# What pickled arrays and numpy's numbers are made by; the modules that have these functions have moved with numpy 2.
_MAKERS = {
    "multiarray._reconstruct": np.zeros(0).__reduce__()[0],
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_MODULES = ("numpy.core.", "numpy._core.")


class _Refused(Exception):
    """A pickle that asks for more than plain values."""


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy arrays and numbers; everything else that is not built into the format is refused."""

    def find_class(self, module: str, name: str) -> Any:
        for prefix in _MODULES:
            if module.startswith(prefix) and (maker := f"{module.removeprefix(prefix)}.{name}") in _MAKERS:
                return _MAKERS[maker]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _bytes_of
        raise _Refused(f"it asks for {module}.{name}, and only plain values are read")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside of it")


def _bytes_of(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise _Refused(f"it has bytes encoded as {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


def load_plain(data: bytes) -> Any:
    """The value in a pickle of lists, tuples, dictionaries, strings, numbers and numpy arrays.

    Raises:
        ValueError: it holds something else, or is damaged; one line that says what.
    """
    try:
        # Strings of Python 2 are bytes, in which arrays have their contents.
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except _Refused as error:
        raise ValueError(" ".join(str(error).split())) from None
    except Exception as error:  # a damaged pickle raises whatever its garbage leads to
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
