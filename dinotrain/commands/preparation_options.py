"""The keys of configs/prepare.yaml as an object."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.data.arguments import share, whole

DUPLICATES = ("keep", "exact", "near")
SPLITS = ("train", "test")
SMALLEST_SHARD = 10_000
"""Bytes."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """Where the shards go, and how they are made; `--help` says what each key is for.

    Raises:
        ValueError: with the key, what was got, and what is expected.
    """

    out: str
    shard_size: str | int = "1GB"
    resize_short: int | None = None
    quality: int = 90
    workers: int | None = None
    shuffle: bool = True
    seed: int = 0
    duplicates: str = "keep"
    near_distance: int = 4
    verify: bool = True
    max_broken: float = 1.0
    labels: bool = True
    split: str = "train"
    limit: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.out, str) or not self.out or "://" in self.out:
            raise ValueError(f"out: got {self.out!r}, must be a folder on a local disk")
        for key, choices in (("duplicates", DUPLICATES), ("split", SPLITS)):
            if (value := getattr(self, key)) not in choices:
                raise ValueError(f"{key}: got {value!r}, must be one of {', '.join(choices)}")
        for key in ("shuffle", "verify", "labels"):
            if not isinstance(value := getattr(self, key), bool):
                raise ValueError(f"{key}: got {value!r}, must be true or false")
        bounds = {"quality": (1, 100), "seed": (0, 2**63), "near_distance": (0, 10)}
        optional = {"resize_short": (1, 2**16), "workers": (1, 1024), "limit": (1, 2**62)}
        for key, (least, greatest) in {**bounds, **optional}.items():
            if key in bounds or getattr(self, key) is not None:
                whole(key, getattr(self, key), least, greatest)
        share("max_broken", self.max_broken)
        if self.shard_bytes < SMALLEST_SHARD:
            raise ValueError(f"shard_size: got {self.shard_size}, must be at least {SMALLEST_SHARD} bytes")

    @property
    def shard_bytes(self) -> int:
        """Most bytes of a shard."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", str(self.shard_size).strip().upper())
        if not match or match[2] not in _UNITS:
            raise ValueError(f"shard_size: got {self.shard_size!r}, must be a size such as 1GB, 500MB or 2GiB")
        return int(float(match[1]) * _UNITS[match[2]])

    @property
    def processes(self) -> int:
        """Workers; by default one for every core that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers is None else self.workers

    @property
    def folder(self) -> Path:
        """Where the shards go."""
        return Path(self.out).expanduser()

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that change what is written; those that don't matter with the others are left out."""
        resized, near = self.resize_short is not None, self.duplicates == "near"
        return {
            "shard_size": self.shard_bytes,
            "resize_short": self.resize_short,
            **({"quality": self.quality} if resized else {}),
            "shuffle": self.shuffle,
            **({"seed": self.seed} if self.shuffle else {}),
            "duplicates": self.duplicates,
            **({"near_distance": self.near_distance} if near else {}),
            "verify": self.verify,
            "labels": self.labels,
            "split": self.split,
            "limit": self.limit,
        }
