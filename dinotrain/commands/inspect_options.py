"""The settings of the inspection of a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PICTURE_FORMATS = (".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Keys `inspect.*`: how much is looked at, and where the results go.

    `images`: files that are read and decoded, null for all. `broken`: a list of those that can't be used, as
    `name<TAB>reason`. `pictures`: images in the picture of crops, which is the file `out`. `seconds`: time of each
    measurement of throughput, 0 for none; `max_workers`: most worker processes tried, null for one per core.
    """

    images: int | None = 500
    broken: str | None = None
    pictures: int = 6
    out: str = "inspection.png"
    seconds: float = 5.0
    max_workers: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("pictures", 0), ("seconds", 0), ("max_workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"inspect.{name}: got {value}, expected at least {least}")
        if Path(self.out).suffix.lower() not in PICTURE_FORMATS:
            raise ValueError(f"inspect.out: got {self.out!r}, expected a file name with {', '.join(PICTURE_FORMATS)}")
