"""Golden numbers: what the original implementation gave (see golden/README.md)."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("DINOTRAIN_GOLDEN", Path(__file__).parent / "golden"))
"""Another set, of other sizes, can be put in place of the one that comes with the tests."""


class Golden:
    """The arrays of one file by key, as what they are used as."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = dict(file)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def number(self, key: str) -> float:
        return float(self.arrays[key])

    def size(self, key: str) -> int:
        return int(self.arrays[key])

    def flag(self, key: str) -> bool:
        return bool(self.arrays[key])

    def text(self, key: str) -> str:
        return str(self.arrays[key])

    def texts(self, key: str) -> list[str]:
        return [str(item) for item in self.arrays[key]]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose keys start with `prefix`, by the rest of the key."""
        return {key.removeprefix(prefix): self.tensor(key) for key in self.arrays if key.startswith(prefix)}


@functools.lru_cache(maxsize=4)
def load(name: str) -> Golden:
    """The golden file of a name."""
    return Golden(name)


def names(pattern: str) -> list[str]:
    """Names of the golden files that match, for parametrized tests."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.npz"))


def flat_name(name: str) -> str:
    """A parameter name without block chunks: `blocks.1.4.norm1.bias` is `blocks.4.norm1.bias`."""
    parts = name.split(".")
    where = parts.index("blocks") + 1 if "blocks" in parts else len(parts)
    if where + 1 < len(parts) and parts[where + 1].isdigit():
        del parts[where]
    return ".".join(parts)


def assert_near(got: Tensor, expected: Tensor, absolute: float, relative: float = 0.0) -> None:
    torch.testing.assert_close(got, expected, atol=absolute, rtol=relative, check_dtype=False)
