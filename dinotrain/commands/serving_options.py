"""The keys of configs/serve.yaml as an object."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.commands.prediction_options import DEVICES, PRECISIONS
from dinotrain.data.arguments import number, whole
from dinotrain.intake.fetch import Fetcher


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Where and how a model is served; `configs/serve.yaml` says what each key is for.

    Raises:
        ValueError: with the key, what was got, and what is expected.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    size: int | None = None
    crop_fraction: float | None = None
    max_batch: int = 32
    max_wait_ms: float = 5.0
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for key, known in (("device", DEVICES), ("precision", PRECISIONS)):
            if (got := getattr(self, key)) not in known:
                raise ValueError(f"{key}: got {got!r}, expected one of {', '.join(known)}")
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host: got {self.host!r}, expected an address of this machine, such as 127.0.0.1")
        whole("port", self.port, 0, 65535)
        whole("max_batch", self.max_batch, 1)
        number("max_wait_ms", self.max_wait_ms, 0, 60_000)
        if self.threads is not None:
            whole("threads", self.threads, 1, 1024)
        if self.size is not None:
            whole("size", self.size, 1)
        if self.crop_fraction is not None:
            number("crop_fraction", self.crop_fraction, 0.01, 1)


@dataclass(frozen=True, kw_only=True)
class UrlOptions:
    """Whether and how images are read of URLs.

    Raises:
        ValueError: with the key, what was got, and what is expected.
    """

    allow: bool = False
    seconds: float = 10.0
    redirects: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.allow, bool):
            raise ValueError(f"allow: got {self.allow!r}, expected true or false")
        _ = self.fetcher

    @property
    def fetcher(self) -> Fetcher | None:
        """What reads them; None if nothing does."""
        fetcher = Fetcher(seconds=self.seconds, redirects=self.redirects)
        return fetcher if self.allow else None
